"""A file is the old one or the new one, and on the disk before it has its name."""

import errno
import json
import os
import resource
import signal
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from galore.trainer.common import durable
from galore.trainer.common.durable import (
    leftovers,
    make_directory,
    refuse_undecodable,
    replace_file,
    save_pretrained,
    synced,
    write_file,
)
from galore.trainer.common.errors import UserError


def test_a_replaced_file_keeps_its_permissions_and_a_link_stays_one(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to("target")
    replace_file(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "target"]


def test_a_pipe_that_nobody_reads_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device"):
        replace_file(tmp_path / "pipe", "content")
    with pytest.raises(IsADirectoryError):
        replace_file(tmp_path, "content")


def test_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    replace_file(Path(os.devnull), "nothing")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    reader, writer = os.pipe()
    replace_file(Path(f"/dev/fd/{writer}"), "through a pipe")
    assert os.read(reader, 100) == b"through a pipe"
    os.close(reader)
    os.close(writer)


def test_what_is_missing_above_a_directory_is_made_and_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced_: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced_.append(Path(f"/proc/self/fd/{number}").readlink()))
    assert make_directory(tmp_path / "a" / "b") == (tmp_path / "a" / "b", tmp_path / "a")
    assert synced_ == [tmp_path, tmp_path / "a"]
    assert make_directory(tmp_path / "a" / "b") == ()
    (tmp_path / "file").touch()
    for path in ("file", "file/below"):
        with pytest.raises(OSError, match="file"):
            make_directory(tmp_path / path)


class Bare:
    """Fails as the libraries in Rust do: with a type of their own that holds the number in its text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def save_pretrained(self, folder: Path) -> None:
        raise Exception(self.text)


def test_a_library_that_hides_what_the_system_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        save_pretrained(tmp_path, Bare("No space left on device (os error 28)"))
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(Exception, match="my own fault"):
        save_pretrained(tmp_path, Bare("my own fault"))


def test_what_was_hashed_on_the_way_is_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    known = {
        "a": write_file(tmp_path / "a", [b"one", memoryview(b"two")]),
        "below/b": write_file(tmp_path / "below" / "b", []),
    }
    assert synced(tmp_path) == synced(tmp_path, known) == known


def test_what_a_library_wrote_is_synced_with_its_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").write_text("by a library")
    synced_: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced_.append(Path(f"/proc/self/fd/{number}").readlink()))
    synced(tmp_path)
    assert synced_ == [tmp_path / "below", tmp_path / "below" / "file", tmp_path]


def test_what_cannot_be_written_is_told_before_long_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    durable.refuse_unwritable(tmp_path / "x.png", "--plot")
    assert not list(tmp_path.iterdir())
    for file, what in ((tmp_path / "no/x.png", "there is no folder"), (tmp_path, "is a folder")):
        with pytest.raises(UserError, match=what):
            durable.refuse_unwritable(file, "--plot")
    with pytest.raises(UserError, match="File name too long"):
        durable.refuse_unwritable(tmp_path / f"{'x' * 250}.png", "--plot")

    def refused(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(durable.tempfile, "NamedTemporaryFile", refused)
    with pytest.raises(UserError, match=r"x\.png cannot be written: Permission denied"):
        durable.refuse_unwritable(tmp_path / "x.png", "--plot")


@pytest.mark.parametrize("length", [100, durable.CHUNK_BYTES])
def test_what_cannot_be_written_says_which_file(tmp_path: Path, length: int) -> None:
    """A write alone does not: a limit of file sizes is met in the middle."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limit[1]))
    try:
        with pytest.raises(OSError, match="large") as caught:
            write_file(tmp_path / "file", [b"x" * length])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.filename == str(tmp_path / "file")


def test_two_processes_may_replace_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one begins and ends while the first has written its content and not yet given it its name."""
    file, real = tmp_path / "report.md", durable.write_file

    def write(path: Path, parts: Any) -> Any:
        written = real(path, parts)
        monkeypatch.undo()
        if (child := os.fork()) == 0:
            replace_file(file, "other")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        return written

    monkeypatch.setattr(durable, "write_file", write)
    replace_file(file, "first")
    assert file.read_text() == "first"
    assert os.listdir(tmp_path) == ["report.md"]  # noqa: PTH208


def test_what_processes_that_are_gone_left_is_removed(tmp_path: Path) -> None:
    (gone := subprocess.Popen(["true"])).wait()
    file, others = tmp_path / "report.md", tmp_path / f".report.md.{os.getppid()}.tmp"
    left = [tmp_path / f".report.md.{each}" for each in (f"{gone.pid}.tmp", f"{os.getpid()}.tmp", "tmp")]
    for path in (*left, others, tmp_path / ".report.md.old.tmp"):
        path.touch()
    assert {*left} < {*leftovers(file)}
    replace_file(file, "new")
    assert {each.name for each in tmp_path.iterdir()} == {file.name, others.name, ".report.md.old.tmp"}


def test_what_utf8_lacks_becomes_its_json_escape(tmp_path: Path) -> None:
    replace_file(tmp_path / "facts.json", json.dumps({"recipe": "y\udcff"}, ensure_ascii=False))
    assert json.loads((tmp_path / "facts.json").read_text()) == {"recipe": "y\udcff"}


@pytest.mark.parametrize("name", ["r\udcff", "r\udcff/run"])
def test_a_path_that_libraries_cannot_name_is_refused_with_what_to_do(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not UTF-8.*\n.*rename it"):
        refuse_undecodable(tmp_path / name, "rename it")
