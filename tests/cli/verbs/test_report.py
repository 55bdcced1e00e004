"""`galore report` and `galore web`: what they write, where, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from galore.cli.main import app


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text("train: {seed: 1}")
        (folder / "run.json").write_text(json.dumps({"name": name, "total_steps": 2}))
        (folder / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "loss_nats": 3.0}\n')
    return tmp_path


def invoke(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [*words])
    return result.exit_code, result.stdout, result.stderr


def test_a_report_is_written_anew_of_a_run_at_any_stage(runs: Path) -> None:
    assert invoke("report", "runs/one", "runs/two") == (0, "runs/one/report.md\nruns/two/report.md\n", "")
    assert "Not finished: 1 of 2 steps" in (runs / "runs/two/report.md").read_text()
    assert not (runs / "runs/one/report.html").exists()
    assert invoke("report", "runs/one", "--html")[:2] == (0, "runs/one/report.md\nruns/one/report.html\n")
    assert "<title>one</title>" in (runs / "runs/one/report.html").read_text()


def test_a_page_of_one_and_of_several(runs: Path) -> None:
    assert invoke("web", "runs/one/")[:2] == (0, "runs/one/report.html\n")
    assert invoke("web", "runs/one", "runs/two")[:2] == (0, "comparison.html\n")
    assert invoke("web", "runs/one", "runs/two", "--output", "both.html")[:2] == (0, "both.html\n")
    assert "<title>2 runs</title>" in (runs / "both.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["web", "runs/none"], "there is no such directory"),
        (["report", "runs"], "holds no run"),
        (["web", "runs/one", "--output", "runs"], "runs is a folder"),
        (["web", "runs/one", "--output", "no/x.html"], "there is no folder no\n  → make it, or write elsewhere"),
        (["report", "runs/one/recipe.yaml"], "is a file, not a directory\n  → name the directory of a run"),
        (["web", *(f"runs/one{'/.' * k}" for k in range(41))], "41 runs, and a page holds 40"),
    ],
)
def test_what_is_refused(runs: Path, words: list[str], said: str) -> None:
    code, _, error = invoke(*words)
    assert (code, said in error) == (2, True), error
