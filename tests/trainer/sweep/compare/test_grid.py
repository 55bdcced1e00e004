"""Methods × learning rates × seeds: what runs, where, and what is refused."""

from __future__ import annotations

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.recipe.load import load_recipe
from galore.trainer.sweep.compare.grid import METHODS, grid


def test_every_seed_sees_every_method_before_the_next() -> None:
    cells = grid("full, galore", "0.003,0.01", "1,2")
    assert [cell.folder for cell in cells] == [
        f"{method}-lr{rate}-seed{seed}"
        for seed in (1, 2)
        for method in ("full", "galore")
        for rate in ("0.003", "0.01")
    ]


def test_settings_follow_a_method_and_come_after_its_own() -> None:
    (cell,) = grid("galore:optim.rank=32:optim.update_proj_gap=50", None, None)
    assert cell.overrides == ["optim.method=galore", "optim.rank=32", "optim.update_proj_gap=50"]
    assert cell.folder == "galore_optim.rank_32_optim.update_proj_gap_50"
    assert load_recipe("demo", cell.overrides).recipe.optim.rank == 32


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_a_right_recipe(method: str) -> None:
    (cell,) = grid(method, "1e-3", "7")
    recipe = load_recipe("demo", cell.overrides).recipe
    assert (recipe.optim.learning_rate, recipe.train.seed) == (0.001, 7)


@pytest.mark.parametrize(
    ("methods", "rates", "seeds", "message"),
    [
        ("galor", None, None, "did you mean galore"),
        ("full,,lora", None, None, "between two commas"),
        ("full", "fast", None, "no learning rate"),
        ("full", "-1", None, "no learning rate"),
        ("full", "inf", None, "no learning rate"),
        ("full", None, "1.5", "no seed"),
        ("full,full", None, None, "twice"),
    ],
)
def test_wrong_grids_are_refused(methods: str, rates: str | None, seeds: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        grid(methods, rates, seeds)
