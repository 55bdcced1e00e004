"""Each section of a report is Markdown of the history, and empty where nothing is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from galore.trainer.record.history import COLUMNS, History
from galore.trainer.record.shown import sections


def history(steps: int = 0, evaluations: Any = (), events: Any = (), facts: Any = None, **columns: Any) -> History:
    train = {name: np.full(steps, np.nan) for name in COLUMNS}
    train |= {"step": np.arange(1.0, steps + 1)} | {name: np.array(each, float) for name, each in columns.items()}
    return History(train, {}, list(evaluations), list(events), facts or {}, "")


@pytest.mark.parametrize("name", ["samples", "parameters", "course", "data", "machine", "recipe", "evaluations"])
def test_of_nothing_comes_nothing(name: str) -> None:
    assert getattr(sections, name)(history()) == ""


@pytest.mark.parametrize(
    ("steps", "facts", "told"),
    [
        (0, {}, "No step is done.\n"),
        (1, {}, "1 optimizer step.\n"),
        (3, {"total_steps": 3, "finished": "today"}, "3 optimizer steps, finished today.\n"),
        (3, {"total_steps": 4000}, "**Not finished: 3 of 4,000 steps are done.** `--resume` goes on.\n"),
    ],
)
def test_how_far_the_run_is(steps: int, facts: dict[str, Any], told: str) -> None:
    assert sections.status(history(steps, facts=facts)) == told


def test_a_loss_by_name_that_is_not_finite_keeps_the_headline() -> None:
    losses = {"text": None, "text_is": "nan", "image": 2.0}
    row = {"step": 4, "loss_nats": None, "loss_nats_is": "nan", "tokens": 8, "seconds": 1.0}
    told = history(evaluations=[row | {"loss_nats_by_source": losses, "loss_nats_by_modality": losses}])
    text = sections.headline(told)
    assert "text nan, image 2.0000" in text
    assert "text nan (ppl nan), image 2.0000 (ppl 7.39)" in text
    assert "text nan (ppl nan), image 2.0000 (ppl 7.39)" in sections.evaluations(told)


def test_the_last_sample_stands_open_and_the_earlier_ones_are_folded() -> None:
    text = sections.samples(history(evaluations=[{"step": n, "sample": f"sample {n}"} for n in (1, 2, 3000)]))
    shown, folded = text.split("<details>")
    assert "After step 3,000" in shown
    assert "sample 3000" in shown
    assert "2 earlier" in folded
    assert "sample 3000" not in folded


def test_parameters_and_the_share_that_is_projected() -> None:
    rows = [{"name": "up", "count": 75, "rank": 4, "shape": [5, 15], "state_bytes": 1024, "projector_bytes": 1024}]
    text = sections.parameters(history(facts={"parameters": [*rows, {"name": "norm", "count": 25, "rank": None}]}))
    assert "100 parameters; 75 of them (75" in text
    assert "5 × 15" in text
    assert "2.00 KiB" in text
    assert "–" in text


def test_the_course_names_steps_and_counts_the_rest() -> None:
    done = history(30, skipped=[1] * 30, refreshed_layers=[2, 0] * 15, facts={"resumes": [{"step": 20}]})
    text = sections.course(done)
    assert "skipped steps (gradient not finite): 1, 2, 3," in text
    assert ", 20 and 10 more" in text
    assert "subspace refreshes: 30 layers in 15 steps" in text
    assert "resumed after step: 20" in text
    events = [{"step": 1, "message": "two\n  lines"}]
    assert "- after step 1: two lines\n" in sections.course(history(2, events=events))


def test_the_papers_way_of_scoring_is_told() -> None:
    scored = {"step": 1, "loss_nats": 2.0, "perplexity": 7.389, "tokens": 10, "seconds": 1.0}
    assert "eval.mode: paper" in sections.evaluations(history(evaluations=[scored | {"mode": "paper"}]))
    assert "eval.mode: paper" not in sections.evaluations(history(evaluations=[scored | {"mode": "token"}]))


def test_a_task_is_told_by_its_metrics_and_an_alarm() -> None:
    rows = [
        {"step": n, "task": "rte", "scores": {"validation": {"accuracy": value}}} for n, value in ((1, 0.75), (2, 0.5))
    ]
    rows[-1]["collapsed"] = "one label only"
    text = sections.evaluations(history(evaluations=rows))
    assert "0.7500" in text
    assert "**Alarm:** one label only." in text
    assert "at best 0.7500" in sections.headline(history(evaluations=rows))


def test_bits_per_byte_are_told_where_they_are_known() -> None:
    scored = {"step": 1, "loss_nats": 2.0, "perplexity": 7.389, "tokens": 10, "seconds": 1.0}
    old, new = history(evaluations=[scored]), history(evaluations=[scored | {"bits_per_byte": 0.75}])
    assert "bits" not in sections.evaluations(old) + sections.headline(old)
    assert "| bits/byte |" in sections.evaluations(new)
    assert "perplexity 7.39, 0.7500 bits per byte (step 1)" in sections.headline(new)


def test_energy_is_told_by_the_tokens_of_the_steps_that_tell_it() -> None:
    columns = {
        "energy_joules": [np.nan, 10.0, 30.0],
        "power_watts": [np.nan, 100, 300],
        "temperature_celsius": [np.nan, 60, 70],
    }
    known = history(3, tokens_per_second=[50.0] * 3, step_seconds=[2.0] * 3, tokens=[100, 200, 300], **columns)
    assert "| **Energy** | 0.04 kJ, 0.2 J per token; 200 W (median), 70 °C at most |" in sections.headline(known)
    unheated = known.train | {"temperature_celsius": np.full(3, np.nan)}
    assert "Energy" not in sections.headline(replace(known, train=unheated))
    assert "Energy" not in sections.headline(history(3, tokens_per_second=[50.0] * 3, tokens=[100, 200, 300]))


def test_bad_rows_are_told_by_kind_and_place() -> None:
    bad = {
        "wrong_type": {"rows": 1200, "first": "/x/a.json:7 (element 2): not text", "files": 1, "bytes": 0},
        "empty": 3,
    }
    text = sections.data(history(facts={"data": {"bad_rows": bad}}))
    assert "| 1,200 wrong_type, first /x/a.json:7 (element 2): not text; 3 empty |" in text
