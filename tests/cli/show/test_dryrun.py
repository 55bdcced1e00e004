"""The parameter table of a dry run and its sum; the recipe is there to read even if the model is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from galore.cli.show.dryrun import REST, narrow_table, parameter_table, span, step_lines
from galore.trainer import parameters
from galore.trainer.common.errors import UserError
from galore.trainer.parameters import ParameterRow
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.time.estimate import Estimate, Part, Step

MIB = 2**20
UP = ParameterRow("model.layers.*.up", 4, (688, 256), "projected, right", 64, 704_512, MIB, 3 * MIB, MIB // 2)
NORM = ParameterRow("model.norm", 1, (256,), "full rank", None, 256, 512, 2048, 0)


def test_a_row_per_kind_and_their_sum() -> None:
    planned: Any = SimpleNamespace(parameters=[UP, NORM])
    table = parameter_table(planned)
    cells = list(zip(*(column.cells for column in table.columns), strict=True))
    assert cells[0] == (
        "model.layers.*.up", "4", "688 × 256", "projected, right", "64", "705k", "1.00 MiB", "3.00 MiB", "512 KiB",
    )  # fmt: skip
    assert cells[1][2:5] == ("256", "full rank", "")
    assert cells[2] == ("together", "5", "", "", "", "705k", "1.00 MiB", "3.00 MiB", "512 KiB")


def test_a_model_that_is_refused_leaves_the_recipe_to_read(galore: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(loaded: LoadedRecipe) -> NoReturn:
        raise UserError("no such model")

    monkeypatch.setattr(parameters, "dry_run", refuse)
    shown = galore("train", "demo", "--dry-run", "optim.rank=17")
    assert (shown.exit_code, shown.stderr) == (2, "error: no such model\n")
    assert "# Resolved from demo\n" in shown.stdout
    assert "rank: 17" in shown.stdout
    assert shown.stdout.rstrip().endswith(REST)


def test_in_fewer_columns_layers_stand_above_what_they_hold() -> None:
    planned: Any = SimpleNamespace(parameters=[UP, NORM])
    table = narrow_table(planned)
    assert list(zip(*(column.cells for column in table.columns), strict=True)) == [
        ("model.layers.*", "", "", "", "", ""),
        ("  up", "4 ×", "688 × 256", "right 64", "1.00 MiB", "3.50 MiB"),
        ("model.norm", "1 ×", "256", "full rank", "512 B", "2.00 KiB"),
        ("together", "5", "", "", "1.00 MiB", "3.50 MiB"),
    ]


def test_a_run_that_would_find_no_data_is_refused_once_all_is_shown(galore: Any) -> None:
    absent = ("data.source=local", "data.path=absent/*.txt", "data.validation_path=gone.txt")
    shown = galore("train", "demo", "--dry-run", *absent, "--gpu", "rtx3090")
    assert shown.exit_code == 2
    command = "galore profile-memory demo data.source=local 'data.path=absent/*.txt' data.validation_path=gone.txt"
    assert f"{command} --gpu rtx3090\n" in shown.stdout
    assert "The figures below" not in shown.stdout
    assert shown.stderr.count("error: data.validation_path: no file matches ") == 1
    assert shown.stderr.count("error: data.path: no file matches ") == 1


def test_the_card_that_nobody_chose_is_told_of_above_the_plan(galore: Any) -> None:
    shown = galore("train", "demo", "--dry-run", "train.device=cpu").stdout
    _, told, plan = shown.partition("since the recipe says train.device: cpu; `--gpu` names another card.\n")
    assert told
    assert plan.startswith("run ")


@pytest.mark.parametrize(("peak_of", "told"), [("", "MFU 105–131 %: "), ("bf16", "MFU 105–131 % of the bf16 peak: ")])
def test_a_share_above_all_says_of_which_peak(peak_of: str, told: str) -> None:
    slow, fast = (Step({"forward": part}) for part in (Part(), Part()))
    slow.parts["forward"].add("product", 1 / 1.05)
    fast.parts["forward"].add("product", 1 / 1.31)
    lines = dict(step_lines(Estimate((slow, fast), None, 0.0, 100, 1.0, 1.0, "made up", peak_of)))
    assert told in lines["a step"]


def test_no_time_is_told_as_nought() -> None:
    assert span((0.001, 0.002)) == "less than 1 second"
    assert span((0.4, 1.2)) == "0.40–1.20 seconds"
