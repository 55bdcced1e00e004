"""What docs/memory.md says that recipes take of a card is what the profile says, to the last digit."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from galore.trainer.common.format import GIB
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.shipped import shipped_names

ROOT = Path(__file__).parents[2]


def bench(name: str) -> Any:
    """A script of bench/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", ROOT / f"bench/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MEMORY, CARDS = bench("memory"), bench("cards")
TABLE = (ROOT / "docs/memory.md").read_text(encoding="utf-8").partition(MEMORY.HEAD)[2].partition("\n\n")[0]
ROWS = {row.split()[1]: row for row in TABLE.strip().splitlines()}
SHIPPED = [name for name in shipped_names() if load_recipe(name).recipe.model.name_or_path is None]


def test_the_table_by_which_shipped_recipes_are_found_is_the_page_s() -> None:
    """Where it fails: `python bench/memory.py shipped --write`."""
    assert json.loads(MEMORY.TABLE.read_text(encoding="utf-8")) == MEMORY.totals(list(ROWS.values()))


def quick(*names: str) -> Any:
    return lambda each: [] if each in names else pytest.mark.slow


def test_every_recipe_of_a_model_from_its_dimensions_has_its_row() -> None:
    assert list(ROWS) == SHIPPED


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=quick("demo", "llama-60m-galore", "llama-350m-full")(name)) for name in SHIPPED]
)
def test_row_of(name: str) -> None:
    """Where it fails: `python bench/memory.py shipped --write`."""
    pytest.importorskip("peft" if "lora" in name else "torch")
    assert MEMORY.shipped_row(load_recipe(name)) == ROWS[name]


SECTION = re.search(
    r"## A card and its switches\n(.*?)\n## ", (ROOT / "docs/memory.md").read_text(encoding="utf-8"), re.S
)
RANKS = {"r = 1024": [], "r = 512": ["optim.rank=512"], "r = 256": ["optim.rank=256"]}


def rows_of_cards() -> list[Any]:
    """(recipe, settings, total, of, largest micro-batch) of the table by `python bench/cards.py`."""
    assert SECTION is not None
    rows: list[Any] = []
    for label, _, total, of, largest in re.findall(
        r"^\| (.+?) \| (.*?) ?\| ([0-9.]+) \| ([0-9.]+).*? \| (\d+) \|$", SECTION[1], re.M
    ):
        first, rank = label.split(", ")
        name = rows[-1].values[0] if first == "the same" else first.strip("`")
        marks = quick("llama-1b-8gb")(name)
        rows.append(pytest.param(name, RANKS[rank], total, of, int(largest), marks=marks, id=f"{name}, {rank}"))
    return rows


def test_every_recipe_of_a_card_has_its_row() -> None:
    assert list(dict.fromkeys(row.values[0] for row in rows_of_cards())) == list(CARDS.CARDS)


@pytest.mark.parametrize(("name", "settings", "total", "of", "largest"), rows_of_cards())
def test_total_of(name: str, settings: list[str], total: str, of: str, largest: int) -> None:
    """Where it fails: `python bench/cards.py`."""
    profile = CARDS.profiled(name, settings, 1)
    assert (f"{profile.total.high / GIB:.2f}", f"{profile.limit.low / GIB:.2f}") == (total, of)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings", "total", "of", "largest"), rows_of_cards())
def test_largest_micro_batch_of(name: str, settings: list[str], total: str, of: str, largest: int) -> None:
    assert CARDS.largest(name, settings)[0] == largest
