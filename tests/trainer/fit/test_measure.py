"""Real steps, counted by the allocator itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from galore.trainer.fit.measure import Measurement, _cpu_allocator, measure
from galore.trainer.memory.trace.trace import Trace
from galore.trainer.recipe.load import LoadedRecipe

CPU = torch.device("cpu")
MIB = 2**20


def test_the_allocator_counts_what_no_operation_shows() -> None:
    """The peak, upon the weights; not what is given back, and not what was there before."""
    old = torch.ones(MIB, dtype=torch.uint8)
    found = Measurement(Trace(), 0, "")
    with _cpu_allocator(found, 1000):
        first = torch.ones(3 * MIB, dtype=torch.uint8)
        del first
        state = torch.get_rng_state()  # which a dispatch mode does not see
        second = torch.ones(2 * MIB, dtype=torch.uint8) + old[0]
    assert found.allocator_bytes == 1000 + 4 * MIB + state.nbytes
    assert "allocator" in found.basis
    assert second.nbytes == 2 * MIB


def test_nothing_allocated() -> None:
    found = Measurement(Trace(), 0, "")
    with _cpu_allocator(found, 7):
        pass
    assert found.allocator_bytes == 7


@pytest.mark.parametrize("method", ["galore", "full"])
def test_every_kind_of_step_is_carried_out(tiny: Callable[..., LoadedRecipe], method: str) -> None:
    loaded = tiny(f"optim.method={method}", "train.global_batch_size=4")
    found = measure(loaded, CPU)
    steps = dict.fromkeys(what.partition(":")[0] for _, what in found.trace.marks)
    refresh = ["refresh step"] if method == "galore" else []
    assert list(steps) == ["model", "first step", "ordinary step", *refresh, "evaluation"]
    peak = max(found.trace.requested())
    assert peak <= found.allocator_bytes < 1.05 * peak
    weights = [each.nbytes for each in found.trace.allocations if each.category == "weights"]
    assert len(weights) == 21 + 2  # parameters, and the buffers of RoPE


def test_no_more_micro_batches_than_tell_something_new(tiny: Callable[..., LoadedRecipe]) -> None:
    found = measure(tiny("optim.method=full", "train.global_batch_size=20"), CPU)
    assert [what for _, what in found.trace.marks].count("first step: forward") == 4
