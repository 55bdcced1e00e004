"""Tensors that lie in parts on several ranks, as checkpoints name them: the whole, so that any number of ranks goes on.

Codes of 8-bit moments are whole, too. Their scales belong to blocks of 256 consecutive codes. Where the part of a rank
is made of whole blocks of the tensor, the scales are those of one process. Where it is not, a rank has blocks of its
own, and the scales are stored rank after rank as `exp_avg_absmax_of_4`: four ranks go on with the same bits, another
number rounds the values anew.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from galore.kernels.family import StateDtype
from galore.kernels.storage.blockwise import BLOCK_SIZE
from galore.kernels.storage.moments import storage
from galore.trainer.checkpoint.tensorfile import Parted, Stored
from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optim.parts.inner import MOMENTS
from galore.trainer.optim.parts.shards import Shard, Sharing, local, shard_of
from galore.trainer.optim.parts.storage import new_state, write_moment
from galore.trainer.optim.projected import ProjectedSlot
from galore.trainer.optim.slot import FullSlot

Named = dict[str, Tensor]
_OF_RANKS = re.compile(r"_absmax_of_(\d+)$")


def whole_weight(tensor: Tensor, ranks: Sharing | None) -> Stored:
    """A parameter as it is saved; of one that lies in parts, what gathers it."""
    shard = shard_of(tensor)
    if shard is None or ranks is None:
        return tensor.detach()
    return _parted(tensor.shape, local(tensor), shard, ranks)


@torch.no_grad()
def put_weight(parameter: Tensor, whole: Tensor) -> None:
    """Copy what belongs here of `whole` into a parameter."""
    shard = shard_of(parameter)
    local(parameter).copy_(whole if shard is None else shard.of(whole))


def whole_states(optimizer: GaLoreAdamW) -> dict[str, Stored]:
    """`state_tensors` of all ranks, under the same names; what lies in parts is gathered when it is written."""
    if not optimizer.sharded:
        return {**optimizer.state_tensors()}
    return {f"{slot.name}.{key}": value for slot in optimizer.slots.values() for key, value in _whole(slot)}


def own_states(optimizer: GaLoreAdamW, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What belongs here of saved states, whoever saved them."""
    by_name = {slot.name: slot for slot in optimizer.slots.values()}
    found, of_slot = dict[str, Tensor](), dict[str, list[str]]()
    for key in saved:
        name, _, field = key.rpartition(".")
        if name in by_name:
            of_slot.setdefault(name, []).append(field)
        else:
            found[key] = saved[key]  # the optimizer will say that it knows no such parameter
    for name, fields in of_slot.items():
        # of one slot at a time something whole is here
        state = {field: saved[f"{name}.{field}"] for field in fields}
        found |= {f"{name}.{field}": value for field, value in _own(by_name[name], state)}
    return found


def _whole(slot: FullSlot) -> Iterator[tuple[str, Stored]]:
    shard, ranks = _moments_shard(slot), slot.weight.ranks
    weight = slot.weight.shard
    assert shard is not None
    assert weight is not None
    assert ranks is not None
    for field, value in slot.state.items():
        of = field.removesuffix("_absmax")
        if field in MOMENTS:
            yield field, _parted(_shape(slot), value, shard, ranks)
        elif of in MOMENTS:
            name = field if _aligned(_shape(slot), shard) else f"{field}_of_{shard.size}"
            counts = _scales(_shape(slot), shard)
            yield name, _gathered_scales(_shape(slot), value, shard, counts, ranks)
        elif field == "compensation":
            whole = _parted(slot.parameter.shape, value.view(slot.weight.local.shape), weight, ranks)
            gather = functools.partial(_flat, weight, ranks, whole.own)
            yield field, replace(whole, shape=torch.Size((whole.numel(),)), gather=gather)
        else:
            yield field, value


def _own(slot: FullSlot, saved: Named) -> Iterator[tuple[str, Tensor]]:
    shard = _moments_shard(slot)
    for field, value in saved.items():
        if field in MOMENTS:
            yield from _own_moment(field, saved, shard)
        elif field == "compensation":
            whole, weight = value.view(slot.parameter.shape), slot.weight.shard
            yield field, (whole if weight is None else weight.of(whole)).reshape(-1)
        elif field.removesuffix("_absmax") not in MOMENTS and not _OF_RANKS.search(field):
            yield field, value


def _own_moment(name: str, saved: Named, shard: Shard | None) -> Iterator[tuple[str, Tensor]]:
    """The part of moment `name` with its scales, of a whole one."""
    codes = saved[name]
    scales = next((key for key in saved if key == f"{name}_absmax" or key.startswith(f"{name}_absmax_of_")), None)
    # a view would keep the whole
    own = codes if shard is None else shard.of(codes).clone(memory_format=torch.contiguous_format)
    if scales is None:
        yield name, own
        return
    saved_by = _OF_RANKS.search(scales)
    yield from _coded(name, own, codes, saved[scales].reshape(-1), shard, int(saved_by[1]) if saved_by else 1)


def _coded(
    name: str, own: Tensor, codes: Tensor, scales: Tensor, shard: Shard | None, saved_by: int
) -> Iterator[tuple[str, Tensor]]:
    size = 1 if shard is None else shard.size
    fits = shard is None or _aligned(codes.shape, shard)
    if saved_by == 1 and fits:
        yield name, own
        yield f"{name}_absmax", scales if shard is None else _own_scales(codes.shape, scales, shard)
        return
    if saved_by == size and shard is not None:
        counts = _scales(codes.shape, shard)
        yield name, own
        yield f"{name}_absmax", torch.split(scales, counts)[shard.rank].clone()
        return
    dim = 1 if shard is None else shard.dim
    values = _values(name, codes, scales, Shard(dim, codes.shape[dim], 0, saved_by))
    part = values if shard is None else shard.of(values)
    kind: StateDtype = "fp8" if codes.dtype == torch.float8_e4m3fn else "8bit"
    state = new_state(name, part.shape, kind, codes.device, codes.shape)
    write_moment(state, name, part)
    yield from state.items()


def _values(name: str, codes: Tensor, scales: Tensor, shard: Shard) -> Tensor:
    """What the codes of all ranks mean, fp32."""
    parts = [shard.at(rank).of(codes).contiguous() for rank in range(shard.size)]
    of_each = torch.split(scales, _scales(codes.shape, shard))
    first = name == MOMENTS[0]
    read = [
        storage(part.view(-1), own, first=first).read(0, part.numel()).view(part.shape)
        for part, own in zip(parts, of_each, strict=True)
    ]
    return torch.cat(read, shard.dim)


def _moments_shard(slot: FullSlot) -> Shard | None:
    return slot.subspace.columns if isinstance(slot, ProjectedSlot) else slot.weight.shard


def _shape(slot: FullSlot) -> torch.Size:
    """The shape of a whole moment."""
    if isinstance(slot, ProjectedSlot):
        return torch.Size((slot.rank, slot.subspace.b))
    return slot.parameter.shape


def _aligned(shape: Sequence[int], shard: Shard) -> bool:
    """Whether every rank's part of a moment consists of whole blocks of it, but for its very end."""
    after = torch.Size(shape[shard.dim + 1 :]).numel()
    if shard.dim and (shard.length * after) % BLOCK_SIZE:
        return False
    return (shard.chunk * after) % BLOCK_SIZE == 0


def _scales(shape: Sequence[int], shard: Shard) -> list[int]:
    """How many scales the part of each rank has."""
    across = torch.Size(shape).numel() // shard.length
    held = [shard.at(rank) for rank in range(shard.size)]
    return [-(-(each.stop - each.start) * across // BLOCK_SIZE) for each in held]


def _own_scales(shape: Sequence[int], scales: Tensor, shard: Shard) -> Tensor:
    counts = _scales(shape, shard)
    if not shard.dim:
        start = sum(counts[: shard.rank])
        return scales[start : start + counts[shard.rank]].clone()
    rows = scales.view(shape[0], -1)
    ends = [0, *accumulate(count // shape[0] for count in counts)]
    return rows[:, ends[shard.rank] : ends[shard.rank + 1]].clone(memory_format=torch.contiguous_format).view(-1)


def _gathered_scales(shape: torch.Size, own: Tensor, shard: Shard, counts: list[int], ranks: Sharing) -> Parted:
    def gather() -> Tensor:
        padded = own.new_zeros(max(counts))
        padded[: own.numel()] = own
        every = ranks.joined(padded.view(torch.uint8)).view(own.dtype)
        parts = [every[rank, :count] for rank, count in enumerate(counts)]
        if shard.dim and _aligned(shape, shard):
            return torch.cat([part.view(shape[0], -1) for part in parts], 1).view(-1)
        return torch.cat(parts)

    before = sum(counts[: shard.rank])
    part, offset = own, tuple[int, ...]((before,))
    if shard.dim and _aligned(shape, shard):
        part, offset = own.view(shape[0], -1), (0, before // shape[0])
    return Parted(torch.Size((sum(counts),)), own.dtype, gather, part, offset)


def _flat(shard: Shard, ranks: Sharing, own: Tensor) -> Tensor:
    return shard.join(ranks, own).view(-1)


def _parted(shape: torch.Size, own: Tensor, shard: Shard, ranks: Sharing) -> Parted:
    offset = tuple(shard.start if dim == shard.dim else 0 for dim in range(len(shape)))
    return Parted(shape, own.dtype, lambda: shard.join(ranks, own), own, offset)
