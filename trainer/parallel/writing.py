"""A checkpoint in parts: every rank writes what it holds into the directory that the first rank then completes."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from galore.trainer.checkpoint.checkpoint import Write
from galore.trainer.checkpoint.parts.files import Groups, in_parts, part_name, write_own
from galore.trainer.common.durable import Written
from galore.trainer.parallel.group import Group, RankLost

_FILE = struct.Struct("<q32s")  # length and SHA-256


@contextmanager
def writing(groups: Groups, ranks: Group, root: Path) -> Iterator[Write]:
    """How the first rank writes the groups into a directory of `root`, in a context in which the others write theirs.

    It says when, and where; and at the end that no more comes, also where it has no room to begin.
    """

    def write(directory: Path, groups: Groups) -> dict[str, Written]:
        ranks.from_first(directory.name)
        return _write(directory, groups, ranks)

    if not ranks.is_first:
        while (name := ranks.from_first()) is not None:
            with suppress(OSError):  # the first rank hears of it, and tells
                _write(root / name, groups, ranks)
        yield write
        return
    try:
        yield write
    finally:
        with suppress(RankLost):  # then there is nobody to tell
            ranks.from_first(None)


def _write(directory: Path, groups: Groups, ranks: Group) -> dict[str, Written]:
    """Write this rank's files.

    Returns:
        Those of all ranks.

    Raises:
        OSError: some rank could not, and which. Anything else that broke it off here, once the others have heard of it.
    """
    own, refused, cut = dict[str, Written](), None, in_parts(groups)
    try:
        own = write_own(directory, groups, ranks.rank, ranks.size)
    except BaseException as error:
        refused = error
    names = [part_name(group, ranks.rank, ranks.size) for group in cut]
    code = 0 if refused is None else getattr(refused, "errno", None) or errno.ECANCELED
    of_all = ranks.gathered(struct.pack("<q", code) + b"".join(_packed(own.get(name)) for name in names))
    if refused is not None:
        raise refused
    for rank, said in enumerate(of_all):
        (code,), files = struct.unpack_from("<q", said), _FILE.iter_unpack(said[8:])
        if code:
            raise OSError(code, f"{os.strerror(code)} on rank {rank}")
        own |= {
            part_name(group, rank, ranks.size): Written(length, digest.hex())
            for group, (length, digest) in zip(cut, files, strict=True)
        }
    return own


def _packed(written: Written | None) -> bytes:
    return _FILE.pack(0, bytes(32)) if written is None else _FILE.pack(written.bytes, bytes.fromhex(written.sha256))
