"""A report is made of what a run directory holds, at any stage and with anything missing."""

import json
import math
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.common.markdown import fence, table
from galore.trainer.record.history import History
from galore.trainer.record.rundir import RunDir
from galore.trainer.record.shown import report
from galore.trainer.record.shown.report import write_report

FACTS = {
    "name": "tiny | run",
    "command": "galore train tiny",
    "started": "2026-01-02T10:00:00+00:00",
    "finished": "2026-01-02T10:04:40+00:00",
    "versions": {"torch": "2.13.0", "peft": None},
    "device": {"name": "CPU", "type": "cpu"},
    "peak": {"flops_per_second": 1.8e12, "basis": "measured"},
    "data": {"documents": 31102, "bad_rows": {"empty": 0, "nul": 2}},
    "parameters": [
        {"name": "embed", "tensors": 1, "shape": [8, 4], "update": "full rank", "rank": None, "count": 32},
        {"name": "up", "tensors": 2, "shape": [8, 6], "update": "projected, right", "rank": 3, "count": 96},
    ],
    "total_steps": 60,
    "resumes": [{"step": 20, "time": "…"}],
    "unigram_loss_nats": 3.0,
}


def _train(step: int) -> dict[str, Any]:
    return {
        "kind": "train",
        "step": step,
        "loss_nats": 3.0 - step / 60,
        "learning_rate": 1e-3,
        "tokens": 100 * step,
        "tokens_per_second": 1000.0 if step > 1 else 1.0,
        "step_seconds": 0.5,
        "mfu_fraction": 0.4,
        "memory_current_bytes": 90 * 2**20,
        "memory_peak_bytes": 100 * 2**20,
        "memory_by_category_bytes": {"weights": 30 * 2**20, "gradients": 0, "optimizer_states": 20 * 2**20},
        "skipped": step == 7,
        "refreshed_layers": 2 if step % 10 == 0 else 0,
        "decomposition_fallbacks": 0,
    }


def _evaluation(step: int) -> dict[str, Any]:
    loss = 2.0
    row = {
        "kind": "eval",
        "step": step,
        "loss_nats": loss,
        "perplexity": math.exp(loss),
        "tokens": 4000,
        "seconds": 3.2,
    }
    return row | {"sample": f"sample of {step} with ``` and |"}


def _run(root: Path, rows: list[dict[str, Any]], facts: dict[str, Any] | None = None) -> RunDir:
    run_dir = RunDir(root)
    run_dir.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_dir.recipe.write_text("model:\n  hidden_size: 4\n")
    if facts is not None:
        run_dir.write_facts(facts)
    return run_dir


def _rows(steps: int = 60) -> list[dict[str, Any]]:
    event = {"kind": "event", "step": 20, "message": "resumed"}
    return [*map(_train, range(1, steps + 1)), _evaluation(30), _evaluation(60), event]


def test_a_whole_report(tmp_path: Path) -> None:
    text = write_report(_run(tmp_path, _rows(), FACTS)).read_text()
    for piece in (
        "# tiny | run",
        "60 optimizer steps, finished 2026",
        "2.0000 nats per token, perplexity 7.39 (step 60)",
        "perplexity 20.09; the model's perplexity is 36.8 % of it",
        "| 6,000 |",
        "30s in optimizer steps, 4m40s from start to finish",
        "1.00k tok/s (median",
        "40.0 % (median) of 1.80 TFLOP/s, measured",
        "100 MiB: interpreter and libraries 50.0 MiB, weights 30.0 MiB, optimizer states 20.0 MiB |",
        "| up | 2 | 8 × 6 | projected, right | 3 | 96 |",
        "128 parameters; 96 of them (75.0 %) are projected",
        "skipped steps (gradient not finite): 7\n",
        "12 layers in 6 steps",
        "resumed after step: 20\n",
        "after step 20: resumed",
        "````\nsample of 60 with ``` and |\n````",
        "<summary>1 earlier</summary>",
        "| documents | 31,102 |",
        "| bad rows | 0 empty; 2 nul |",
        "| torch | 2.13.0 |",
        "hidden_size: 4",
    ):
        assert piece in text, piece
    assert "peft" not in text
    assert "None" not in text


def test_a_report_has_no_secrets(tmp_path: Path) -> None:
    run_dir = _run(tmp_path, _rows(), FACTS | {"command": "mine.py --hf_token abcdef --seed 3"})
    run_dir.recipe.write_text("data:\n  path: https://me:pwpw@host/x\n")
    text = write_report(run_dir).read_text()
    assert "`mine.py --hf_token *** --seed 3`" in text
    assert "https://***@host/x" in text


def test_method_and_notes_are_told(tmp_path: Path) -> None:
    told = FACTS | {"method": "GaLore r=8, α=0.25", "notes": ["left out: 4 of 9 rows", "two\nlines"]}
    text = write_report(_run(tmp_path, _rows(), told)).read_text()
    assert "| **Method** | GaLore r=8, α=0.25 |" in text
    assert "\n\n- left out: 4 of 9 rows\n- two lines\n\n" in text


def test_a_peak_that_is_of_another_type_than_the_products_says_so(tmp_path: Path) -> None:
    peak = {"flops_per_second": 1.8e12, "basis": "table", "of": "bf16"}
    text = write_report(_run(tmp_path, _rows(), FACTS | {"peak": peak})).read_text()
    assert "40.0 % (median) of 1.80 TFLOP/s of bf16, table" in text


def test_an_answer_is_shown_with_its_question_and_the_end_with_the_start(tmp_path: Path) -> None:
    asked = {"question": "Who | made `it`?", "sample": "Nobody."}
    start = _evaluation(0) | asked | {"loss_nats": 3.0, "perplexity": math.exp(3.0)}
    text = write_report(_run(tmp_path, [start, *_rows(), _evaluation(60) | asked], FACTS)).read_text()
    assert "(step 60); before the first step 3.0000, perplexity 20.09 |" in text
    assert "After step 60, to the question\n\n```\nWho | made `it`?\n```\n\nthe answer:\n\n```\nNobody.\n```" in text
    assert "Before the first step, to the question" in text


def test_what_is_wrong_with_the_data_stands_first_and_steers_no_markdown(tmp_path: Path) -> None:
    warned = FACTS | {"warnings": ["left out: 9 of 10 rows, as cp1252: <b>` ``` |", "misread: 3"]}
    text = write_report(_run(tmp_path, _rows(), warned)).read_text()
    assert "**Warning**\n\n````text\nleft out: 9 of 10 rows, as cp1252: <b>` ``` |\nmisread: 3\n````\n" in text
    assert text.index("**Warning**") < text.index("nats per token")


def test_plots_are_png_and_shown(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the plots extra")
    text = write_report(_run(tmp_path, _rows(), FACTS)).read_text()
    for name in ("loss", "learning_rate", "throughput", "memory"):
        assert f"(plots/{name}.png)" in text
        assert (tmp_path / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_report_says_how_to_get_plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = write_report(_run(tmp_path, _rows(), FACTS)).read_text()
    assert "pip install 'galore-llm[plots]'" in text
    assert "perplexity 7.39" in text
    assert not (tmp_path / "plots").exists()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"kind": "train", "step": 1}],
        [{"kind": "train", "step": 1, "loss_nats": None, "loss_nats_is": "nan", "learning_rate": 0.0}],
        [_train(1)],
        [_train(1), {"kind": "eval", "step": 1, "loss_nats": None, "loss_nats_is": "nan", "sample": None}],
        [{"kind": "eval", "step": 0, "loss_nats": 9.0, "perplexity": None, "perplexity_is": "inf"}],
        _rows(10),
    ],
)
def test_a_report_of_almost_nothing(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    assert write_report(_run(tmp_path, rows)).read_text().startswith("# A galore run")


@pytest.mark.parametrize("facts", [{}, {"parameters": [], "resumes": None, "started": "?"}, {"total_steps": 1000}])
def test_a_report_with_few_facts(tmp_path: Path, facts: dict[str, Any]) -> None:
    assert write_report(_run(tmp_path, _rows(2), facts)).read_text().startswith("# A galore run")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("wrong", [[], 5, "x", {"a": []}, -1, 1e300])
def test_facts_of_types_that_no_run_writes_cost_their_sections(tmp_path: Path, wrong: Any) -> None:
    told = write_report(_run(tmp_path, _rows(), dict.fromkeys([*FACTS, "method", "notes"], wrong))).read_text()
    assert "## Evaluations" in told


def test_a_loss_beyond_what_a_float_can_raise_e_to(tmp_path: Path) -> None:
    """A model that diverged; its plots are drawn all the same."""
    rows = [_train(step) | {"loss_nats": 5000.0 + step} for step in range(1, 4)]
    last = {"kind": "eval", "step": 3, "loss_nats": 5000.0, "perplexity": None, "perplexity_is": "inf"}
    text = write_report(_run(tmp_path, [*rows, last], FACTS | {"unigram_loss_nats": 800.0})).read_text()
    assert "5000.0000 nats per token, perplexity inf" in text
    assert "the model's perplexity is inf % of it" in text
    assert "Not drawn" not in text


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("loss", [30.0, 650.0, 720.0, 5000.0, 1e30])
def test_a_held_out_loss_far_above_the_training_one(tmp_path: Path, loss: float) -> None:
    last = {"kind": "eval", "step": 10, "loss_nats": loss, "perplexity": None, "perplexity_is": "inf"}
    text = write_report(_run(tmp_path, [*_rows(10), last])).read_text()
    assert "(plots/loss.png)" in text
    assert "Not drawn" not in text


DAMAGE: list[Any] = [None, "x", -1, True, [], {}, [1], {"a": 1}, "nan", 2**70]


@pytest.mark.parametrize("seed", range(40))
def test_rows_that_were_damaged_are_left_out(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "draw", lambda history: {})
    rng, rows = random.Random(seed), _rows(6)
    for row in rng.sample(rows, 4):
        name = rng.choice([*row, "step", "kind"])
        if rng.random() < 0.3:
            row.pop(name, None)
        else:
            row[name] = rng.choice(DAMAGE)
    assert write_report(_run(tmp_path, rows, FACTS)).read_text().startswith("# tiny")


def test_plots_that_fail_leave_the_rest_of_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(history: History) -> dict[str, bytes]:
        raise ValueError("no font")

    monkeypatch.setattr(report, "draw", broken)
    text = write_report(_run(tmp_path, _rows(), FACTS)).read_text()
    assert "Not drawn: ValueError: no font" in text
    assert "perplexity 7.39" in text


def test_an_interrupted_run_says_so(tmp_path: Path) -> None:
    text = write_report(_run(tmp_path, _rows(10), FACTS)).read_text()
    assert "Not finished: 10 of 60 steps are done" in text


def test_a_report_of_metrics_that_were_lost_since_is_not_written_over(tmp_path: Path) -> None:
    facts = FACTS | {"final": {"step": 60}}
    write_report(_run(tmp_path, _rows(), facts))
    lost = _run(tmp_path, _rows(10), facts)
    before = lost.report.read_text()
    with pytest.raises(UserError, match=r"metrics.jsonl: tells of 10 steps, and run.json of 60"):
        write_report(lost)
    assert lost.report.read_text() == before
    lost.report.unlink()
    assert "10 of 60 steps are done" in write_report(lost).read_text()


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ((), None),
        (range(1, 11), "steps 1 to 10:"),
        ((7,), "steps 7:"),
        ((3, *range(20, 30), 59), "steps 3, 20 to 29, 59:"),
        ((60,), None),
    ],
)
def test_steps_without_a_row_are_told_of(tmp_path: Path, lost: Sequence[int], told: str | None) -> None:
    """The last one apart: a run that goes on has none yet."""
    rows = [row for row in _rows() if row["kind"] != "train" or row["step"] not in lost]
    text = write_report(_run(tmp_path, rows)).read_text()
    assert ("no row of" in text) == (told is not None)
    assert f"no row of {told}" in text or told is None


def test_an_empty_directory(tmp_path: Path) -> None:
    assert "No step is done" in write_report(RunDir(tmp_path)).read_text()


def test_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    run_dir = _run(tmp_path, _rows(3))
    run_dir.report.mkdir()
    with pytest.raises(RunFailed, match=r"report was not written.*\n.*--resume writes it anew"):
        write_report(run_dir)


def test_history_columns(tmp_path: Path) -> None:
    rows = [_train(1), {"kind": "train", "step": 2, "loss_nats": None, "memory_by_category_bytes": {"projectors": 5}}]
    history = History.read(_run(tmp_path, rows))
    assert history.train["step"].tolist() == [1, 2]
    assert np.isnan(history.train["loss_nats"]).tolist() == [False, True]
    assert history.memory["weights"][0] == 30 * 2**20
    assert np.isnan(history.memory["projectors"]).tolist() == [True, False]
    assert history.median("tokens_per_second") == 1.0


def test_markdown_holds_anything() -> None:
    assert table(["a"], [["x|y\nz"]]) == "| a |\n| --- |\n| x\\|y z |\n"
    assert fence("a ````` b").startswith("``````\n")
