from __future__ import annotations

import pytest

from galore.trainer.sweep.glue.published import AVERAGES, PUBLISHED, galore_setting, published
from galore.trainer.tasks.glue import TASKS


def test_the_scores_average_to_what_the_paper_says() -> None:
    """The paper prints both, so that a slip in one of 24 numbers shows."""
    for average in AVERAGES:
        scores = [
            each.score for each in PUBLISHED.values() if (each.method, each.rank) == (average.method, average.rank)
        ]
        if scores:
            assert len(scores) == 8
            assert sum(scores) / 8 == pytest.approx(average.score, abs=0.00006)
    assert len(PUBLISHED) == 24
    assert len(AVERAGES) == 5


def test_one_number() -> None:
    number = published("cola", "galore", 4)
    assert number is not None
    assert (number.score, number.metric) == (0.6035, "matthews_correlation")
    assert (number.setting.learning_rate, number.setting.scale, number.setting.batch_size) == (3e-5, 4.0, 32)
    assert published("mrpc", "full", None) == PUBLISHED["mrpc", "full", None]
    assert PUBLISHED["mrpc", "full", None].metric == "f1"
    assert published("wnli", "full", None) is None
    assert published("cola", "galore", 8) is None
    assert published("rte", "lora", 4) is not None


def test_metrics_are_headlines() -> None:
    assert {(each.task, each.metric) for each in PUBLISHED.values()} == {
        (name, task.headline) for name, task in TASKS.items() if name != "wnli"
    }


def test_memory_is_that_of_weights_and_two_moments() -> None:
    """RoBERTa-base has 124.6 M parameters; full: three numbers of two bytes each."""
    memory = {(each.method, each.rank): each.memory_bytes for each in AVERAGES}
    assert memory["full", None] == pytest.approx(3 * 2 * 124.6e6, rel=0.002)
    assert memory["galore", 4] < memory["lora", 4]  # type: ignore[operator]


def test_what_a_run_has_otherwise() -> None:
    setting = galore_setting("sst2", 8)
    assert (setting.learning_rate, setting.scale) == (2e-5, 2.0)
    papers = {"model": "roberta-base", "epochs": 30, "max_length": 512, "batch_size": 16, "learning_rate": 2e-5}
    assert setting.differences(papers) == []
    assert setting.differences(papers | {"epochs": 3, "max_length": 64}) == [
        "epochs 3, not 30",
        "max_length 64, not 512",
    ]
    full = PUBLISHED["sst2", "full", None].setting
    assert full.differences({"learning_rate": 1e-3}) == []  # the paper does not give one
    with pytest.raises(KeyError):
        galore_setting("wnli", 4)
