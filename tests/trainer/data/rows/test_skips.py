"""Positions that skip ahead: where they lie, and what they are a function of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from galore.trainer.data.rows.skips import offsets, skipping
from galore.trainer.data.rows.tokenbatch import TokenBatch
from galore.trainer.recipe.schema.train import PositionSkips

SHAPE = (2000, 16)


def asked(chunks: int = 2, target_length: int = 100) -> PositionSkips:
    return PositionSkips(target_length=target_length, chunks=chunks)


@pytest.mark.parametrize("chunks", [2, 3, 16])
def test_rows_ascend_in_as_many_chunks_and_end_at_the_last_position(chunks: int) -> None:
    found = offsets(*SHAPE, asked(chunks), 42, 1)
    steps = np.diff(found, axis=1)
    assert found.shape == SHAPE
    assert (steps >= 0).all()
    assert (found[:, 0] >= 0).all()
    assert (found[:, -1] == 100 - 16).all()
    assert (steps > 0).sum(1).max() == (chunks - 1 if chunks < 16 else (steps > 0).sum(1).max())


def test_every_cut_and_every_distance_is_as_likely() -> None:
    """Twenty thousand rows: 1,333 of each of 15 cuts, 235 of each of 85 distances; within five standard deviations."""
    found = offsets(20_000, 16, asked(), 7, 3)
    cuts = np.bincount((np.diff(found) > 0).argmax(1)[found[:, 0] < 84], minlength=15)
    distances = np.bincount(84 - found[:, 0], minlength=85)
    for counts in (cuts, distances):
        assert len(counts) in (15, 85)
        assert np.abs(counts - counts.mean()).max() < 5 * counts.mean() ** 0.5


def test_what_is_drawn_is_a_function_of_seed_step_and_row() -> None:
    ids = torch.zeros(8, 16, dtype=torch.long)

    def drawn(seed: int, step: int) -> torch.Tensor:
        batch = skipping(TokenBatch(ids, ids, tuple(range(8))), asked(), seed, step)
        assert batch.skips is not None
        return batch.skips

    assert torch.equal(drawn(42, 5), drawn(42, 5))
    assert len({each.numpy().tobytes() for each in drawn(42, 5)}) == 8
    for seed, step in ((42, 6), (43, 5)):
        assert not torch.equal(drawn(42, 5), drawn(seed, step))


def test_a_row_keeps_its_positions_however_a_batch_is_cut() -> None:
    ids = torch.arange(64).view(4, 16)
    whole = skipping(TokenBatch(ids, ids, (3, 1, 4, 5)), asked(), 42, 9)
    assert whole.skips is not None
    for rows, part in ((slice(1, 3), whole.rows(1, 3)), (slice(1, None, 2), whole.shard(1, 2))):
        assert part.skips is not None
        assert torch.equal(part.skips, whole.skips[rows])


def test_without_skips_a_batch_is_as_it_was() -> None:
    batch = TokenBatch(torch.zeros(1, 4), torch.zeros(1, 4), (0,))
    assert skipping(batch, None, 42, 1) is batch
