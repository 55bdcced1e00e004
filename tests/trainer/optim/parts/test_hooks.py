"""Hooks on gradients: they hold nobody, and what is gone takes nothing."""

import gc
import threading
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
    "sums on the host": {"residual": "frugal", "gradient_sums": "host"},
    "a random subspace": {"proj_type": "random"},
    "with a schedule": {"scheduled": True},
}


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 48, bias=False), nn.Tanh(), nn.Linear(48, 32, bias=False))


def stepped(
    model: nn.Module,
    rank: int | None = 4,
    by_factors: bool = True,
    int8: bool = False,
    scheduled: bool = False,
    **settings,
) -> list[weakref.ref]:
    """What a model and an optimizer were that took a step."""
    if int8:
        for layer in (model.bfloat16()[0], model[2]):
            to_int8(layer)
    groups = galore_groups(model, rank=rank, targets=["0", "2"]) if rank else model.named_parameters()
    optimizer = GaLoreAdamW(groups, lr=1e-2, **settings)
    if int8:
        hand_over_int8(model, optimizer)
    elif by_factors and rank:
        project_in_backward(model, optimizer)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step) if scheduled else None
    model(torch.randn(8, 32, dtype=torch.bfloat16 if int8 else torch.float32)).square().sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    if scheduler is not None:
        scheduler.step()
    return [weakref.ref(each) for each in (model, optimizer, *model.parameters())]


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("case", CASES)
def test_what_nobody_holds_is_freed(case):
    left = stepped(network(), **CASES[case])
    gc.collect()
    assert not [each() for each in left if each() is not None]


@pytest.mark.parametrize("case", CASES)
def test_an_optimizer_goes_with_its_last_name_while_the_model_stays(case, no_collector):
    model = network()
    assert stepped(model, **CASES[case])[1]() is None
    assert model[0].weight is not None


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


def told() -> list[str]:
    return [each.fp32_precision for each in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)]


def by_name(precision: str) -> None:
    torch.set_float32_matmul_precision(precision)


def by_backend(precision: str) -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"


@pytest.fixture
def untold():
    before = told()
    yield
    torch.set_float32_matmul_precision("highest")
    for each, precision in zip((torch.backends.cuda.matmul, torch.backends.mkldnn.matmul), before, strict=True):
        each.fp32_precision = precision


@pytest.mark.parametrize("tell", [by_name, by_backend])
@pytest.mark.parametrize("precision", ["high", "medium"])
def test_products_take_all_bits_and_the_callers_precision_comes_back(untold, precision, tell):
    tell(precision)
    callers, seen = told(), []

    @shielded
    def look(*ahead) -> None:
        seen.append(told())
        for each in ahead:
            each()
        seen.append(told())

    with torch.no_grad():
        look(look)
        with pytest.raises(ZeroDivisionError):
            look(lambda: 1 // 0)
    assert told() == callers
    entered, left = threading.Event(), threading.Event()
    other = threading.Thread(target=look, args=(entered.set, left.wait))
    other.start()
    entered.wait()
    look()
    assert set(told()) <= {"ieee"}
    look(left.set, other.join)
    assert told() == callers
    assert {each for both in seen for each in both} <= {"ieee"}
