"""Sums of whole gradients on the host: the same bits, and nothing of them on the device between micro-batches."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor, nn

from galore.kernels.host import Host
from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optim.parts.hostsum import HostSum, sums_on
from galore.trainer.optim.parts.storage import GradientSum

RULES = {
    "fira": {"residual": "fira"},
    "apollo": {"residual": "apollo", "proj_type": "random"},
    "frugal, bfloat16 sums": {"residual": "frugal", "accumulator_dtype": torch.bfloat16},
    "completed": {"residual": "alice", "transport": "complete", "switch": 0.5},
    "orthogonal": {"residual": "orthogonal"},
    "galore": {},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_terms_add_up_to_the_same_bits(dtype: torch.dtype) -> None:
    host = Host(torch.device("cpu"))
    ours, theirs = sums_on(host, 15)(dtype), sums_on(None, 15)(dtype)
    assert isinstance(ours, HostSum)
    assert type(theirs) is GradientSum
    torch.manual_seed(0)
    for _ in range(3):
        for term in torch.randn(4, 3, 5).bfloat16():
            assert ours.exists == theirs.exists
            ours.add(term.clone())
            theirs.add(term.clone())
            assert torch.equal(ours.squared_norm(), theirs.squared_norm())
        one, other = ours.take(), theirs.take()
        assert one.dtype == other.dtype == dtype
        assert torch.equal(one, other)
        assert not ours.exists
    assert host.held == host.most == 15 * dtype.itemsize


def test_one_gradient_at_most_stays_on_the_device_until_it_is_sent() -> None:
    host = Host(torch.device("cpu"))
    sums = [HostSum(torch.float32, host, 4) for _ in range(3)]
    terms = [torch.ones(2, 2) for _ in sums]
    alive = [weakref.ref(term) for term in terms]
    for each in sums:
        each.add(terms.pop(0))
    assert [one() is not None for one in alive] == [False, False, True]
    assert sums[0].here is None
    sums[0].take()
    assert alive[2]() is None


@pytest.mark.parametrize("rule", RULES)
def test_a_step_is_the_same_to_the_bit(rule: str) -> None:
    weights: list[list[Tensor]] = []
    for where in ("device", "host"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 6))
        groups = [
            {"params": [model[0].weight], "rank": 3, "update_proj_gap": 2},
            {"params": [*model[2].parameters(), model[0].bias]},
        ]
        optimizer = GaLoreAdamW(groups, max_grad_norm=0.5, gradient_sums=where, **RULES[rule])
        for _ in range(3):
            for x in torch.randn(3, 8, 12):
                model(x).square().mean().backward()
            optimizer.step()
        weights.append([each.detach() for each in model.parameters()])
        assert (optimizer.host is not None) == (where == "host")
    assert optimizer.host is not None
    of_residual = 0 if rule == "galore" else model[0].weight.nbytes
    assert optimizer.host.held == (of_residual + model[2].weight.nbytes) / (2 if "bfloat16" in rule else 1)
    assert all(torch.equal(*pair) for pair in zip(*weights, strict=True))
