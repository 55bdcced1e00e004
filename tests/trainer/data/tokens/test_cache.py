from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from galore.trainer.common.durable import Written
from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.common.lock import awaited
from galore.trainer.data.batch import Progress, silent
from galore.trainer.data.tokens.cache import cache_root, entry, fingerprint


def write_once(folder: Path) -> dict[str, Written]:
    (folder / "data").write_text("whole")
    return {}


def read(folder: Path) -> str:
    return (folder / "data").read_text()


def get(
    path: Path,
    build: Callable[[Path], object] = write_once,
    progress: Progress = silent,
    load: Callable[[Path], str] = read,
    tell: Callable[[str], object] = str,
) -> str:
    def built(folder: Path) -> dict[str, Written]:
        build(folder)
        return {}

    return entry(path, built, load, progress, tell)


def child(work: Callable[[], object]) -> int:
    """Run `work` in a forked process; its id."""
    process = os.fork()
    if process == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return process


def test_an_entry_is_built_once(tmp_path: Path) -> None:
    built = list[Path]()

    def build(folder: Path) -> None:
        built.append(folder)
        write_once(folder)

    for _ in range(2):
        assert get(tmp_path / "x", build) == "whole"
    assert len(built) == 1


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("name", ["data", "manifest.json"])
@pytest.mark.parametrize(
    "harm", [Path.unlink, _flip, lambda path: path.write_bytes(b""), lambda path: path.rename(path.with_name("z"))]
)
def test_a_damaged_entry_is_told_and_built_again(tmp_path: Path, name: str, harm: Callable[[Path], object]) -> None:
    told = list[str]()
    get(tmp_path / "x", tell=told.append)
    before = (tmp_path / "x" / name).read_bytes()
    harm(tmp_path / "x" / name)
    assert get(tmp_path / "x", tell=told.append) == "whole"
    assert (tmp_path / "x" / name).read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["data", "manifest.json"]
    assert len(told) == 1
    assert name in told[0]
    assert "made anew" in told[0]


def test_an_entry_that_does_not_load_is_built_again(tmp_path: Path) -> None:
    calls, told = list[Path](), list[str]()

    def load(folder: Path) -> str:
        calls.append(folder)
        if len(calls) == 2:
            raise KeyError("another version")
        return read(folder)

    for _ in range(2):
        get(tmp_path / "x", load=load, tell=told.append)
    assert len(calls) == 3
    assert "another version" in told[0]


def test_what_cannot_be_read_is_not_built_again(tmp_path: Path, unreadable: list[tuple[str, int]]) -> None:
    get(tmp_path / "x")
    unreadable.append(("/x/data", errno.EIO))
    with pytest.raises(RunFailed, match=r"x/data: cannot be read: Input/output error\n.*try again"):
        get(tmp_path / "x", lambda folder: pytest.fail("was built"))
    unreadable.clear()

    def load(folder: Path) -> str:
        raise RunFailed("cannot be read any more", where=str(folder))

    with pytest.raises(RunFailed, match="cannot be read any more"):
        get(tmp_path / "x", lambda folder: pytest.fail("was built"), load=load)


def test_every_file_is_on_the_disk_before_the_entry_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(folder: Path) -> None:
        (folder / "data").write_text("whole")
        (folder / "more").write_text("")

    synced: list[str] = []
    real = os.fsync

    def note(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    get(tmp_path / "new" / "x", build)
    assert {"data", "more", "manifest.json"} < set(synced)
    assert synced[-2:] == ["x.tmp", "new"]


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        write_once(folder)
        raise UserError("bad row")

    with pytest.raises(UserError, match="bad row"):
        get(tmp_path / "x", build)
    assert [path.name for path in tmp_path.iterdir()] == ["x.lock"]


def test_a_killed_build_is_cleared_away(tmp_path: Path) -> None:
    def build_and_die(folder: Path) -> None:
        (folder / "half").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    process = child(lambda: get(tmp_path / "x", build_and_die))
    assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGKILL
    assert (tmp_path / "x.tmp" / "half").exists()
    assert not (tmp_path / "x").exists()
    get(tmp_path / "x")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data", "manifest.json", "x", "x.lock"]


def test_a_build_clears_away_those_that_were_killed_and_no_other(tmp_path: Path) -> None:
    """Nobody may ask again for the entry of other settings."""
    for name in ("gone", "busy"):
        (tmp_path / f"{name}.tmp").mkdir()
        (tmp_path / f"{name}.tmp" / "half").touch()
    with awaited(tmp_path / "busy.lock"):
        get(tmp_path / "x")
        assert sorted(path.name for path in tmp_path.glob("*.tmp")) == ["busy.tmp"]
        get(tmp_path / "x", lambda folder: pytest.fail("was built"))
    get(tmp_path / "y")
    assert not [*tmp_path.glob("*.tmp")]


def test_processes_that_want_the_same_entry_build_it_once(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def build(folder: Path) -> None:
        with log.open("a") as file:
            file.write("built\n")
        time.sleep(0.3)
        write_once(folder)

    processes = [child(lambda: get(tmp_path / "x", build)) for _ in range(4)]
    assert [os.waitpid(process, 0)[1] for process in processes] == [0] * 4
    assert log.read_text() == "built\n"


def test_who_waits_is_told(tmp_path: Path) -> None:
    told = list[str]()
    started = tmp_path / "started"

    def build(folder: Path) -> None:
        started.touch()
        time.sleep(0.5)
        write_once(folder)

    process = child(lambda: get(tmp_path / "x", build))
    while not started.exists():
        time.sleep(0.01)
    get(tmp_path / "x", build, lambda done, total, what: told.append(what))
    os.waitpid(process, 0)
    assert "another process" in told[0]


FULL = [errno.ENOSPC, errno.EDQUOT]


@pytest.mark.parametrize(
    "error",
    [OSError(FULL[0], "x"), OSError(FULL[1], "x"), *(Exception(f"full (os error {number})") for number in FULL)],
)
def test_a_full_disk_fails_the_run_and_leaves_nothing(tmp_path: Path, error: Exception) -> None:
    def build(folder: Path) -> None:
        write_once(folder)
        raise error

    with pytest.raises(RunFailed, match=r"no space left[\s\S]*cache_dir"):
        get(tmp_path / "x", build)
    assert not (tmp_path / "x.tmp").exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_told(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(UserError, match=r"x.lock: cannot be locked: [\s\S]*set data.cache_dir"):
        get(tmp_path / "x")


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALORE_CACHE", str(tmp_path / "environment"))
    assert cache_root(None, tmp_path) == tmp_path / "environment"
    assert cache_root("mine", tmp_path) == tmp_path / "mine"
    monkeypatch.delenv("GALORE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root(None, Path("/")) == tmp_path / ".cache" / "galore"
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be created"):
        cache_root("file/below", tmp_path)


def test_fingerprints_name_values() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_a_pipe_in_the_place_of_a_lock_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "entry.lock")
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
    signal.alarm(10)
    try:
        with awaited(tmp_path / "entry.lock"):
            pass
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
