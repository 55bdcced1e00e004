"""Hooks on gradients: they hold nobody, and what is gone takes nothing."""

import gc
import weakref

import pytest
import torch
from torch import nn

from galore.trainer.optim import GaLoreAdamW, galore_groups, hand_over_int8, project_in_backward, to_int8
from galore.trainer.optim.parts.hooks import after_gradient, shielded

CASES = {
    "full": {"rank": None},
    "projected": {},
    "in the hook": {"by_factors": False},
    "with the whole gradient": {"residual": "frugal"},
    "int8 weights": {"int8": True},
}


def stepped(rank: int | None = 4, by_factors: bool = True, int8: bool = False, **settings) -> list[weakref.ref]:
    """What a model and an optimizer were that took a step."""
    model = nn.Sequential(nn.Linear(32, 48, bias=False), nn.Tanh(), nn.Linear(48, 32, bias=False))
    if int8:
        for layer in (model.bfloat16()[0], model[2]):
            to_int8(layer)
    groups = galore_groups(model, rank=rank, targets=["0", "2"]) if rank else model.named_parameters()
    optimizer = GaLoreAdamW(groups, lr=1e-2, **settings)
    if int8:
        hand_over_int8(model, optimizer)
    elif by_factors and rank:
        project_in_backward(model, optimizer)
    model(torch.randn(8, 32, dtype=torch.bfloat16 if int8 else torch.float32)).square().sum().backward()
    optimizer.step()
    return [weakref.ref(each) for each in (model, optimizer, *model.parameters())]


@pytest.mark.parametrize("case", CASES)
def test_what_nobody_holds_is_freed(case):
    left = stepped(**CASES[case])
    gc.collect()
    assert not [each() for each in left if each() is not None]


def test_a_gradient_stays_where_the_optimizer_is_gone():
    weight = nn.Parameter(torch.ones(3))
    optimizer = GaLoreAdamW([weight], lr=1e-2)
    weight.sum().backward()
    assert weight.grad is None
    del optimizer
    gc.collect()
    weight.sum().backward()
    assert weight.grad is not None


def test_a_hook_calls_until_it_is_removed():
    class Receiver:
        def __init__(self) -> None:
            self.taken = []

        def take(self, parameter: torch.Tensor) -> None:
            self.taken.append(parameter)

    weight, receiver = nn.Parameter(torch.ones(3)), Receiver()
    handle = after_gradient(weight, receiver.take)
    weight.sum().backward()
    assert [each is weight for each in receiver.taken] == [True]
    handle.remove()
    weight.sum().backward()
    assert len(receiver.taken) == 1


def test_nothing_is_recorded_whether_gradients_are_on_or_off():
    @shielded
    def doubled(x: torch.Tensor, *, more: float = 0.0) -> torch.Tensor:
        """Twice x."""
        return 2 * x + more

    x = torch.ones(3, requires_grad=True)
    with torch.no_grad():
        off = doubled(x, more=1.0)
    on = doubled(x)
    assert (on.requires_grad, off.requires_grad, torch.is_grad_enabled()) == (False, False, True)
    assert (on[0], off[0], doubled.__doc__) == (2.0, 3.0, "Twice x.")
