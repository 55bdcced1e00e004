"""A parameter's gradients have one taker: a new one takes over, and no optimizer steps without them unnoticed."""

import gc
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from galore.trainer.optim import GaLoreAdamW, galore_groups, project_in_backward


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 48, bias=False), nn.Tanh(), nn.Linear(48, 32, bias=False))


def galore(net: nn.Module, by_factors: bool = False) -> GaLoreAdamW:
    optimizer = GaLoreAdamW(galore_groups(net, 4, targets=["0", "2"]), lr=1e-2)
    if by_factors:
        project_in_backward(net, optimizer)
    return optimizer


def moved(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> list[bool]:
    """Whether each weight moves in so many steps."""
    before = [p.detach().clone() for p in net.parameters()]
    for _ in range(steps):
        backward(net)
        optimizer.step()
        optimizer.zero_grad()
    return [not torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True)]


def backward(net: nn.Module) -> Tensor:
    loss = net(torch.randn(8, 32)).square().mean()
    loss.backward()
    return loss


@pytest.fixture(autouse=True)
def _no_collector():
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("by_factors", [False, True])
def test_a_dropped_optimizer_takes_nothing_of_the_next_one(by_factors):
    net = network()
    optimizer = galore(net, by_factors)
    moved(net, optimizer)
    del optimizer
    assert moved(net, torch.optim.AdamW(net.parameters())) == [True, True]


FIRST = """
import gc, weakref
gc.disable()
import torch
from galore.trainer.optim import GaLoreAdamW
weight = torch.nn.Parameter(torch.ones(3))
optimizer = GaLoreAdamW([weight])
left = weakref.ref(optimizer)
del optimizer
print(left() is None)
"""


def test_the_first_optimizer_of_a_process_goes_as_any_other():
    told = subprocess.run([sys.executable, "-c", FIRST], capture_output=True, text=True, check=True)
    assert told.stdout == "True\n"


@pytest.mark.parametrize("by_factors", [False, True])
def test_a_cell_that_is_run_twice_takes_over(by_factors):
    net = network()
    optimizer = galore(net, by_factors)
    backward(net)
    first, optimizer = optimizer, galore(net, by_factors)
    assert not first.attached
    assert not any(slot.has_gradient for slot in first.slots.values())
    assert moved(net, optimizer) == [True, True]


def test_optimizers_of_other_parameters_stay():
    net = network()
    first = GaLoreAdamW([("0", net[0].weight)], lr=1e-2)
    second = GaLoreAdamW([("2", net[2].weight)], lr=1e-2)
    assert first.attached
    assert second.attached
    backward(net)
    first.step()
    second.step()
    assert (first.clock, second.clock) == (1, 1)


def test_who_let_go_can_take_the_gradients_again():
    net = network()
    first = galore(net)
    moved(net, first)
    second = galore(net)
    moved(net, second)
    first.attach()
    assert not second.attached
    assert moved(net, first) == [True, True]
    assert first.clock == 6


def test_attached_already_nothing_happens():
    net = network()
    optimizer = galore(net)
    optimizer.attach()
    backward(net)
    optimizer.clip_grad_norm_(None)
    norm = optimizer.clip_grad_norm_(None)
    assert norm == pytest.approx(float(sum(slot.squared_norm() for slot in optimizer.projected)) ** 0.5)


@pytest.mark.parametrize("by_factors", [False, True])
@pytest.mark.parametrize("make", [lambda net: torch.optim.AdamW(net.parameters()), galore])
def test_a_step_without_the_gradients_that_another_has_is_refused(make, by_factors):
    net = network()
    other = make(net)
    owner = galore(net, by_factors)
    backward(net)
    with pytest.raises(
        RuntimeError, match=r"no gradient of 0.weight: a GaLoreAdamW that still lives has taken it; call rel"
    ):
        other.step()
    owner.release()
    assert moved(net, other) == [True, True]


def test_a_step_of_a_part_that_has_its_gradients_is_taken():
    net = network()
    owner = GaLoreAdamW([("0", net[0].weight)], lr=1e-2)
    other = torch.optim.SGD([net[2].weight], lr=1e-2)
    backward(net)
    other.step()
    owner.step()
    assert owner.clock == 1
