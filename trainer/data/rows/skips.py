"""Positions that skip ahead within a row, so that short rows teach the distances of long ones (PoSE, arXiv 2309.10400).

A row of s tokens is cut into chunks at random. Chunk i stands u_i positions further on, 0 ≤ u_1 ≤ … ≤ u_n, drawn
evenly, u_n = target_length - s: the last token is at target_length - 1 always, and two tokens in different chunks are
as far apart as they were, or any distance further. A chunk for every token is that of Ruoss et al. (arXiv 2305.16843).
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import torch

from galore.trainer.data.batch import Batch
from galore.trainer.data.rows.order import Ids, drawn
from galore.trainer.data.rows.tokenbatch import TokenBatch
from galore.trainer.recipe.schema.train import PositionSkips


def skipping(batch: Batch, skips: PositionSkips | None, seed: int, step: int) -> Batch:
    """The rows (b, s) of an optimizer step with the positions that `skips` asks for, functions of (seed, step, row)."""
    if skips is None:
        return batch
    batch = cast(TokenBatch, batch)
    rows, length = batch.input_ids.shape
    return replace(batch, skips=torch.from_numpy(offsets(rows, length, skips, seed, step)))


def offsets(rows: int, length: int, skips: PositionSkips, seed: int, step: int) -> Ids:
    """How much further on each token stands, (rows, length), ascending along a row."""
    room, inner = skips.target_length - length, skips.chunks - 1
    numbers = drawn((2, rows, inner), seed, step)
    ahead = np.sort(numbers[0] % np.uint64(room + 1), axis=1).astype(np.int64)
    cuts = (numbers[1] % np.uint64(length - 1)).astype(np.int64) + 1
    ahead = np.concatenate((ahead, np.full((rows, 1), room)), axis=1)
    begins = np.zeros((rows, length), np.int64)
    np.add.at(begins, (np.arange(rows)[:, None], cuts), 1)
    return np.take_along_axis(ahead, begins.cumsum(1), axis=1)
