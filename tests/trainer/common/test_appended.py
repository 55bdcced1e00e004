"""A file that somebody deletes or replaces is written anew, and is what it was."""

import errno
import os
from pathlib import Path

import pytest

from galore.trainer.common.appended import Appended


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "rows"
    path.write_bytes(b"first\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("link", [False, True])
def test_it_is_as_it_was(path: Path, link: bool) -> None:
    """Its content, its permissions, and that it grows; a link that is deleted becomes a file."""
    if link:
        elsewhere = path.rename(path.with_name("elsewhere"))
        path.symlink_to(elsewhere)
    file = Appended(path)
    assert file.is_there
    path.unlink()
    assert not file.is_there
    assert file.bring_back() == "was deleted"
    assert file.is_there
    file.append(b"second\n")
    file.close()
    assert path.read_bytes() == b"first\nsecond\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_took_its_name_is_kept(path: Path) -> None:
    file = Appended(path)
    path.unlink()
    path.mkdir()
    path.with_name("rows.1").touch()
    assert file.bring_back() == "was replaced, by what is rows.2 now"
    file.close()
    assert path.with_name("rows.2").is_dir()
    assert path.read_bytes() == b"first\n"


def test_what_cannot_be_written_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = Appended(path)
    path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("galore.trainer.common.appended._write", full)
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                file.bring_back()
    assert not list(path.parent.iterdir())
    assert not file.is_there
    file.bring_back()
    file.close()
    assert path.read_bytes() == b"first\n"
