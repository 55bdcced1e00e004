"""Files of a group of tensors: one that holds them whole, or one of each rank with the parts that it had.

    GROUP.safetensors, or GROUP.part-1-of-4.safetensors …

The format of parts is that of PyTorch's distributed checkpoint (`HuggingFaceStorageWriter`, `save_distributed=True`):
every tensor under the name of the whole, and in the header where its part begins. Its own writer has the file of a rank
twice more in host memory before the first byte, and its own reader leaves what no file holds as it was.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from galore.trainer.checkpoint.manifest import NAME as MANIFEST
from galore.trainer.checkpoint.manifest import Damaged
from galore.trainer.checkpoint.tensorfile import Parted, Stored, stream, tensor_bytes
from galore.trainer.common.durable import Written, write_file
from galore.trainer.common.errors import RunFailed

SUFFIX = ".safetensors"
OFFSETS = "DCP_SHARDING_INFO"  # key of the header's metadata: {name: {"saved_offsets": [where its part begins]}}
BY_ITS_WRITER = "read it with the code that wrote it"
_PART = re.compile(r"\.part-\d+-of-\d+$")

Groups = Mapping[str, Mapping[str, Stored]]


def whole_name(group: str) -> str:
    return f"{group}{SUFFIX}"


def part_name(group: str, rank: int, size: int) -> str:
    return f"{group}.part-{rank + 1}-of-{size}{SUFFIX}"


def in_parts(groups: Groups) -> list[str]:
    """The groups of which something lies in parts: each is a file of every rank, all others are one of the first."""
    return [name for name, members in groups.items() if any(isinstance(each, Parted) for each in members.values())]


def write_whole(directory: Path, groups: Groups) -> dict[str, Written]:
    """Write each group into a file; what lies in parts is gathered for it."""
    return {whole_name(name): write_file(directory / whole_name(name), stream(each)) for name, each in groups.items()}


def write_own(directory: Path, groups: Groups, rank: int, size: int) -> dict[str, Written]:
    """Write the files of one rank of `size`: of its parts, and of its share of what all of them hold whole."""
    cut = in_parts(groups)
    written = write_whole(directory, {name: each for name, each in groups.items() if name not in cut and not rank})
    for group in cut:
        name, held = part_name(group, rank, size), dict(_held(groups[group], rank, size))
        offsets = {key: {"saved_offsets": offset} for key, (_, offset) in held.items()}
        own = stream({key: tensor for key, (tensor, _) in held.items()}, {OFFSETS: json.dumps(offsets)})
        written[name] = write_file(directory / name, own)
    return written


def files_by_group(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The files of each group, of all `names` that a manifest lists.

    Raises:
        Damaged: of some group a part is not among them.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        if name.endswith(SUFFIX):
            found.setdefault(_PART.sub("", name.removesuffix(SUFFIX)), []).append(name)
    for group, files in found.items():
        if files != [whole_name(group)] and set(files) != {part_name(group, r, len(files)) for r in range(len(files))}:
            raise Damaged(f"{MANIFEST} does not list all parts of {group}: {', '.join(files[:5])}")
    return {group: tuple(files) for group, files in found.items()}


@dataclass(frozen=True)
class _Part:
    """A tensor of an open file, and where in the whole it begins."""

    file: Path
    opened: Any
    offset: Sequence[int]
    shape: Sequence[int]


class Saved(Mapping[str, Tensor]):
    """The tensors of a group's files. Each is read, and of parts put together, when it is asked for, and not kept."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._parts: dict[str, list[_Part]] = {}
        for file in files:
            with _reading(file):
                opened: Any = safe_open(file, framework="pt")
                offsets = json.loads((opened.metadata() or {}).get(OFFSETS, "{}"))
                for name in opened.keys():  # noqa: SIM118 - it is no mapping
                    shape = opened.get_slice(name).get_shape()
                    offset = offsets[name]["saved_offsets"] if offsets else [0] * len(shape)
                    self._parts.setdefault(name, []).append(_Part(file, opened, offset, shape))
        self.sizes = {name: _size(parts) for name, parts in self._parts.items()}
        for name, parts in self._parts.items():
            if sum(math.prod(part.shape) for part in parts) != self.sizes[name].numel():
                what, where = f"{name} is not whole in what is there", str(parts[0].file)
                raise RunFailed(what, where=where, fix=BY_ITS_WRITER)

    def __getitem__(self, name: str) -> Tensor:
        first, *others = self._parts[name]
        if not others:
            return _read(name, first)
        whole = torch.empty(self.sizes[name], dtype=_read(name, first).dtype)
        for part in (first, *others):
            place = tuple(slice(at, at + length) for at, length in zip(part.offset, part.shape, strict=True))
            whole[place] = _read(name, part)
        return whole

    def pop(self, name: str) -> Tensor:
        """A tensor, which is then no longer among these."""
        found = self[name]
        del self._parts[name], self.sizes[name]
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


def _held(members: Mapping[str, Stored], rank: int, size: int) -> Iterator[tuple[str, tuple[Tensor, list[int]]]]:
    """What a rank writes, and where in the whole it begins. What is whole everywhere is shared out by size."""
    load = [0] * size
    for name in sorted(members, key=lambda name: (-tensor_bytes({name: members[name]}), name)):
        value = members[name]
        if isinstance(value, Parted):
            if value.own.numel():
                yield name, (value.own, list(value.offset))
            continue
        least = load.index(min(load))
        load[least] += value.nbytes
        if least == rank:
            yield name, (value, [0] * value.dim())


def _size(parts: Sequence[_Part]) -> torch.Size:
    ends = [[at + length for at, length in zip(part.offset, part.shape, strict=True)] for part in parts]
    return torch.Size(max(along) for along in zip(*ends, strict=True))


def _read(name: str, part: _Part) -> Tensor:
    with _reading(part.file):
        found: Tensor = part.opened.get_tensor(name)
        return found


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """A context that raises RunFailed for what the disk no longer gives."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch maps the file, and names it where the disk refuses that; what names no file is memory's.
        if isinstance(error, RuntimeError) and file.name not in str(error):
            raise
        what = f"cannot be read, which it could a moment ago: {' '.join(str(error).split())}"
        raise RunFailed(what, where=str(file), fix="see whether its disk answers, and try again") from error
