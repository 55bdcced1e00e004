"""Columns that are sampled by turns: all of them come; what a turn remembers, holds and is clipped by. Equations: test_presets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optim.parts.refresh import sampled_width
from galore.trainer.optim.projected import ProjectedSlot

GAP, RANK = 3, 4


def optimizer_for(*weights: nn.Parameter, **options: Any) -> GaLoreAdamW:
    params = [(f"weight{number}", weight) for number, weight in enumerate(weights)]
    defaults = {"inner": "muon", "residual": "sampled", "update_proj_gap": GAP, "momentum": 0.8, "proj_type": "svd"}
    return GaLoreAdamW([{"params": params, "rank": RANK}], lr=1e-2, **{**defaults, **options})


def slot_of(optimizer: GaLoreAdamW, weight: nn.Parameter) -> ProjectedSlot:
    slot = optimizer.slots[weight]
    assert isinstance(slot, ProjectedSlot)
    return slot


def take(optimizer: GaLoreAdamW, **gradients: Tensor) -> None:
    for slot in optimizer.projected:
        slot.parameter.grad = gradients.get(slot.name)
    optimizer.step()


@pytest.mark.parametrize("share", [0.01, 0.2, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("b", [8, 11, 40])
def test_every_column_has_its_turn_in_as_few_as_there_can_be(b: int, share: float) -> None:
    weights = [nn.Parameter(torch.ones(8, b)) for _ in range(3)]
    optimizer = optimizer_for(*weights, sampled_share=share)
    for weight in weights:
        sampled, seen, width = slot_of(optimizer, weight).refresh.sampled, torch.zeros(b), sampled_width(share, b)
        assert sampled is not None
        for turn in range(-(-b // width)):
            optimizer.param_groups[0]["clock"] = turn * GAP
            assert seen[sampled.block].shape == (width,)
            seen[sampled.block] += 1
        assert seen.min() == 1
        assert seen.sum() - b < width
        optimizer.param_groups[0]["clock"] = 0


def test_layers_begin_at_different_columns() -> None:
    weights = [nn.Parameter(torch.ones(8, 40)) for _ in range(5)]
    optimizer = optimizer_for(*weights)
    blocks = [sampled.block.start for w in weights if (sampled := slot_of(optimizer, w).refresh.sampled)]
    assert sorted(blocks) == [0, 8, 16, 24, 32]


@pytest.mark.parametrize("shape", [(8, 40), (40, 8)])
def test_a_turn_that_begins_without_a_gradient_begins_from_nothing_all_the_same(shape: tuple[int, int]) -> None:
    """As that of an expert that got no token: another block's momentum is none of its own."""
    torch.manual_seed(0)
    gradients = [torch.randn(shape) for _ in range(3)]
    weight, other = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.ones(shape))
    late = optimizer_for(weight, other, stagger=False)
    for gradient in gradients:
        take(late, weight0=gradient, weight1=torch.ones(shape))
    take(late, weight1=torch.ones(shape))  # the first step of a turn
    state, sampled = slot_of(late, weight).state, slot_of(late, weight).refresh.sampled
    assert sampled is not None
    before, at = state["outside"].clone(), sampled.block
    assert before.norm() > 0
    gradient = torch.zeros(shape)
    (gradient if shape[0] < shape[1] else gradient.mT)[:, at.stop :] = 1.0  # none of it in the columns whose turn it is
    take(late, weight0=gradient, weight1=torch.ones(shape))
    assert not state["outside"].any()


def test_what_is_clipped_is_what_is_applied() -> None:
    """Sampled columns as they are, of the others what the subspace has."""
    weight = nn.Parameter(torch.ones(8, 20))
    optimizer = optimizer_for(nn.Parameter(torch.ones(8, 20)), weight, sampled_share=0.3)
    torch.manual_seed(0)
    gradient = torch.randn(8, 20, dtype=torch.float64)
    weight.grad = gradient.float()
    norm = optimizer.clip_grad_norm_(1.0)
    assert norm == optimizer.clip_grad_norm_(1.0), "asked twice"
    basis = slot_of(optimizer, weight).refresh.basis
    assert basis is not None
    p = basis["projector"].double()
    seen = p @ p.mT @ gradient
    seen[:, 6:12] = gradient[:, 6:12]
    assert norm == pytest.approx(float(seen.norm()), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_more_of_a_gradient_is_held_than_its_projection_and_a_share_of_its_columns(dtype: torch.dtype) -> None:
    weight = nn.Parameter(torch.ones(8, 40))
    optimizer = optimizer_for(weight, proj_type="randomized", accumulator_dtype=dtype)
    for _ in range(2):
        take(optimizer, weight0=torch.randn(8, 40))
    weight.grad = torch.randn(8, 40)
    optimizer.clip_grad_norm_(None)
    held = optimizer.memory_by_category()
    assert (held["gradients"], held["accumulators"]) == (0, (RANK * 40 + 8 * 8) * dtype.itemsize)


def test_at_full_rank_it_is_muon_in_the_subspace() -> None:
    results = []
    for residual in ("sampled", "none"):
        weight = nn.Parameter(torch.ones(RANK, 20))
        torch.manual_seed(0)
        optimizer = optimizer_for(weight, residual=residual, scale=1.0)
        for _ in range(5):
            take(optimizer, weight0=torch.randn(RANK, 20))
        results.append(weight.detach())
    assert torch.equal(*results)
