"""The norm of all that a step applies, in a few launches: the bits of one norm after another."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from galore.trainer.optim import GaLoreAdamW, galore_groups
from galore.trainer.optim.clipping import squared_norm

LAYERS = 12
ONE = {"_foreach_norm": 1, "stack": 1, "_to_copy": 1, "pow": 1, "cumsum": 1, "select": 1}


class Counts(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.calls[name] = self.calls.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def accumulated(**settings):
    """Slots with two micro-batches in them, complete; every layer of another size."""
    torch.manual_seed(0)
    net = nn.ModuleList(nn.Linear(16 + 3 * index, 24) for index in range(LAYERS))
    optimizer = GaLoreAdamW(
        galore_groups(net, rank=4, targets=[str(each) for each in range(LAYERS)]), lr=1e-2, **settings
    )
    for _ in range(2):
        for layer in net:
            (10 ** torch.rand(()) * layer(torch.randn(5, layer.in_features)).square().sum()).backward()
    slots = list(optimizer.slots.values())
    for slot in slots:
        slot.complete()
    return optimizer, slots


def one_after_another(slots):
    return sum((slot.squared_norm() for slot in slots), torch.zeros((), dtype=torch.float64))


@pytest.mark.parametrize("settings", [{}, {"residual": "fira"}, {"gradient_sums": "host", "residual": "fira"}])
def test_the_bits_are_those_of_one_norm_after_another(settings):
    _, slots = accumulated(**settings)
    assert float(squared_norm(slots)) == float(one_after_another(slots)) > 0


def test_launches_do_not_grow_with_the_slots():
    _, slots = accumulated()
    for some in (slots[:3], slots):
        with torch.no_grad(), Counts() as counts:
            squared_norm(some)
        assert counts.calls == ONE


def test_of_nothing_it_is_nothing_and_of_what_is_not_finite_no_number():
    assert float(squared_norm([])) == 0
    optimizer, slots = accumulated()
    optimizer.projected[1].refresh.poisoned = True
    assert math.isnan(float(squared_norm(slots)))
