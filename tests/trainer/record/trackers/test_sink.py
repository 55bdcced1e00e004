"""Trackers are guests: they may be absent, refuse or break, and the run goes on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.recipe.extras import EXTRAS, refuse_missing_extras
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.recipe.schema.train import Tracker
from galore.trainer.record.rundir import RunDir
from galore.trainer.record.trackers import sink as sinks
from galore.trainer.record.trackers.sink import TRACKERS, make_sink


class Fake:
    """A tracker that remembers; `broken` is the method that raises."""

    def __init__(self, broken: str = "") -> None:
        self.broken, self.known, self.ends = broken, list[Any](), list[str]()

    def log(self, step: int, values: dict[str, Any]) -> None:
        if self.broken == "log":
            raise RuntimeError("network is down")
        self.known.append((step, values["train/loss"]))

    def close(self, end: str) -> None:
        self.ends.append(end)


def _recipe(**log: Any) -> Recipe:
    return Recipe.model_validate({"data": {"source": "packaged"}, "train": {"max_steps": 1}, "log": log})


def _begun(monkeypatch: pytest.MonkeyPatch, **fakes: Any) -> None:
    monkeypatch.setattr(sinks, "require", lambda *_: None)
    for name, fake in fakes.items():

        def begin(module: Any, start: Any, fake: Any = fake) -> Any:
            if fake == "refuses":
                raise RuntimeError("no server")
            return fake

        monkeypatch.setitem(TRACKERS, name, begin)


def test_every_tracker_of_a_recipe_is_in_the_table_and_has_its_extra() -> None:
    assert set(get_args(Tracker)) == set(TRACKERS)
    assert set(TRACKERS) <= set(EXTRAS)


def test_none_asked_for_none_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TRACKERS:
        monkeypatch.setitem(sys.modules, name, None)
    assert make_sink(_recipe(), RunDir(tmp_path)) is None
    assert make_sink(_recipe(report_to=[]), RunDir(tmp_path)) is None


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    expected = rf"log.report_to: report_to: {name} needs the package `{name}`.*\n.*galore-llm\[{name}\]"
    with pytest.raises(UserError, match=expected):
        refuse_missing_extras(_recipe(report_to=[name], **{}).model_copy(update={"data": _local()}))
    with pytest.raises(UserError, match=expected):
        make_sink(_recipe(report_to=name), RunDir(tmp_path))


def _local() -> Any:
    known = {"data": {"source": "local", "path": "x"}, "train": {"max_steps": 1}}
    return Recipe.model_validate(known).data


def test_several_at_once_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = Fake(), Fake()
    _begun(monkeypatch, wandb=one, tensorboard=two)
    sink = make_sink(_recipe(report_to=["wandb", "tensorboard", "wandb"]), RunDir(tmp_path), print)
    assert sink is not None
    sink.log({"kind": "train", "step": 3, "loss_nats": 2.0})
    sink.log({"kind": "event", "step": 3, "message": "hello"})
    sink.close("interrupted")
    assert one.known == two.known == [(3, 2.0)]
    assert one.ends == two.ends == ["interrupted"]


def test_a_failure_warns_once_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, good = list[str](), Fake()
    _begun(monkeypatch, wandb=Fake("log"), mlflow=good)
    sink = make_sink(_recipe(report_to=["wandb", "mlflow"]), RunDir(tmp_path), said.append)
    assert sink is not None
    for step in range(3):
        sink.log({"kind": "train", "step": step, "loss_nats": 1.0})
    sink.close()
    assert said == ["wandb stopped working (network is down); the run goes on, metrics.jsonl has everything"]
    assert len(good.known) == 3


def test_one_that_refuses_is_told_and_those_before_it_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Fake()
    _begun(monkeypatch, wandb=first, mlflow="refuses")
    with pytest.raises(UserError, match=r"log.report_to: mlflow does not start: no server"):
        make_sink(_recipe(report_to=["wandb", "mlflow"]), RunDir(tmp_path))
    assert first.ends == ["failed"]
