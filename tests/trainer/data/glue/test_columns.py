"""Columns are found under the hub's names and under those of GLUE's own files; one that is missing is named."""

from __future__ import annotations

import pytest

from galore.trainer.data.glue.columns import Columns, find_columns
from galore.trainer.data.glue.rows import Fault
from galore.trainer.tasks.glue import TASKS


@pytest.mark.parametrize(
    ("task", "names", "found"),
    [
        ("sst2", ["sentence", "label", "idx"], ("sentence", None, "label", "idx")),
        ("rte", ["index", "sentence1", "sentence2", "label"], ("sentence1", "sentence2", "label", "index")),
        ("mrpc", ["Quality", "#1 String", "#2 String"], ("#1 String", "#2 String", "Quality", None)),
        ("qqp", ["id", "question1", "question2", "is_duplicate"], ("question1", "question2", "is_duplicate", "id")),
        ("stsb", ["sentence1", "sentence2", "score"], ("sentence1", "sentence2", "score", None)),
        ("mnli", ["index", "sentence1", "sentence2", "gold_label"], ("sentence1", "sentence2", "gold_label", "index")),
    ],
)
def test_either_names_are_found(task: str, names: list[str], found: tuple[str | None, ...]) -> None:
    assert find_columns(TASKS[task], names, labelled=True) == Columns(*found)  # type: ignore[arg-type]


def test_the_hubs_name_goes_before_the_files() -> None:
    names = ["premise", "hypothesis", "sentence1", "sentence2", "gold_label", "label"]
    assert find_columns(TASKS["mnli"], names, labelled=True)[:3] == ("premise", "hypothesis", "label")


def test_the_names_of_one_task_are_not_those_of_another() -> None:
    with pytest.raises(Fault, match="no column `label` among sentence, Quality"):
        find_columns(TASKS["sst2"], ["sentence", "Quality"], labelled=True)


def test_labels_are_needed_where_the_split_has_them() -> None:
    names = ["premise", "hypothesis"]
    assert find_columns(TASKS["mnli"], names, labelled=False).label is None
    with pytest.raises(Fault, match=r"no column `label` \(or `gold_label`\) among premise, hypothesis") as caught:
        find_columns(TASKS["mnli"], names, labelled=True)
    assert "MNLI" in caught.value.fix


def test_a_table_of_many_columns_is_not_told_whole() -> None:
    with pytest.raises(Fault) as caught:
        find_columns(TASKS["sst2"], ["n" * 500] * 500, labelled=False)
    assert len(caught.value.what) < 1000
    with pytest.raises(Fault, match="among none"):
        find_columns(TASKS["sst2"], [], labelled=False)
