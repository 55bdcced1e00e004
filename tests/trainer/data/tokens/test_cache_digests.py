from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.data.batch import silent
from galore.trainer.data.tokens import cache
from galore.trainer.data.tokens.cache import file_digests


@pytest.fixture(autouse=True)
def _remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of files of three letters."""
    monkeypatch.setattr(cache, "REMEMBERED", 3)


def test_of_small_files_nothing_is_written(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "ab"]
    for path, text in zip(paths, ("12", "123"), strict=True):
        path.write_text(text)
    file_digests(paths, tmp_path / "cache", silent)
    assert len([*(tmp_path / "cache/digests").iterdir()]) == 1


def test_digests_are_sha256_and_progress_covers_all_files(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text(path.name * 100)
    reported = list[tuple[int, int]]()
    found = file_digests(paths, tmp_path / "cache", lambda done, total, what: reported.append((done, total)))
    assert found == [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    assert reported == [(100, 200), (200, 200)]


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    before = file_digests([path], tmp_path, silent)
    monkeypatch.setattr(cache, "_digest", lambda *_: pytest.fail("read again"))
    assert file_digests([path], tmp_path, silent) == before


@pytest.mark.parametrize("change", ["content", "replaced", "memo", "digit"])
def test_a_change_is_seen(tmp_path: Path, change: str) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    before = file_digests([path], tmp_path, silent)
    stat = path.stat()
    if change == "content":
        path.write_text("two!")
    elif change == "replaced":  # same size and time, another file
        (tmp_path / "b").write_text("two")
        os.utime(tmp_path / "b", ns=(stat.st_atime_ns, stat.st_mtime_ns))
        (tmp_path / "b").replace(path)
    elif change == "memo":
        next((tmp_path / "digests").iterdir()).write_text("{")
    else:
        memo = next((tmp_path / "digests").iterdir())
        memo.write_text(memo.read_text().replace(before[0], "0" * 64))
    after = file_digests([path], tmp_path, silent)
    assert (after == before) is (change in ("memo", "digit"))
    assert after == [hashlib.sha256(path.read_bytes()).hexdigest()]


def test_an_unreadable_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder: cannot be read"):
        file_digests([tmp_path / "folder"], tmp_path, silent)


@pytest.mark.parametrize("made", [os.mkfifo, os.mkdir])
def test_what_is_no_file_in_a_memo_s_place_makes_way(tmp_path: Path, made: Callable[[Path], None]) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    before = file_digests([path], tmp_path, silent)
    memo = next((tmp_path / "digests").iterdir())
    memo.unlink()
    made(memo)
    assert file_digests([path], tmp_path, silent) == before
    assert memo.is_file()
