"""The parameter table of a dry run and its sum; the recipe is there to read even if the model is refused."""

from __future__ import annotations

import pytest

from galore.cli.show.dryrun import REST, parameter_table, show_dry_run
from galore.trainer import parameters
from galore.trainer.common.errors import UserError
from galore.trainer.parameters import DryRun, ParameterRow
from galore.trainer.recipe.load import LoadedRecipe, load_recipe

MIB = 2**20
UP = ParameterRow("model.layers.*.up", 4, (688, 256), "projected, right", 64, 704_512, MIB, 3 * MIB, MIB // 2)
NORM = ParameterRow("model.norm", 1, (256,), "full rank", None, 256, 512, 2048, 0)


def test_a_row_per_kind_and_their_sum() -> None:
    table = parameter_table(DryRun(parameters=[UP, NORM], notes=[]))
    cells = list(zip(*(column.cells for column in table.columns), strict=True))
    assert cells[0] == (
        "model.layers.*.up", "4", "688 × 256", "projected, right", "64", "705k", "1.00 MiB", "3.00 MiB", "512 KiB",
    )  # fmt: skip
    assert cells[1][2:5] == ("256", "full rank", "")
    assert cells[2] == ("together", "5", "", "", "", "705k", "1.00 MiB", "3.00 MiB", "512 KiB")


def test_a_model_that_is_refused_leaves_the_recipe_to_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(loaded: LoadedRecipe) -> DryRun:
        raise UserError("no such model")

    monkeypatch.setattr(parameters, "dry_run", refuse)
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(UserError, match="no such model"):
        show_dry_run(load_recipe("demo", ["optim.rank=17"]))
    shown = capsys.readouterr().out
    assert "# Resolved from demo\n" in shown
    assert "rank: 17" in shown
    assert shown.rstrip().endswith(REST)
