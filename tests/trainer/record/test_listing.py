"""A list of runs is quick, tells each one's state, and no damage of one hides the others."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from galore.trainer.common.lock import exclusive
from galore.trainer.record.listing import Listed, list_runs

FACTS = {
    "method": "GaLore r=64, α=0.25",
    "parameters": [{"count": 1000, "name": "a"}, {"count": 24}],
    "total_steps": 200,
}
RECIPE = "model:\n  dtype: float32\noptim:\n  # GaLore or not\n  method: lora\n  rank: 4\ntrain:\n  max_steps: 200\n"


def make(folder: Path, *, saved: int | None = None, **facts: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "run.json").write_text(json.dumps(FACTS | facts))
    rows = [{"kind": "train", "step": step, "loss_nats": 9 - step / 100} for step in range(1, 101)]
    rows.insert(60, {"kind": "eval", "step": 60, "loss_nats": 5.5})
    rows.append({"kind": "event", "step": 100, "message": "x"})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"kind": "tr')
    if saved is not None:
        (folder / "checkpoints" / f"step-{saved:08d}").mkdir(parents=True)
    return folder


def only(folder: Path) -> Listed:
    (found,) = list_runs(folder)
    return found


def test_a_run_in_a_few_facts(tmp_path: Path) -> None:
    run = make(tmp_path / "a", finished="2026")
    found = only(tmp_path)
    told = (found.state, found.method, found.parameters, found.step, found.total_steps, found.loss, found.held_out_loss)
    assert told == ("finished", "GaLore r=64", 1024, 100, 200, 8.0, 5.5)
    assert found.bytes == sum(path.stat().st_size for path in run.iterdir())
    assert json.loads(json.dumps(found.as_json()))["folder"] == str(run)
    os.utime(run / "metrics.jsonl", (0, 12_345.0))
    assert only(run).written == 12_345.0
    (run / "metrics.jsonl").unlink()
    assert only(run).written == (run / "recipe.yaml").stat().st_mtime
    (run / "run.json").write_text(json.dumps({"finished": "2026"}))  # an older run wrote no method down
    assert (only(run).method, only(run).total_steps) == ("lora", None)


def test_states(tmp_path: Path) -> None:
    failed = make(tmp_path / "failed", saved=50, ended={"as": "failed"})
    stopped = make(tmp_path / "stopped", saved=100, ended={"as": "interrupted"})
    killed = make(tmp_path / "killed")
    broken = make(tmp_path / "broken")
    (broken / "error.txt").write_text("Traceback")
    found = {each.folder: (each.state, each.resumes_after) for each in list_runs(tmp_path)}
    assert found[failed] == ("failed", 50)
    assert found[stopped] == ("interrupted", 100)
    assert found[killed] == ("interrupted", None)
    assert found[broken] == ("failed", None)
    with exclusive(stopped / ".lock"):
        assert only(stopped).state == "running"
    assert only(stopped).state == "interrupted"


def test_a_run_that_was_stopped_early_is_finished_before_its_last_step(tmp_path: Path) -> None:
    early = make(tmp_path / "early", finished="2026", stopped_early=100)
    whole = make(tmp_path / "whole", finished="2026")
    going_on = make(tmp_path / "going-on", stopped_early=100)
    found = {each.folder: (each.state, each.stopped_early) for each in list_runs(tmp_path)}
    assert found == {early: ("finished", True), whole: ("finished", False), going_on: ("interrupted", False)}


def test_where_runs_are_looked_for(tmp_path: Path) -> None:
    make(tmp_path / "sweep/rte/galore")
    make(tmp_path / "sweep/rte/galore/checkpoints/inner")
    make(tmp_path / ".hidden/run")
    make(tmp_path / "1/2/3/4/5/6/too-deep")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/recipe.yaml").write_text("a recipe, and no run")
    (tmp_path / "sweep/again").symlink_to(tmp_path)
    assert [each.folder for each in list_runs(tmp_path)] == [tmp_path / "sweep/rte/galore"]
    assert list_runs(tmp_path / "nowhere") == []


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda run: (run / name).write_bytes(content)


def pipe(name: str) -> Callable[[Path], object]:
    def act(run: Path) -> None:
        (run / name).unlink()
        os.mkfifo(run / name)

    return act


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no JSON": (write("run.json", b'{"total'), "run.json is no JSON"),
    "deep": (write("run.json", b"[" * 100_000), "run.json is no JSON"),
    "bytes": (write("run.json", bytes(range(256))), "run.json is no JSON"),
    "a list": (write("run.json", b"[1]"), "run.json holds no facts"),
    "rows": (write("metrics.jsonl", b"\x00" * 5000), "metrics.jsonl holds no row"),
    "lost": (
        write("run.json", json.dumps({"finished": "2026", "final": {"step": 101}}).encode()),
        "metrics.jsonl tells of fewer steps than run.json",
    ),
    "a pipe": (pipe("metrics.jsonl"), "is a pipe, not a regular file"),
    "another": (pipe("run.json"), "is a pipe, not a regular file"),
    "no recipe": (lambda run: (run / "recipe.yaml").unlink(), "recipe.yaml is missing, or no file"),
    "no file": (pipe("recipe.yaml"), "recipe.yaml is missing, or no file"),
}


@pytest.mark.parametrize(("harm", "told"), DAMAGED.values(), ids=DAMAGED)
def test_damage_is_told_in_a_line_and_hides_nobody(tmp_path: Path, harm: Callable[[Path], object], told: str) -> None:
    harm(make(tmp_path / "bad"))
    make(tmp_path / "good", finished="2026")
    bad, good = list_runs(tmp_path)
    assert (bad.state, bad.problem, good.state) == ("damaged", told, "finished")


@pytest.mark.parametrize(
    "facts",
    [
        {"method": 3, "parameters": 7, "total_steps": "200", "ended": []},
        {"method": None, "parameters": [1, {"count": "x"}, {"count": True}], "total_steps": -1, "ended": {"as": {}}},
    ],
)
def test_facts_of_other_types_are_not_known(tmp_path: Path, facts: dict[str, Any]) -> None:
    make(tmp_path / "a", **facts)
    found = only(tmp_path)
    assert (found.method, found.parameters, found.total_steps, found.state) == ("lora", None, None, "interrupted")


def test_only_the_end_of_a_long_file_is_read(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    sample = json.dumps({"kind": "eval", "step": 9, "loss_nats": 1, "sample": "x" * 100_000}) + "\n"
    step = json.dumps({"kind": "train", "step": 9, "loss_nats": None, "loss_nats_is": "nan"}) + "\n"
    (run / "metrics.jsonl").write_text("garbage\n" * 100_000 + step + sample)
    assert (only(run).step, only(run).loss, only(run).held_out_loss) == (9, None, 1)


def test_a_thousand_runs_in_seconds(tmp_path: Path) -> None:
    for number in range(1000):
        make(tmp_path / f"{number:04d}", saved=1)
    began = time.process_time()
    assert len(list_runs(tmp_path)) == 1000
    assert time.process_time() - began < 5


def test_a_link_to_itself_hides_nothing(tmp_path: Path) -> None:
    run = tmp_path / "a"
    run.mkdir()
    (run / "recipe.yaml").write_text("")
    (run / "run.json").write_text('{"method": "\\ud800"}')
    (run / "metrics.jsonl").write_text('{"kind": "train", "step": 7, "loss_nats": 1' + "0" * 400 + "}\n")
    (tmp_path / "loop").symlink_to("loop")
    (found,) = list_runs(tmp_path)
    assert found.folder == run
    assert found.loss is None
