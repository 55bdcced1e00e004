"""Trackio, at its boundary and, where it is installed, in its own database."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.record.rundir import RunDir
from galore.trainer.record.trackers.sink import make_sink


class _Service:
    def __init__(self) -> None:
        self.started, self.rows, self.finished = list[dict[str, Any]](), list[Any](), 0

    def init(self, project: str, name: str, config: Any, resume: str, embed: bool, private: bool | None = None) -> Any:
        known = {"project": project, "name": name, "config": config, "resume": resume, "private": private}
        self.started.append(known)
        print("noise")
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.rows.append((step, values))

    def finish(self) -> None:
        self.finished += 1


def _run(folder: Path, said: list[str], **log: Any) -> None:
    known = {"data": {"source": "packaged"}, "train": {"max_steps": 9}, "log": {"report_to": "trackio", **log}}
    sink = make_sink(Recipe.model_validate(known), RunDir(folder), said.append)
    assert sink is not None
    sink.log({"kind": "train", "step": 1, "loss_nats": 2.0})
    sink.close()


def test_a_resumed_run_has_its_name_and_two_of_one_name_are_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service, said = _Service(), list[str]()
    monkeypatch.setitem(sys.modules, "trackio", service)  # type: ignore[arg-type]
    for folder in ("a", "a", "b"):
        (tmp_path / folder).mkdir(exist_ok=True)
        _run(tmp_path / folder, said, run_name="demo", wandb_project="mine")
    first, again, other = (each["name"] for each in service.started)
    assert first == again != other
    assert first.startswith("demo-")
    assert service.started[0]["resume"] == "allow"
    assert service.started[0]["private"] is True
    assert service.started[0]["project"] == "mine"
    assert service.rows[0] == (1, {"train/loss_nats": 2.0, "train/loss": 2.0, "train/global_step": 1.0})
    assert service.finished == 3
    assert capsys.readouterr().out == ""
    assert said[0] == "trackio records in project mine: `trackio show` shows the curves"


@pytest.mark.slow
def test_the_real_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "kept"))
    pytest.importorskip("trackio", reason="needs the trackio extra")
    _run(tmp_path, [])
    assert [*(tmp_path / "kept").glob("galore*")]
