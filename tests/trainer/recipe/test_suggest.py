"""Edit distance and the nearest word."""

from __future__ import annotations

import pytest

from galore.trainer.recipe.suggest import distance, nearest


@pytest.mark.parametrize(
    ("a", "b", "steps"),
    [
        *[("", "", 0), ("a", "", 1), ("", "abc", 3), ("rank", "rank", 0), ("rnak", "rank", 1), ("ran", "rank", 1)],
        *[("kitten", "sitting", 3), ("abcdef", "badcfe", 3), ("ca", "abc", 3)],
    ],
)
def test_distance(a: str, b: str, steps: int) -> None:
    assert distance(a, b) == distance(b, a) == steps


def test_nearest() -> None:
    known = ["learning_rate", "rank", "scale"]
    assert nearest("learing_rate", known) == ["learning_rate"]
    assert nearest("LearningRate", known) == ["learning_rate"]
    assert nearest("rnk", known) == ["rank"]
    assert nearest("entirely_different", known) == []
    assert nearest("ab", ["ac", "cb"], 2) == []  # too short to be told apart
    assert nearest("scales", ["scaled", "scale"], 2) == ["scaled", "scale"]
