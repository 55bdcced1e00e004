"""Bytes that a rank gives into the collectives of a step where weights lie in parts, by kind, from the shapes alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from torch import nn

from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optim.int8_linear import int8_layers
from galore.trainer.optim.parts.shards import Shard
from galore.trainer.optim.parts.subspace.base import Subspace
from galore.trainer.optim.projected import ProjectedSlot
from galore.trainer.optim.ranks import HELD
from galore.trainer.optim.slot import FullSlot

GATHERED = ("weights", "moments")  # each rank gives its own part, and gets that of all others
SCATTERED = ("gradients", "projected sums")  # each gives a whole, and gets its part of the sum
Parts = dict[int, tuple[nn.Parameter, int]]  # by id: a tensor, and the dimension it is cut along


def units(model: nn.Module, blocks: Sequence[nn.Module], optimizer: GaLoreAdamW) -> list[Parts]:
    """What is gathered together: each block, and at last all else."""
    cut = {id(slot.parameter): 0 if slot.transposed else 1 for slot in optimizer.projected}
    for layer in int8_layers(model):
        cut[id(layer.weight_scale)] = cut.get(id(layer.weight), 0)
    found, seen = list[Parts](), set[int]()
    for unit in (*blocks, model):
        scales = [layer.weight_scale for layer in int8_layers(unit)]
        held = {id(each): (each, cut.get(id(each), 0)) for each in (*unit.parameters(), *scales)}
        found.append({key: value for key, value in held.items() if key not in seen})  # type: ignore[misc]
        seen |= held.keys()
    return found


def parted_traffic(
    optimizer: GaLoreAdamW, gathered: Sequence[Parts], size: int, micro_batches: int, clock: int | None = None
) -> Counter[str]:
    """Kind → bytes of the step that `clock` others came before; without it, of a step that finds no subspace."""
    found: Counter[str] = Counter()
    turns = {slot for slot in optimizer.projected if clock is not None and slot.schedule.due(clock)}
    sent = [_projected(slot, slot in turns, size, clock) for slot in optimizer.projected]
    for kinds in sent:
        found.update(kinds)
    passing = sum(slot.refresh.passes(clock == 0) for slot in turns)
    spread = sum("projected sums" in kinds for kinds in sent)
    found["flags"] = HELD * (len(optimizer.slots) + spread + passing)
    times = micro_batches * (2 if passing else 1)
    *blocks, rest = gathered
    found["weights"] = times * (
        2 * sum(own_bytes(block.values(), size) for block in blocks) + own_bytes(rest.values(), size)
    )
    full = [slot for slot in optimizer.slots.values() if not isinstance(slot, ProjectedSlot)]
    found["gradients"] = times * sum(padded_bytes(slot, size) for slot in full)
    return found


def seconds(sent: Counter[str], size: int, bytes_per_second: float) -> float:
    """Time of rings at a link's nominal rate: of a gather, a scatter, or a sum that all get, which is both."""
    share = (size - 1) / size
    factors = dict.fromkeys(GATHERED, size - 1.0) | dict.fromkeys(SCATTERED, share)
    return sum(factors.get(kind, 2 * share) * count for kind, count in sent.items()) / bytes_per_second


def _projected(slot: ProjectedSlot, turn: bool, size: int, clock: int | None) -> dict[str, int]:
    kinds, subspace = slot.sends(turn), slot.subspace
    columns = Shard(1, subspace.b, 0, size).chunk
    if "projected sums" in kinds:
        kinds["projected sums"] = slot.rank * columns * size * slot.sum.dtype.itemsize
    in_sketch = "sketches" in kinds and type(subspace).test_matrix is Subspace.test_matrix
    if clock and (in_sketch or (subspace.warm and kinds.keys() & {"bases", "whole gradients"})):
        kinds["moments"] = slot.rank * columns * 4
    return kinds


def own_bytes(parts: Collection[tuple[nn.Parameter, int]], size: int) -> int:
    """What the first rank holds of them."""
    return sum(
        Shard(dim, each.shape[dim], 0, size).chunk * (each.numel() // each.shape[dim]) * each.element_size()
        for each, dim in parts
    )


def padded_bytes(slot: FullSlot, size: int) -> int:
    """A gradient with its rows filled up to a multiple of the ranks, in the dtype it is summed in."""
    shape = slot.parameter.shape
    return Shard(0, shape[0], 0, size).chunk * size * (slot.parameter.numel() // shape[0]) * slot.sum.dtype.itemsize
