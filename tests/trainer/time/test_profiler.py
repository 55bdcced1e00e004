"""Profiled steps of a run: the same losses, traces that can be read, and an account of their seconds wherever it is told."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from consoles import Quiet

from galore.trainer import loop, recorder
from galore.trainer.common.errors import UserError
from galore.trainer.machine.hardware import Peak
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.schema.train import LogSection
from galore.trainer.record.metrics import read_rows
from galore.trainer.record.shown import report
from galore.trainer.run import run_training
from galore.trainer.time import profiler

RECIPE = """
model: {hidden_size: 16, intermediate_size: 24, num_hidden_layers: 1, num_attention_heads: 2}
data: {source: local, path: text.txt, tokenizer_vocab_size: 280, max_length: 16, validation_fraction: 0}
optim: {rank: 4, update_proj_gap: 2, stagger: false}
train: {max_steps: 5, global_batch_size: 4, micro_batch_size: 2, save_steps: null, num_threads: 1, device: cpu}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("profiled")
    (folder / "text.txt").write_text("\n\n".join(f"the {n}th word of a text that is {n * n} long" for n in range(99)))
    (folder / "here.yaml").write_text(RECIPE)
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw", lambda history: {})
        patch.setattr(recorder, "device_peak", lambda device, dtype: Peak(None, "unknown", "not measured"))
        patch.setenv("GALORE_CACHE", str(folder / "cache"))
        yield str(folder / "here.yaml")
    torch.set_num_threads(threads)


def carried_out(recipe: str, folder: Path, *settings: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of the metrics, and what was said."""
    console = Quiet()
    run_training(load_recipe(recipe, list(settings)), folder, False, console)
    return list(read_rows(folder / "metrics.jsonl")), console.messages


def losses(rows: list[dict[str, Any]]) -> list[float]:
    return [row["loss_nats"] for row in rows if row["kind"] == "train"]


def profiles(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row["profile"] for row in rows if "profile" in row]


def test_profiled_steps_are_the_same_steps_and_their_seconds_are_told(recipe: str, tmp_path: Path) -> None:
    plain, _ = carried_out(recipe, tmp_path / "plain")
    assert not (tmp_path / "plain" / "profile").exists()
    rows, said = carried_out(recipe, tmp_path / "run", "log.profile_steps=2-3")
    assert losses(rows) == losses(plain)
    [account] = profiles(rows)
    assert account["steps"] == 2
    assert {"data", "forward", "backward", "projection", "update", "refresh"} <= account["parts"].keys()
    assert all(seconds > 0 for seconds in account["parts"].values())
    assert sum(account["parts"].values()) == pytest.approx(account["seconds"])
    traces = sorted((tmp_path / "run" / "profile").iterdir())
    assert [trace.name for trace in traces] == ["step-00000002.json.gz", "step-00000003.json.gz"]
    events = json.loads(gzip.decompress(traces[0].read_bytes()))["traceEvents"]
    assert sum(event.get("name") == "galore.forward" for event in events) == 2
    assert any(line.startswith("  backward") and line.endswith("%") for line in said)
    assert "## Seconds of a step" in (tmp_path / "run" / "report.md").read_text()


def test_a_run_that_ends_in_between_tells_of_the_steps_that_are_whole(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = loop.attempt_step

    def breaks(run: Any, batch: Any, number: int) -> Any:
        if number == 3:
            raise KeyboardInterrupt
        return attempt(run, batch, number)

    monkeypatch.setattr(loop, "attempt_step", breaks)
    with pytest.raises(KeyboardInterrupt):
        carried_out(recipe, tmp_path / "run", "log.profile_steps=2-4")
    [account] = profiles(list(read_rows(tmp_path / "run" / "metrics.jsonl")))
    assert account["steps"] == 1
    assert not torch.autograd.profiler._is_profiler_enabled


def test_what_hinders_the_profiler_is_told_and_the_run_goes_on(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiler, "LARGEST_TRACE_BYTES", 100)
    rows, said = carried_out(recipe, tmp_path / "large", "log.profile_steps=2-3")
    assert len(losses(rows)) == 5
    assert not profiles(rows)
    assert any("the trace of step 2 was not kept" in line for line in said)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        rows, said = carried_out(recipe, tmp_path / "other", "log.profile_steps=2-3", "train.max_steps=3")
    assert len(losses(rows)) == 3
    assert sum("not profiled" in line for line in said) == 1


def test_steps_that_the_run_does_not_have_are_refused(recipe: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="asks for step 6, and the run has 5 steps"):
        carried_out(recipe, tmp_path / "run", "log.profile_steps=5-6")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("asked", "steps"), [("20-22", [20, 21, 22]), ([3, 4], [3, 4]), (7, [7]), ("7", [7]), (None, [])]
)
def test_a_range_is_written_in_either_way(asked: Any, steps: list[int]) -> None:
    assert list(LogSection(profile_steps=asked).profiled) == steps


@pytest.mark.parametrize(
    "asked", ["5-3", "0-2", "1-99", "x", "1-2-3", "-3", [1], [1, 2, 3], [3, 2], 0, [0, 2], "", "0", "2-"]
)
def test_what_is_no_range_of_a_few_steps_is_refused(asked: Any) -> None:
    with pytest.raises(ValueError, match=r"profile_steps|greater than"):
        LogSection(profile_steps=asked)
