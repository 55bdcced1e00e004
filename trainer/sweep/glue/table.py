"""A fine-tuning on GLUE as Markdown, and as one JSON object per task and method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import Any

from galore.trainer.common.format import duration, size
from galore.trainer.common.markdown import section, table
from galore.trainer.sweep.glue.published import SOURCE
from galore.trainer.sweep.glue.standing import Scored, best, last, standings
from galore.trainer.sweep.outcome import Sweep
from galore.trainer.sweep.table import missing, of_earlier_calls

HEAD = [
    "task",
    "metric",
    "method",
    "learning rate",
    "last epoch",
    "min–max",
    "best epoch",
    "majority",
    "paper",
    "optimizer",
    "peak memory",
    "time",
    "seeds",
]


def rows(found: Sequence[Scored]) -> list[list[str]]:
    """The cells below HEAD, one row per task and method; scores in percent."""
    return [_row(each) for each in found]


def markdown(title: str, sweep: Sweep) -> str:
    """The table, what is alarming or missing, and how to read it."""
    found = standings(sweep.compared)
    parts = [f"# {title}\n", table(HEAD, rows(found), "lllrrrrrrrrrr"), _means(found)]
    alarms = "".join(f"- {run.trial.folder}: {run.collapsed}\n" for each in found for run in each.done if run.collapsed)
    parts += [section("Alarms", alarms), of_earlier_calls(found), *missing(sweep), _NOTES, _differing(found)]
    return "\n".join(part for part in parts if part)


def as_objects(sweep: Sweep) -> list[dict[str, Any]]:
    """One JSON object per task and method, at its best learning rate."""
    return [as_object(each) for each in standings(sweep.compared)]


def as_object(standing: Scored) -> dict[str, Any]:
    """Every metric under its scikit-learn name: the median over the seeds after the last epoch. Bytes, seconds."""
    trial, done = standing.trial, standing.done
    optim, paper = trial.recipe.optim, standing.published
    facts: dict[str, Any] = {
        "task": standing.task.name,
        "method": trial.method,
        "rank": None if optim.method == "full" else optim.rank,
        "model": trial.recipe.model.name_or_path,
        "learning_rate": standing.learning_rate,
        "seeds": [run.trial.seed for run in done],
        "status": "done" if len(done) == len(standing.runs) else standing.failure,
        "headline": standing.task.headline,
        "published": None if paper is None or standing.differences else paper.score,
        "published_elsewhere": None if paper is None else {"score": paper.score, "differs": standing.differences},
    }
    if not done:
        return facts
    spreads = {metric: standing.spread(metric, last) for metric in last(done[0])}
    return facts | {
        **{metric: spread["median"] for metric, spread in spreads.items()},
        "min": spreads[standing.task.headline]["min"],
        "max": spreads[standing.task.headline]["max"],
        "last_epoch": spreads,
        "best_epoch": {metric: standing.spread(metric, best) for metric in best(done[0])},
        "majority_baseline": dict(done[0].baseline),
        "collapsed": [run.collapsed for run in done if run.collapsed],
        "epochs": len(done[0].epochs),
        "peak_memory_bytes": max(run.peak_bytes for run in done),
        "optimizer_bytes": max(run.optimizer_bytes for run in done),
        "seconds": median(run.seconds for run in done),
    }


def _row(each: Scored) -> list[str]:
    facts = as_object(each)
    name = [each.task.folder, each.task.headline, each.label, f"{each.learning_rate:g}"]
    if not each.done:
        return [*name, *("–" for _ in HEAD[4:-1]), each.count]
    span = f"{_percent(facts['min'])}–{_percent(facts['max'])}" if len(each.done) > 1 else ""
    alarm = " ⚠" if facts["collapsed"] else ""
    return [
        *name,
        _percent(each.score) + alarm,
        span,
        _percent(facts["best_epoch"][each.task.headline]["median"]),
        _percent(facts["majority_baseline"].get(each.task.headline)),
        _paper(each),
        size(facts["optimizer_bytes"]),
        size(facts["peak_memory_bytes"]),
        duration(facts["seconds"]),
        each.count,
    ]


def _paper(each: Scored) -> str:
    if each.published is None:
        return ""
    return f"({_percent(each.published.score)})" if each.differences else _percent(each.published.score)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def _means(found: Sequence[Scored]) -> str:
    """One line per method that has more than one task."""
    scores: Mapping[str, list[float]] = {each.label: [] for each in found}
    for each in found:
        if each.done:
            scores[each.label].append(each.score)
    lines = [
        f"- {label}: {_percent(mean(own))} on average over {len(own)} tasks"
        for label, own in scores.items()
        if len(own) > 1
    ]
    return "\n".join(lines) + "\n" if lines else ""


def _differing(found: Sequence[Scored]) -> str:
    lines = [f"- {each.task.folder}, {each.label}: {', '.join(each.differences)}" for each in found if each.differences]
    return f"Runs whose setting is not the paper's ({SOURCE}):\n\n" + "\n".join(lines) + "\n" if lines else ""


_NOTES = (
    "Scores are percent of the headline metric on the whole validation split (MNLI: matched): the median over the seeds, at the "
    "learning rate that is best in it. `best epoch` is chosen by that same split, so it flatters. `majority` answers with the most "
    "frequent label, or the mean score. `paper` is in parentheses where the setting differs. `optimizer` is the bytes of moments and "
    "projectors, `time` is in optimizer steps, `peak memory` on a CPU is the whole process.\n"
)
