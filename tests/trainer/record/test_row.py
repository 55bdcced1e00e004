"""A column is declared once; what shows rows takes its words from there."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import NoneType
from typing import Any

import pytest

from galore.cli.show.progress.cells import evaluation_cells, progress_cells
from galore.trainer.evaluate import final_of
from galore.trainer.record import row as row_module
from galore.trainer.record.metrics import finite
from galore.trainer.record.row import EVAL, TRAIN, EvalRow, TrainRow, columns, json_types


def test_every_number_of_a_row_is_a_column() -> None:
    for kind, table in ((TrainRow, TRAIN), (EvalRow, EVAL)):
        assert list(table) == [name for name in kind.__annotations__ if name != "kind"]
        assert [column.name for column in table.values()] == list(table)
    assert columns(TrainRow) == TRAIN


def test_a_column_is_told_in_its_own_words() -> None:
    row = {"tokens_per_second": 12_345.0, "mfu_fraction": 0.432, "memory_peak_bytes": 2**31, "learning_rate": 0.0098}
    assert [TRAIN[name].told(row) for name in row] == ["12.3k tok/s", "43.2 %", "2.00 GiB", "9.80e-3"]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"loss_nats": 3.25}, "3.2500"),
        ({"loss_nats": math.nan}, "nan"),  # as a run tells it
        ({"loss_nats": None, "loss_nats_is": "nan"}, "nan"),  # as it is read back
        ({"loss_nats": None, "loss_nats_is": "-inf"}, "-inf"),
        ({"loss_nats": None}, "?"),
        ({}, "?"),  # of a version that wrote no such column
    ],
)
def test_what_is_not_finite_or_not_there_is_told(row: dict[str, Any], text: str) -> None:
    assert EVAL["loss_nats"].told(row) == text


@pytest.mark.parametrize(
    ("losses", "told", "by_modality"),
    [
        ({"a": 2.0, "b": 3.25}, "a 2.0000, b 3.2500", "a 2.0000 (ppl 7.39), b 3.2500 (ppl 25.79)"),
        ({"a": math.nan, "b": 2.0}, "a nan, b 2.0000", "a nan (ppl nan), b 2.0000 (ppl 7.39)"),
        ({"a": math.inf, "a_is": 2.0}, "a inf, a_is 2.0000", None),
        ({"a": -math.inf}, "a -inf", None),
        ({}, "", ""),
    ],
)
def test_losses_by_name_are_told_alike_as_they_come_and_read_back(
    losses: dict[str, float], told: str, by_modality: str | None
) -> None:
    written = json.loads(json.dumps(finite({"loss": losses}), allow_nan=False))["loss"]
    assert row_module.by_name(losses) == told
    assert row_module.by_name(written) == (told if "a_is" not in losses else "a nan, a_is 2.0000")
    if by_modality is not None:
        assert row_module.by_modality(losses) == row_module.by_modality(written) == by_modality
    assert list(final_of({"loss_nats_by_source": written})["loss_nats_by_source"]) == list(losses)


def test_a_new_column_is_shown_where_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    row: TrainRow = {"loss_nats": 2.0, "grad_norm": 1.5}
    assert [str(cell) for cell in progress_cells(row)] == ["loss 2.0000"]
    monkeypatch.setitem(TRAIN, "grad_norm", replace(TRAIN["grad_norm"], label="norm", text="{:.2f}".format, live=True))
    assert [str(cell) for cell in progress_cells(row)] == ["loss 2.0000", "norm 1.50"]


def test_an_evaluation_of_an_old_row() -> None:
    assert [str(cell) for cell in evaluation_cells({"loss_nats": 2.0})] == ["held-out loss 2.0000", "ppl ?"]


def test_types_of_what_is_read_back() -> None:
    number = (int, float)
    found = json_types(EvalRow)
    assert found["loss_nats"] == (*number, NoneType)
    assert (found["tokens"], found["seconds"], found["scores"]) == (number, number, (dict,))
    assert (found["kind"], found["mode"], found["sample"]) == ((str,), (str,), (str, NoneType))
