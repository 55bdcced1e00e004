"""Lazy refresh: a settled layer waits twice as long each time, a turning one keeps its turns; nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optim.parts.subspace.schedule import LONGEST

GAP, SHAPE, RANK = 2, (12, 20), 3
Gradient = Callable[[int], Tensor]


def settled(step: int) -> Tensor:
    """Always of the same three leading directions."""
    draw = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(12, 12, generator=draw)).Q
    return left @ (3.0 ** -torch.arange(12.0)[:, None] * torch.randn(SHAPE, generator=draw))


def turning(step: int) -> Tensor:
    """Of three others in every gap."""
    gap = (step + 1) // GAP
    first = 3 * (gap % 4)
    gradient = torch.zeros(SHAPE)
    gradient[first : first + 3] = torch.randn(3, 20, generator=torch.Generator().manual_seed(gap))
    return gradient


def optimizer_of(layers: int, **options: Any) -> GaLoreAdamW:
    named = [(f"layer{i}", nn.Parameter(torch.zeros(SHAPE))) for i in range(layers)]
    defaults = {"proj_type": "svd", "update_proj_gap": GAP, "stagger": False, "refresh_overlap": 0.5}
    return GaLoreAdamW([{"params": named, "rank": RANK}], **{**defaults, **options})


def refreshes(optimizer: GaLoreAdamW, gradients: list[Gradient], steps: range) -> list[list[int]]:
    """Per layer, the steps in which it finds a subspace."""
    found: list[list[int]] = [[] for _ in gradients]
    for step in steps:
        for index, (slot, gradient) in enumerate(zip(optimizer.projected, gradients, strict=True)):
            found[index] += [step] if slot.due else []
            (slot.parameter * gradient(step)).sum().backward()
        due = sum(slot.due for slot in optimizer.projected)
        optimizer.step()
        assert optimizer.report is not None
        assert optimizer.report.refreshed == due
    return found


@pytest.mark.parametrize("projector_dtype", ["float32", "int4"])
@pytest.mark.parametrize(
    "options", [{}, {"proj_type": "randomized"}, {"proj_type": "dct", "refresh": "summed"}, {"proj_type": "power"}]
)
def test_a_settled_layer_waits_twice_as_long_up_to_the_longest(options: dict[str, Any], projector_dtype: str) -> None:
    optimizer = optimizer_of(1, projector_dtype=projector_dtype, **options)
    expected, wait = [0, GAP], 2 * GAP
    while len(expected) < 9:
        expected.append(expected[-1] + wait)
        wait = min(2 * wait, LONGEST * GAP)
    assert expected[-1] - expected[-2] == expected[-2] - expected[-3] == LONGEST * GAP
    assert refreshes(optimizer, [settled], range(expected[-1] + 1)) == [expected]


@pytest.mark.parametrize("projector_dtype", ["float32", "int4"])
def test_a_turning_layer_refreshes_every_gap(projector_dtype: str) -> None:
    optimizer = optimizer_of(1, projector_dtype=projector_dtype)
    assert refreshes(optimizer, [turning], range(20)) == [list(range(0, 20, GAP))]


def test_a_layer_that_turns_again_takes_every_turn_again() -> None:
    optimizer = optimizer_of(1)

    def later(step: int) -> Tensor:
        return settled(step) if step < 7 else turning(step)

    assert refreshes(optimizer, [later], range(24)) == [[0, 2, 6, 14, 16, 18, 20, 22]]


@pytest.mark.parametrize("stagger", [False, True])
def test_the_turns_of_other_layers_are_untouched(stagger: bool) -> None:
    gradients = [turning, settled, turning]
    lazy = refreshes(optimizer_of(3, stagger=stagger), gradients, range(30))
    eager = refreshes(optimizer_of(3, stagger=stagger, refresh_overlap=None), gradients, range(30))
    assert (lazy[0], lazy[2]) == (eager[0], eager[2])
    assert set(lazy[1]) < set(eager[1])
    assert len(lazy[1]) < len(eager[1]) / 2


@pytest.mark.parametrize("threshold", [0.2, 0.6])
def test_the_threshold_is_a_share_of_the_subspace(threshold: float) -> None:
    """One of three directions stays: an overlap of 1/3."""
    optimizer = optimizer_of(1, refresh_overlap=threshold)

    def third(step: int) -> Tensor:
        gradient = turning(step)
        gradient[0] = 10.0
        return gradient

    found = refreshes(optimizer, [third], range(12))
    assert (found == [list(range(0, 12, GAP))]) == (threshold == 0.6)


@pytest.mark.parametrize("options", [{}, {"projector_dtype": "int4", "proj_type": "randomized", "state_dtype": "8bit"}])
@pytest.mark.parametrize("broken", [3, 7, 13])
def test_a_resumed_run_waits_as_long_and_ends_in_the_same_bits(options: dict[str, Any], broken: int) -> None:
    gradients: list[Gradient] = [settled, turning]
    unbroken, first, second = (optimizer_of(2, **options) for _ in range(3))
    expected = refreshes(unbroken, gradients, range(40))
    before = refreshes(first, gradients, range(broken))
    for ours, theirs in zip(second.projected, first.projected, strict=True):
        ours.parameter.data.copy_(theirs.parameter.data)
    second.load_state_tensors({k: v.clone() for k, v in first.state_tensors().items()}, clock=broken)
    after = refreshes(second, gradients, range(broken, 40))
    assert [a + b for a, b in zip(before, after, strict=True)] == expected
    assert all(torch.equal(p.parameter, q.parameter) for p, q in zip(unbroken.projected, second.projected, strict=True))
