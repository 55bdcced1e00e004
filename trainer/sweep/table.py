"""What a sweep writes: Markdown whose last parts are what is missing, JSON, and a plot if there is any."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from galore.trainer.common.durable import replace_file
from galore.trainer.common.markdown import section
from galore.trainer.sweep.outcome import Standing, Sweep


def of_earlier_calls(found: Sequence[Standing]) -> str:
    """A sentence about the rows of a table that the call did not ask for; "" where there is none."""
    rows = (f"{_task(each)}{each.label} at {each.learning_rate:g}" for each in found if each.earlier)
    told = ", ".join(rows)
    return f"Of earlier calls into this folder: {told}." if told else ""


def _task(each: Standing) -> str:
    task = each.trial.recipe.data.task
    return f"{task}, " if task else ""


def missing(found: Sweep) -> list[str]:
    """Sections of the runs that the table does not have: not done, or not compared."""
    parts = [
        section("Not done", _lines(found.undone)),
        section("Not compared", _lines(found.apart)),
    ]
    return [part for part in parts if part]


def write(root: Path, stem: str, markdown: str, objects: Any, plot: Callable[[], bytes | None]) -> None:
    """STEM.md, STEM.json and STEM.png under `root`, each whole or not at all."""
    replace_file(root / f"{stem}.md", markdown)
    replace_file(root / f"{stem}.json", json.dumps(objects, indent=2) + "\n")
    with suppress(ImportError):  # the table says all of it
        if png := plot():
            replace_file(root / f"{stem}.png", png)


def _lines(reasons: Mapping[str, str]) -> str:
    return "".join(f"- {folder}: {why}\n" for folder, why in reasons.items())
