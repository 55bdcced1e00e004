"""Several tasks and methods: what is done is kept, what broke off goes on, what fails is told; then tables and submissions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galore.trainer.common.errors import Interrupted, RunFailed, UserError
from galore.trainer.sweep import jobs
from galore.trainer.sweep.glue.finetune import finetune
from galore.trainer.sweep.glue.grid import grid
from galore.trainer.sweep.glue.standing import best, standings
from galore.trainer.sweep.glue.submission import predict_tests, submission_name
from galore.trainer.sweep.glue.table import as_object, as_objects, markdown
from galore.trainer.sweep.jobs import Show
from galore.trainer.sweep.options import Trial
from galore.trainer.sweep.outcome import Outcome, Sweep
from galore.trainer.tasks.glue import TASKS

pytestmark = pytest.mark.usefixtures("undrawn")
SMALL = ["data.max_length=32", "train.num_train_epochs=1", "train.save_steps=null", "optim.update_proj_gap=3"]


class Nothing:
    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def show(told: list[str]) -> Show:
    return Show(lambda loaded: Nothing(), lambda *_: None, told.append)  # type: ignore[arg-type, return-value]


@pytest.fixture
def cells(tiny_roberta: Path, glue_folder: Path) -> Callable[..., list[Trial]]:
    def make(tasks: str, methods: str = "galore", **more: Any) -> list[Trial]:
        where = [f"model.name_or_path={tiny_roberta}", f"data.path={glue_folder}", *SMALL]
        return grid(None, where, tasks, methods, **more)

    return make


def test_done_is_done_and_new_runs_join(
    cells: Callable[..., list[Trial]], tmp_path: Path, show: Show, told: list[str], drawn: Callable[[], None]
) -> None:
    root = tmp_path / "out"
    first, failed = finetune(cells("rte"), root, False, show)
    assert (first.compared[0].status, failed) == ("done", {})
    with pytest.raises(UserError, match="already holds a run of rte/"):
        finetune(cells("rte,sst2"), root, False, show)
    told.clear()
    both, _ = finetune(cells("rte,sst2", "galore,lora"), root, True, show)
    assert [each.status for each in both.compared] == ["done"] * 4
    assert told[0].endswith("rte/galore-r4-lr1e-05-seed42 is done")
    assert both.compared[0] == first.compared[0]
    objects = json.loads((root / "glue.json").read_text())
    assert [(each["task"], each["method"]) for each in objects] == [
        ("rte", "galore"),
        ("rte", "lora"),
        ("sst2", "galore"),
        ("sst2", "lora"),
    ]
    drawn()
    finetune(cells("rte,sst2", "galore,lora"), root, True, show)
    assert (root / "glue.png").stat().st_size > 5_000


def test_a_task_that_fails_does_not_lose_the_others(
    cells: Callable[..., list[Trial]], tmp_path: Path, show: Show
) -> None:
    found, failures = finetune(cells("cola,rte,qqp"), tmp_path / "out", False, show)
    assert [each.status.split(":")[0] for each in found.compared] == ["failed", "done", "failed"]
    assert [folder.split("/")[0] for folder in failures] == ["cola", "qqp"]
    text = (tmp_path / "out/glue.md").read_text()
    assert "## Not done\n\n- cola/galore" in text
    assert "| CoLA | matthews_correlation | galore-r4 | 3e-05 | – |" in text
    assert [each["status"].split(":")[0] for each in as_objects(found)] == ["failed", "done", "failed"]


def test_data_that_is_nowhere_is_an_error_before_anything_is_written(
    cells: Callable[..., list[Trial]], tmp_path: Path, show: Show, told: list[str]
) -> None:
    with pytest.raises(UserError, match="CoLA"):
        finetune(cells("cola,qqp", runs=2), tmp_path / "out", False, show)
    assert (told, (tmp_path / "out").exists()) == ([], False)


def test_a_model_that_is_nowhere_is_an_error_before_anything_is_written(
    glue_folder: Path, tmp_path: Path, show: Show
) -> None:
    where = [f"model.name_or_path={tmp_path / 'none'}", f"data.path={glue_folder}", *SMALL]
    with pytest.raises(UserError, match="is not a folder"):
        finetune(grid(None, where, "rte,sst2", "galore"), tmp_path / "out", False, show)
    assert not (tmp_path / "out").exists()


def test_bad_input_of_the_only_task_is_told_once(
    cells: Callable[..., list[Trial]], glue_folder: Path, tmp_path: Path, show: Show, told: list[str]
) -> None:
    (glue_folder / "sst2/train.jsonl").write_text('{"sentence": "fine", "label": 7}\n')
    with pytest.raises(UserError, match="the label is 7"):
        finetune(cells("sst2", runs=2), tmp_path / "out", False, show)
    assert len(told) == 1
    assert not (tmp_path / "out/glue.md").exists()


def test_a_run_that_failed_goes_on(
    cells: Callable[..., list[Trial]], tmp_path: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = jobs.run_training

    def fails(loaded: Any, directory: Path, *rest: Any) -> Path:
        if directory.parent.name == "rte":
            raise RunFailed("the disk is full")
        return train(loaded, directory, *rest)

    monkeypatch.setattr(jobs, "run_training", fails)
    _, failures = finetune(cells("rte,sst2"), tmp_path / "out", False, show)
    assert [error.what for error in failures.values()] == ["the disk is full"]
    monkeypatch.setattr(jobs, "run_training", train)
    found, failures = finetune(cells("rte,sst2"), tmp_path / "out", True, show)
    assert ([each.status for each in found.compared], failures) == (["done", "done"], {})


def test_a_signal_keeps_what_is_done_and_says_how_to_go_on(
    cells: Callable[..., list[Trial]], tmp_path: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = jobs.run_training

    def stops(loaded: Any, directory: Path, *rest: Any) -> Path:
        if directory.parent.name == "sst2":
            raise Interrupted("by SIGINT after step 1; saved")
        return train(loaded, directory, *rest)

    monkeypatch.setattr(jobs, "run_training", stops)
    with pytest.raises(Interrupted, match="by SIGINT") as stopped:
        finetune(cells("rte,sst2"), tmp_path / "out", False, show)
    assert (stopped.value.fix, stopped.value.exit_code) == ("the same command with --resume goes on", 75)
    found = json.loads((tmp_path / "out/glue.json").read_text())
    assert [each["status"] for each in found] == ["done", "not finished"]


@pytest.mark.parametrize("task", ["sst2", "mnli", "stsb", "rte"])
def test_the_test_splits_are_answered(
    cells: Callable[..., list[Trial]], tmp_path: Path, show: Show, told: list[str], task: str
) -> None:
    root = tmp_path / "out"
    found, _ = finetune(cells(task), root, False, show)
    written, failures = predict_tests(found.compared, root, told.append)
    assert failures == {}
    assert [path.name for path in written] == [submission_name(TASKS[task], split) for split in TASKS[task].test_splits]
    lines = written[0].read_text().splitlines()
    assert (lines[0], len(lines)) == ("index\tprediction", 4)
    assert "GLUE's server takes it with all" in told[-1]


def test_a_run_that_cannot_be_read_does_not_stop_the_answers_of_the_others(
    cells: Callable[..., list[Trial]], tmp_path: Path, show: Show, told: list[str]
) -> None:
    root = tmp_path / "out"
    found, _ = finetune(cells("rte,sst2"), root, False, show)
    for weights in (root / "rte").glob("*/checkpoints/*/model*"):
        weights.write_bytes(b"x")
    written, failures = predict_tests(found.compared, root, told.append)
    assert [path.name for path in written] == ["SST-2.tsv"]
    assert [folder.split("/")[0] for folder in failures] == ["rte"]
    assert [line.split("/")[0] for line in told if "answers no test split: " in line] == ["rte"]
    written[0].unlink()
    written[0].mkdir()
    written, failures = predict_tests(found.compared, root, told.append)
    assert (written, [folder.split("/")[0] for folder in failures]) == ([], ["rte", "sst2"])


def outcome(cells: Callable[..., list[Trial]], rate: str, seeds: int, *scores: list[float]) -> list[Outcome]:
    made = cells("mrpc", rates=rate, runs=seeds)
    return [
        Outcome(
            cell,
            "done",
            9,
            10,
            20,
            3.0,
            epochs=tuple({"accuracy": 0.5, "f1": each} for each in own),
            baseline={"f1": 0.8},
        )
        for cell, own in zip(made, scores, strict=True)
    ]


def test_medians_over_seeds_at_the_best_rate(cells: Callable[..., list[Trial]]) -> None:
    low = outcome(cells, "1e-5", 3, [0.9, 0.1], [0.2, 0.3], [0.2, 0.2])
    high = outcome(cells, "1e-4", 3, [0.95, 0.5], [0.6, 0.7], [0.9, 0.6])
    (standing,) = standings([*low, *high])
    facts = as_object(standing)
    assert (facts["learning_rate"], facts["f1"], facts["min"], facts["max"]) == (1e-4, 0.6, 0.5, 0.7)
    assert facts["best_epoch"]["f1"] == {"median": 0.9, "min": 0.7, "max": 0.95}
    assert facts["last_epoch"]["accuracy"] == {"median": 0.5, "min": 0.5, "max": 0.5}
    assert standing.spread("f1", best)["median"] == 0.9
    assert facts["seeds"] == [42, 43, 44]
    assert "| MRPC | f1 | galore-r4 | 0.0001 | 60.00 | 50.00–70.00 | 90.00 | 80.00 | (92.25) |" in markdown(
        "T", Sweep([*low, *high], [], {})
    )


def test_the_papers_number_stands_beside_the_same_setting_only(tiny_roberta: Path) -> None:
    def published(*more: str, stopped_early: int | None = None) -> tuple[float | None, list[str]]:
        (cell,) = grid(None, list(more), "mrpc", "galore")
        scores = {"accuracy": 0.5, "f1": 0.9}
        run = Outcome(cell, "done", 1, 1, 1, 1.0, epochs=(scores,), stopped_early=stopped_early)
        facts = as_object(standings([run])[0])
        return facts["published"], (facts["published_elsewhere"] or {}).get("differs", [])

    assert published() == (0.9225, [])
    score, differs = published("data.max_train_samples=100", "train.num_train_epochs=3")
    assert score is None
    assert differs == ["epochs 3.0, not 30", "100 examples"]
    assert published("optim.rank=5") == (None, [])
    assert published("train.max_steps=7") == (None, ["7 steps"])
    assert published(stopped_early=1200) == (None, ["stopped early after step 1,200"])
    assert published("optim.min_lr_ratio=0.5") == (None, ["min_lr_ratio 0.5, not 0.0"])
    assert published("optim.warmup_steps=500") == (None, ["warmup_steps 500, not 0"])
    assert published("optim.warmup_ratio=0.06") == (None, ["warmup_ratio 0.06, not 0.0"])
    assert published("optim.warmup_ratio=0.06", "optim.warmup_steps=0") == (0.9225, [])
    assert published("optim.residual=frugal") == (None, [])


def test_alarms_stand_below_the_table(cells: Callable[..., list[Trial]]) -> None:
    (run,) = outcome(cells, "1e-5", 1, [0.8])
    alarmed = replace(run, collapsed="the model answers `x`")
    assert "- mrpc/galore-r4-lr1e-05-seed42: the model answers `x`" in markdown("T", Sweep([alarmed], [], {}))
    assert as_object(standings([alarmed])[0])["collapsed"] == ["the model answers `x`"]
