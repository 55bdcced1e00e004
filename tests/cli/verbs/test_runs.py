"""`galore runs` on 80 columns, as JSON, and where there is nothing."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest


def make(name: str, **facts: Any) -> None:
    run = Path(name)
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text("optim:\n  method: full\n")
    known = {"method": "full-rank AdamW, factor 1", "parameters": [{"count": 9_630_000}], "total_steps": 150_000}
    (run / "run.json").write_text(json.dumps(known | facts))
    (run / "metrics.jsonl").write_text('{"kind": "train", "step": 12345, "loss_nats": 3.14159}\n')


@pytest.mark.parametrize("columns", [80, 60])
def test_every_run_is_readable(galore: Any, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    make("runs/llama-60m", finished="2026")
    make("runs/a [b]\x1b[31m red", ended={"as": "failed"})
    Path("runs/a [b]\x1b[31m red/checkpoints/step-00012000").mkdir(parents=True)
    os.utime("runs/a [b]\x1b[31m red/metrics.jsonl", (0, time.time() - 3.2 * 86_400))
    make("runs/broken")
    Path("runs/broken/run.json").write_text("{")
    shown = galore("runs").stdout
    assert all(len(line) <= columns for line in shown.splitlines()), shown
    assert "\x1b" not in shown
    words = " ".join(shown.split())
    for piece in (
        "llama-60m",
        "9.63M",
        "12,345/150,000",
        "3.1416",
        "finished",
        "a [b]",
        "run.json is no JSON",
        "12,000",
        "3d",
    ):
        assert piece in words, piece


def test_a_run_that_was_stopped_early_says_so(galore: Any) -> None:
    make("runs/one", finished="2026", stopped_early=12345)
    assert "finished, stopped early" in " ".join(galore("runs").stdout.split())


def test_a_fact_of_absurd_length_is_cut_short(galore: Any) -> None:
    make("runs/one", method="m" * 100_000)
    assert len(galore("runs").stdout) < 3_000


def test_a_sweep_is_a_table_on_80_columns(galore: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    make("runs/compare/galore-seed2", finished="2026", method="GaLore r=8, x")
    head, row = galore("runs").stdout.splitlines()
    assert head.split() == ["run", "method", "steps", "loss", "on", "disk", "age", "state"]
    assert row.startswith("compare/galore-seed2  GaLore r=8  12,345/150,000  3.1416")


def test_json_and_the_last_run_alone(galore: Any) -> None:
    make("elsewhere/one")
    (found,) = json.loads(galore("runs", "elsewhere/one", "--json").stdout)
    assert (found["folder"], found["state"], found["step"]) == ("elsewhere/one", "interrupted", 12345)


@pytest.mark.parametrize(
    ("facts", "code", "said"),
    [
        ({"finished": "2026"}, 0, "finished"),
        ({}, 75, "interrupted"),
        ({"ended": {"as": "interrupted"}}, 75, "interrupted"),
        ({"ended": {"as": "failed"}}, 1, "failed"),
    ],
)
def test_the_exit_code_that_torchrun_does_not_pass_on(galore: Any, facts: dict[str, Any], code: int, said: str) -> None:
    make("runs/one", **facts)
    make("runs/one-more", finished="2026")
    found = galore("runs", "runs/one", "--exit-code")
    assert (found.exit_code, found.stdout) == (code, f"{said}\n")
    found = galore("runs", "runs/one", "--exit-code", "--json")
    assert (found.exit_code, json.loads(found.stdout)["state"]) == (code, said)


def test_the_exit_code_is_of_one_run(galore: Any) -> None:
    make("runs/one")
    found = galore("runs", "runs", "--exit-code")
    assert found.exit_code == 2
    assert "runs: is no run itself" in found.stderr


def test_no_runs(galore: Any) -> None:
    nothing = galore("runs")
    assert (nothing.exit_code, nothing.stdout.startswith("there is no run at or below runs")) == (0, True)
    assert galore("runs", "--json").stdout == "[]\n"
    refused = galore("runs", "nowhere")
    assert refused.exit_code == 2
    assert "nowhere: is no folder" in refused.stderr
