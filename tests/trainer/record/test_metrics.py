"""metrics.jsonl survives kills, resumes and full disks, and is strict JSON."""

import errno
import json
import os
import shutil
import tracemalloc
from codecs import BOM_UTF8
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from galore.trainer.common.appended import Appended
from galore.trainer.record.metrics import Metrics, read_rows


def _strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def _rows(path: Path) -> list[Any]:
    return [_strict(line) for line in path.read_text().splitlines()]


def test_rows_are_readable_at_once(path: Path) -> None:
    metrics = Metrics.open(path, None)
    metrics.write({"kind": "train", "step": 1, "loss_nats": 0.1 + 0.2, "skipped": False})
    assert _rows(path) == [{"kind": "train", "step": 1, "loss_nats": 0.1 + 0.2, "skipped": False}]
    metrics.write({"kind": "event", "step": 1, "message": "Grüße \ud800\n"})
    assert _rows(path)[1]["message"] == "Grüße \ud800\n"
    metrics.close()


@pytest.mark.parametrize("how", ["deleted", "replaced", "replaced by a folder", "renamed with its folder"])
def test_a_file_that_somebody_took_is_written_anew(tmp_path: Path, how: str) -> None:
    told: list[str] = []
    folder = tmp_path / "run"
    folder.mkdir()
    path = folder / "metrics.jsonl"
    metrics = Metrics.open(path, None, warn=told.append)
    metrics.write({"kind": "train", "step": 1})
    if how == "renamed with its folder":
        folder, path = folder.rename(tmp_path / "other"), tmp_path / "other" / path.name
    if how != "replaced":
        path.unlink()
    if how == "replaced":
        path.with_name("edited").write_text("mine\n")
        path.with_name("edited").rename(path)
    elif how == "replaced by a folder":
        path.mkdir()
    metrics.write({"kind": "train", "step": 2})
    metrics.sync()
    metrics.write({"kind": "train", "step": 3})
    metrics.close()
    assert [row["step"] for row in _rows(path)] == [1, 2, 3]
    assert len(told) == 1
    assert "written anew, no row of this run is missing" in told[0]
    kept = {"replaced": ["metrics.jsonl.1"], "replaced by a folder": ["metrics.jsonl.1"]}.get(how, [])
    assert sorted(each.name for each in folder.iterdir()) == ["metrics.jsonl", *kept]


def test_a_file_that_cannot_be_brought_back_is_lost_in_words(path: Path) -> None:
    told: list[str] = []
    metrics = Metrics.open(path, None, warn=told.append)
    metrics.write({"kind": "train", "step": 1})
    path.unlink()
    (path.parent / ".metrics.jsonl.tmp").mkdir()
    for step in (2, 3):
        metrics.write({"kind": "train", "step": step})
        metrics.sync()
    metrics.close()
    assert len(told) == 2
    assert "cannot be written (Is a directory); rows are kept in memory" in told[0]
    assert "all rows are lost" in told[1]


def test_a_file_that_went_with_its_folder_stays_away(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "run").mkdir()
    metrics = Metrics.open(tmp_path / "run" / "metrics.jsonl", None, warn=told.append)
    shutil.rmtree(tmp_path / "run")
    metrics.write({"kind": "train", "step": 1})
    metrics.close()
    assert told == []
    assert not (tmp_path / "run").exists()


def test_what_json_lacks(path: Path) -> None:
    metrics = Metrics.open(path, None)
    metrics.write(
        {
            "a": float("nan"), "b": float("inf"), "c": -float("inf"), "list": [1.0, float("nan")],
            "numpy": np.float32(0.5), "torch": torch.tensor(2), "nan": torch.tensor(float("nan")),
            "nested": {"x": float("nan"), "y": 1},
        }
    )  # fmt: skip
    assert _rows(path) == [
        {
            "a": None, "a_is": "nan", "b": None, "b_is": "inf", "c": None, "c_is": "-inf", "list": [1.0, None],
            "numpy": 0.5, "torch": 2, "nan": None, "nan_is": "nan", "nested": {"x": None, "x_is": "nan", "y": 1},
        }
    ]  # fmt: skip


def test_what_begins_again_keeps_the_rows_it_had(path: Path) -> None:
    told: list[str] = []
    for count in (3, 2):
        metrics = Metrics.open(path, 0, warn=told.append)
        for step in range(1, count + 1):
            metrics.write({"kind": "train", "step": step})
        metrics.close()
    Metrics.open(path, 0, warn=told.append).close()
    assert [len(_rows(path.with_name(name))) for name in ("metrics.jsonl.1", "metrics.jsonl.2", "metrics.jsonl")] == [
        3,
        2,
        0,
    ]
    assert [text[-15:] for text in told] == ["metrics.jsonl.1", "metrics.jsonl.2"]


def test_resume_drops_later_rows_and_half_a_line(path: Path) -> None:
    rows = [{"kind": "train", "step": step} for step in range(1, 6)]
    rows.insert(3, {"kind": "eval", "step": 3})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"kind": "tra')
    metrics = Metrics.open(path, 3)
    metrics.write({"kind": "train", "step": 4, "again": True})
    metrics.close()
    assert _rows(path) == [*rows[:4], {"kind": "train", "step": 4, "again": True}]


@pytest.mark.parametrize(("kept", "absent"), [((1, 2, 3, 4), 0), ((1, 3, 4), 1), ((), 3), ((2, 2), 2)])
def test_rows_that_were_taken_away_are_counted(path: Path, kept: tuple[int, ...], absent: int) -> None:
    path.write_text("".join(json.dumps({"kind": "train", "step": step}) + "\n" for step in kept))
    metrics = Metrics.open(path, 3)
    metrics.close()
    assert metrics.absent == absent


def test_a_long_file_is_not_held_in_memory(path: Path) -> None:
    text = "x" * 2000
    with path.open("w") as file:
        for step in range(1, 2001):
            file.write(json.dumps({"kind": "train", "step": step, "loss_nats": 1.0, "sample": text}) + "\n")
    whole = path.read_bytes()
    tracemalloc.start()
    try:
        Metrics.open(path, 2000).close()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert path.read_bytes() == whole
    assert most < len(whole) / 4


def test_rows_that_are_kept_are_strict_and_end_their_lines(path: Path) -> None:
    path.write_text('{"step": 1, "a": NaN}\n{"step": 2,  "text": "-Infinity"}\n{"step": 3,  "a": 1e3}')
    metrics = Metrics.open(path, 3)
    metrics.write({"kind": "event", "step": 4, "message": ""})
    metrics.close()
    assert _rows(path)[:3] == [
        {"step": 1, "a": None, "a_is": "nan"},
        {"step": 2, "text": "-Infinity"},
        {"step": 3, "a": 1e3},
    ]
    assert b'{"step": 3,  "a": 1e3}\n' in path.read_bytes(), "as it was"


def test_a_row_behind_a_byte_order_mark_is_kept(path: Path) -> None:
    path.write_bytes(BOM_UTF8 + b'{"kind": "train", "step": 1}\n{"kind": "train", "step": 2}\n')
    Metrics.open(path, 2).close()
    assert path.read_bytes() == b'{"kind": "train", "step": 1}\n{"kind": "train", "step": 2}\n'


def test_a_start_begins_with_an_empty_file(path: Path) -> None:
    path.write_text('{"step": 0}\n')
    Metrics.open(path, None).close()
    assert path.read_bytes() == b""


def test_resume_without_a_file(path: Path) -> None:
    Metrics.open(path, 10).close()
    assert path.read_bytes() == b""


def test_unreadable_lines_are_passed_over(path: Path) -> None:
    path.write_bytes(b'{"step": 1}\n\0\0\0\0\n\xff\xfe\n[1]\n{"step": 2}\n{"ste')
    assert list(read_rows(path)) == [{"step": 1}, {"step": 2}]


class _Disk:
    """`os.write` of a disk with `room` bytes left."""

    def __init__(self) -> None:
        self.room = 10**9
        self.write = os.write

    def __call__(self, descriptor: int, data: bytes) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.write(descriptor, bytes(data[: self.room]))
        self.room -= written
        return written


def test_a_full_disk_delays_rows_and_loses_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    disk = _Disk()
    metrics = Metrics.open(path, None, warn=said.append)
    monkeypatch.setattr("galore.trainer.common.appended.os.write", disk)
    metrics.write({"step": 1})
    disk.room = 5  # the second row is cut in the middle
    for step in (2, 3, 4):
        metrics.write({"step": step})
    assert len(said) == 1
    assert "No space left" in said[0]
    assert list(read_rows(path)) == [{"step": 1}]
    disk.room = 10**9
    metrics.write({"step": 5})
    assert _rows(path) == [{"step": step} for step in range(1, 6)]
    assert said[1:] == ["metrics.jsonl: written again, no row is missing"]
    metrics.close()
    assert len(said) == 2


def test_rows_that_never_fit_are_counted(path: Path) -> None:
    said: list[str] = []
    metrics = Metrics(Appended(Path("/dev/full")), said.append, None)
    for step in (1, 2):
        metrics.write({"step": step})
    metrics.close()
    assert "2 rows lost" in said[-1]


def test_the_sink_gets_every_row(path: Path) -> None:
    class Sink:
        def __init__(self) -> None:
            self.rows: list[Any] = []
            self.ends = list[str]()

        def log(self, row: dict[str, Any]) -> None:
            self.rows.append(row)

        def close(self, end: str = "finished") -> None:
            self.ends.append(end)

    sink = Sink()
    metrics = Metrics.open(path, None, sink=sink)
    metrics.write({"step": 1})
    metrics.close("interrupted")
    assert (sink.rows, sink.ends) == ([{"step": 1}], ["interrupted"])
