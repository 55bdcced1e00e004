from __future__ import annotations

import math

import numpy as np
import pytest

from galore.trainer.data.glue.rows import Example, Rows
from galore.trainer.tasks.glue import TASKS

PAIRS = [Example("a ü", "b", 1, 7), Example("", "c", 0, 8), Example("d", "", None, 9)]


def rows_of(examples: list[Example], name: str = "rte", split: str = "test") -> Rows:
    rows = Rows(TASKS[name], split)
    rows.open_file("first.tsv")
    for number, example in enumerate(examples):
        if number == 2:
            rows.open_file("second.tsv")
        rows.append(example, 10 + number)
    return rows


def test_a_sequence_with_random_access() -> None:
    rows = rows_of(PAIRS)
    assert [rows[2], rows[0], rows[-2]] == [PAIRS[2], PAIRS[0], PAIRS[1]]
    assert rows[1:] == PAIRS[1:]
    assert rows[::-2] == PAIRS[::-2]
    assert list(rows) == PAIRS
    assert len(rows) == 3
    with pytest.raises(IndexError):
        rows[3]


def test_where_a_row_came_from() -> None:
    rows = rows_of(PAIRS)
    assert rows.files == ("first.tsv", "second.tsv")
    assert [rows.where(number) for number in range(3)] == ["first.tsv:10", "first.tsv:11", "second.tsv:12"]


def test_labels_and_indices_are_arrays() -> None:
    rows = rows_of(PAIRS)
    assert rows.labels.dtype == np.int64
    assert rows.labels.tolist() == [1, 0, -1]
    assert rows.indices.tolist() == [7, 8, 9]
    scores = rows_of([Example("a", "b", 4.2, 0), Example("a", "b", None, 1)], "stsb")
    assert scores.labels.dtype == np.float64
    assert scores.labels[0] == 4.2
    assert math.isnan(scores.labels[1])
    assert scores[1].label is None


def test_the_fingerprint_names_the_content() -> None:
    same = rows_of(PAIRS).fingerprint
    assert same == rows_of(list(PAIRS)).fingerprint
    changed = [
        rows_of([Example("a ü", "b", 0, 7), *PAIRS[1:]]),
        rows_of([Example("a ", "üb", 1, 7), *PAIRS[1:]]),
        rows_of([Example("a ü", "b", 1, 6), *PAIRS[1:]]),
        rows_of([Example("a ", "b", 1, 7), Example("ü", "c", 0, 8), PAIRS[2]]),
        rows_of([Example("a ü", "", 1, 7), Example("", "bc", 0, 8), PAIRS[2]]),
        rows_of([PAIRS[1], PAIRS[0], PAIRS[2]]),
        rows_of(PAIRS[:2]),
        rows_of(PAIRS, "wnli"),
        rows_of(PAIRS, split="train"),
    ]
    assert len({same, *(rows.fingerprint for rows in changed)}) == 1 + len(changed)
    assert len(same) == 32
