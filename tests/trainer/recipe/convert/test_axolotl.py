"""What axolotl's keys and silent defaults become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toolkit_files import settings, write

from galore.trainer.recipe.convert.convert import convert


@pytest.mark.parametrize(
    ("theirs", "ratio", "steps", "why"),
    [
        ({}, 0.03, None, "optim.warmup_ratio: 0.03 (3 % of the steps, there at most 100)"),
        ({"warmup_ratio": None}, 0.03, None, "optim.warmup_ratio: 0.03 (3 % of the steps, there at most 100)"),
        ({"warmup_steps": None}, 0.03, None, "optim.warmup_ratio: 0.03 (3 % of the steps, there at most 100)"),
        ({"warmup_ratio": 0}, 0, None, "optim.warmup_ratio: 0"),
        ({"warmup_ratio": 0.2}, 0.2, None, "optim.warmup_ratio: 0.2"),
        ({"warmup_ratio": None, "warmup_steps": 5}, None, 5, "warmup_steps counts"),
        ({"warmup_steps": 0}, None, 0, None),
    ],
)
def test_warm_up_is_three_percent_unless_it_is_said(
    theirs: dict[str, Any], ratio: float | None, steps: int | None, why: str | None, tmp_path: Path
) -> None:
    made = convert(write(tmp_path, "axolotl", ("warmup_steps",), **theirs))
    found = settings(made.text)
    assert (found.get("optim.warmup_ratio"), found.get("optim.warmup_steps")) == (ratio, steps)
    assert next((each.why for each in made.told if each.key == "warmup_ratio"), None) == why
