"""The values of a row become an example, or a fault that names the column and the value."""

from __future__ import annotations

from typing import Any

import pytest

from galore.trainer.data.glue.examples import Raw, class_of, example_of, score_of
from galore.trainer.data.glue.rows import Example, Fault
from galore.trainer.tasks.glue import TASKS

RTE, SST2, STSB = TASKS["rte"], TASKS["sst2"], TASKS["stsb"]


def raw(**changes: Any) -> Raw:
    return Raw(1, "one", "two", 1, None)._replace(**changes)


def test_a_row_without_an_index_has_its_position() -> None:
    assert example_of(RTE, raw(), 7, labelled=True) == Example("one", "two", 1, 7)
    assert example_of(RTE, raw(idx="12"), 7, labelled=True).index == 12


def test_the_second_text_is_read_of_pairs_only() -> None:
    assert example_of(SST2, raw(text_b=None), 0, labelled=True).text_b is None
    with pytest.raises(Fault, match="`sentence2` is missing, not a text"):
        example_of(RTE, raw(text_b=None), 0, labelled=True)


def test_one_text_of_a_pair_may_be_empty() -> None:
    assert example_of(RTE, raw(text_a=" "), 0, labelled=True).text_a == " "
    with pytest.raises(Fault, match="no text"):
        example_of(RTE, raw(text_a=" ", text_b="\n"), 0, labelled=True)


@pytest.mark.parametrize("absent", [None, "", "-1", -1, float("nan")])
def test_a_label_may_be_absent_from_test_splits(absent: Any) -> None:
    assert example_of(RTE, raw(label=absent), 0, labelled=False).label is None
    with pytest.raises(Fault, match="no label") as caught:
        example_of(RTE, raw(label=absent), 0, labelled=True)
    assert "test splits" in caught.value.fix


@pytest.mark.parametrize("value", ["entailment", 0, "0", 0.0, "0.0"])
def test_a_class_is_given_by_name_or_id(value: Any) -> None:
    found = class_of(RTE, value)
    assert (found, type(found)) == (0, int)


@pytest.mark.parametrize("value", [2, -2, 0.5, "Entailment", True, "inf", "nan", [0], 10**400])
def test_other_classes_are_refused_with_those_there_are(value: Any) -> None:
    with pytest.raises(Fault, match="which RTE does not have") as caught:
        class_of(RTE, value)
    assert caught.value.fix == "its labels are 0 = entailment, 1 = not_entailment"


def test_a_long_value_is_cut() -> None:
    with pytest.raises(Fault) as caught:
        class_of(RTE, "x" * 1000)
    assert len(caught.value.what) < 100


@pytest.mark.parametrize(("value", "score"), [(0, 0.0), ("5", 5.0), ("3.25", 3.25)])
def test_scores(value: Any, score: float) -> None:
    assert score_of(value) == score
    assert example_of(STSB, raw(label=value), 0, labelled=True).label == score


@pytest.mark.parametrize("value", [5.001, -0.1, "high", True, float("inf"), None])
def test_other_scores_are_refused(value: Any) -> None:
    with pytest.raises(Fault, match="not a number from 0 to 5"):
        score_of(value)


@pytest.mark.parametrize("value", [-1, 0.5, "a", 2**53, True])
def test_an_index_is_the_number_of_a_row(value: Any) -> None:
    with pytest.raises(Fault, match=r"the index is .*, not the number of a row"):
        example_of(RTE, raw(idx=value), 0, labelled=True)
