"""Edit distance and the nearest word."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.common.suggest import distance, nearest, refuse_absent


@pytest.mark.parametrize(
    ("a", "b", "steps"),
    [
        *[("", "", 0), ("a", "", 1), ("", "abc", 3), ("rank", "rank", 0), ("rnak", "rank", 1), ("ran", "rank", 1)],
        *[("kitten", "sitting", 3), ("abcdef", "badcfe", 3), ("ca", "abc", 3)],
    ],
)
def test_distance(a: str, b: str, steps: int) -> None:
    assert distance(a, b) == distance(b, a) == steps


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 5])
def test_distance_with_a_limit(limit: int) -> None:
    words = ["", "a", "ab", "ba", "rank", "rnak", "learning_rate", "lerning_raet", "kitten", "sitting"]
    for a, b in itertools.product(words, words):
        assert min(distance(a, b, limit), limit + 1) == min(distance(a, b), limit + 1)


def test_a_word_without_end_is_nobody_s() -> None:
    assert nearest("a" * 10**6, ["rank"] * 1000) == []


def test_nearest() -> None:
    known = ["learning_rate", "rank", "scale"]
    assert nearest("learing_rate", known) == ["learning_rate"]
    assert nearest("LearningRate", known) == ["learning_rate"]
    assert nearest("rnk", known) == ["rank"]
    assert nearest("entirely_different", known) == []
    assert nearest("ab", ["ac", "cb"], 2) == []  # too short to be told apart
    assert nearest("scales", ["scaled", "scale"], 2) == ["scaled", "scale"]


def test_runs_are_known_where_no_folder_of_them_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such run or folder"):
        refuse_absent("runs/nope")
    refuse_absent("org/model")
    refuse_absent("gpt2")
