from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from galore.trainer.data.batch import silent
from galore.trainer.data.cache import cache_root, entry, fingerprint
from galore.trainer.errors import RunFailed, UserError


def write_once(folder: Path) -> None:
    (folder / "data").write_text("whole")


def whole(folder: Path) -> bool:
    return (folder / "data").is_file()


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
        assert entry(tmp_path / "x", build, whole, silent) == tmp_path / "x"
    assert len(built) == 1


def test_a_damaged_entry_is_built_again(tmp_path: Path) -> None:
    entry(tmp_path / "x", write_once, whole, silent)
    (tmp_path / "x" / "data").unlink()
    (tmp_path / "x" / "stray").touch()
    entry(tmp_path / "x", write_once, whole, silent)
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["data"]


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        write_once(folder)
        raise UserError("bad row")

    with pytest.raises(UserError, match="bad row"):
        entry(tmp_path / "x", build, whole, silent)
    assert [path.name for path in tmp_path.iterdir()] == ["x.lock"]


def test_a_killed_build_is_cleared_away(tmp_path: Path) -> None:
    def build_and_die(folder: Path) -> None:
        (folder / "half").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    process = child(lambda: entry(tmp_path / "x", build_and_die, whole, silent))
    assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGKILL
    assert (tmp_path / "x.tmp" / "half").exists()
    assert not (tmp_path / "x").exists()
    entry(tmp_path / "x", write_once, whole, silent)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data", "x", "x.lock"]


def test_processes_that_want_the_same_entry_build_it_once(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def build(folder: Path) -> None:
        with log.open("a") as file:
            file.write("built\n")
        time.sleep(0.3)
        write_once(folder)

    processes = [child(lambda: entry(tmp_path / "x", build, whole, silent)) for _ in range(4)]
    assert [os.waitpid(process, 0)[1] for process in processes] == [0] * 4
    assert log.read_text() == "built\n"


def test_who_waits_is_told(tmp_path: Path) -> None:
    told = list[str]()
    started = tmp_path / "started"

    def build(folder: Path) -> None:
        started.touch()
        time.sleep(0.5)
        write_once(folder)

    process = child(lambda: entry(tmp_path / "x", build, whole, silent))
    while not started.exists():
        time.sleep(0.01)
    entry(tmp_path / "x", build, whole, lambda done, total, what: told.append(what))
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
        entry(tmp_path / "x", build, whole, silent)
    assert not (tmp_path / "x.tmp").exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_told(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(RunFailed, match=r"x.lock: cannot be locked: [\s\S]*set data.cache_dir"):
        entry(tmp_path / "x", write_once, whole, silent)


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
