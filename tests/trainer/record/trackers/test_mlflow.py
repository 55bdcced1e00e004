"""MLflow, at its boundary and, where it is installed, in a store of files."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.record.metrics import End
from galore.trainer.record.rundir import RunDir
from galore.trainer.record.trackers.sink import make_sink


class _Client:
    def __init__(self) -> None:
        self.experiments, self.calls = dict[str, str](), list[Any]()

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name: str) -> str:
        return self.experiments.setdefault(name, str(len(self.experiments)))

    def create_run(self, experiment: str, run_name: str) -> Any:
        self.calls.append(("run", experiment, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id=f"run{len(self.calls)}"))

    def update_run(self, run: str, status: str) -> None:
        self.calls.append((status, run))

    def log_batch(self, run: str, metrics: Any = (), params: Any = (), synchronous: bool = True) -> None:
        self.calls.append(("metrics", run, metrics, synchronous) if metrics else ("params", run, params))

    def set_terminated(self, run: str, status: str) -> None:
        self.calls.append((status, run))


def _run(folder: Path, said: list[str], end: End = "finished", **log: Any) -> None:
    known = {"data": {"source": "packaged"}, "train": {"max_steps": 9}, "log": {"report_to": ["mlflow"], **log}}
    sink = make_sink(Recipe.model_validate(known), RunDir(folder), said.append)
    assert sink is not None
    sink.log({"kind": "train", "step": 1, "loss_nats": 2.0})
    sink.close(end)


def test_at_its_boundary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client, said = _Client(), list[str]()
    entities = SimpleNamespace(Param=lambda *given: given, Metric=lambda name, value, time, step: (name, value, step))
    flushed = list[int]()
    module: Any = SimpleNamespace(
        MlflowClient=lambda: client, entities=entities, flush_async_logging=lambda: flushed.append(1)
    )
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    ends: tuple[End, ...] = ("interrupted", "failed", "finished")
    for end in ends:  # a start and two resumptions
        _run(tmp_path, said, end)
    (made,) = [each for each in client.calls if each[0] == "run"]
    assert made == ("run", "0", tmp_path.name)
    assert [*client.experiments] == ["theirs"]
    metrics = [each for each in client.calls if each[0] == "metrics"]
    assert len(metrics) == 3
    assert metrics[0][1:] == (
        "run1",
        [("train/loss_nats", 2.0, 1), ("train/loss", 2.0, 1), ("train/global_step", 1.0, 1)],
        False,
    )
    params = [param for each in client.calls if each[0] == "params" for param in each[2]]
    assert ("train.max_steps", "9") in params
    states = [each for each in client.calls if len(each) == 2]
    assert states == [(state, "run1") for end in ("KILLED", "FAILED", "FINISHED") for state in ("RUNNING", end)]
    assert len(flushed) == 3
    assert said == ["mlflow records run run1 of experiment theirs"] * 3


@pytest.mark.slow
def test_the_real_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs the mlflow extra")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    _run(tmp_path, [], "failed")
    _run(tmp_path, [])
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("galore").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["train/loss"] == 2.0
    assert run.data.params["train.max_steps"] == "9"
    assert "mlflow.user" not in run.data.tags
