"""The README's table of what fits on a 24 GB card is what the profile says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from galore.trainer.format import GIB
from galore.trainer.memory.cards import card
from galore.trainer.memory.plan import profile_on
from galore.trainer.memory.verdict import VERDICTS
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.shipped import shipped_names

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
ROWS = {
    row[0]: row
    for row in re.findall(
        r"^\| ([a-z0-9-]+) \| (.+) \| ([0-9.]+) \| ([0-9.]+) \| ([0-9.]+) \| ([a-z ]+) \|$", README, re.M
    )
}
QUICK = ("demo", "llama-60m-galore", "llama-350m-full")
SHIPPED = [name for name in shipped_names() if load_recipe(name).recipe.model.name_or_path is None]
NAMES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in SHIPPED]


def test_every_recipe_of_a_model_from_its_dimensions_has_its_row() -> None:
    assert list(ROWS) == SHIPPED


@pytest.mark.parametrize("name", NAMES)
def test_verdict_of(name: str) -> None:
    pytest.importorskip("peft" if "lora" in name else "torch")
    loaded = load_recipe(name)
    profile = profile_on(loaded, card("rtx4090"))
    _, batch, allocated, total, limit, verdict = ROWS[name]
    assert batch == f"{loaded.recipe.train.micro_batch_size} × {loaded.recipe.data.max_length} | {profile.peak.phase}"
    expected = [profile.allocated.high, profile.total.high, profile.limit.low]
    assert [float(allocated), float(total), float(limit)] == pytest.approx(
        [each / GIB for each in expected], rel=0.01, abs=0.006
    )
    assert verdict == VERDICTS[profile.fits].lower()
