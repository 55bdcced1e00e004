"""Reading what somebody else may have put there: a regular file, to a limit, without waiting."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO

JSON_BYTES = 64 * 2**20  # of any file of JSON beside weights; a tokenizer with all its merges takes 20
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotReadable(OSError):  # noqa: N818 - it says what the path is
    """What lies there can be opened, but is no regular file, or has more bytes than it can have."""


def user_path(text: str) -> Path:
    """A path as somebody typed it: `~` is their home; what looks like the home of an unknown user stays as it is."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 - Path's own raises for such a user


def is_there(path: Path) -> bool:
    """Whether something is at `path`; nothing is at a name that cannot be one, such as one too long."""
    try:
        return path.exists()
    except OSError:
        return False


def means_a_path(name: str, base_dir: Path) -> bool:
    """Whether `name` can only be a path, no name on the hub: as it is written, or `runs/nope` where there is `runs`."""
    written = name.startswith((".", "/", "~")) or name.count("/") > 1
    return written or ("/" in name and is_there((base_dir / user_path(name)).parent))


def open_regular(path: Path, *, follow: bool = True) -> IO[bytes]:
    """Open a regular file, at once: a pipe without a writer is not waited for, a device is not touched.

    Raises:
        NotReadable: what `path` leads to is no regular file.
        OSError: it cannot be opened.
    """
    require_regular(path, path.stat(follow_symlinks=follow).st_mode)
    more = os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | more))  # noqa: SIM115 - Path's takes no opener
    try:
        require_regular(path, os.fstat(file.fileno()).st_mode)  # it may have been replaced meanwhile
    except BaseException:
        file.close()
        raise
    return file


def require_regular(path: Path, mode: int | None = None) -> None:
    """Raises NotReadable if `path`, links followed, is no regular file; OSError if it is not there."""
    kind = stat.S_IFMT(path.stat().st_mode if mode is None else mode)
    if kind != stat.S_IFREG:
        raise NotReadable(errno.EINVAL, f"is {KINDS.get(kind, 'something else')}, not a regular file", str(path))


def require_plain_folder(folder: str) -> None:
    """Raises NotReadable for a pipe or a device in `folder`, if it is one: libraries read whatever has the name.

    Not for a text for people, which none reads.
    """
    if os.path.isdir(folder):  # noqa: PTH112 - a name too long is no folder, Path's own raises
        for path in Path(folder).iterdir():
            if path.exists() and not path.is_dir() and path.suffix != ".md":
                require_regular(path)


def read_bounded(path: Path, limit: int = JSON_BYTES) -> bytes:
    """The content of a regular file. No more than `limit` bytes are ever read, whatever its size is said to be.

    Raises:
        NotReadable: no regular file, or more than `limit` bytes.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise NotReadable(errno.EFBIG, f"has more than {limit:,} bytes", str(path))
    return content
