from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest

from galore.trainer.common.errors import RunFailed
from galore.trainer.tasks.glue import TASKS, Task
from galore.trainer.tasks.metrics import baseline, collapsed, headline, score


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


TRUE = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
PREDICTED = [1, 1, 1, 0, 1, 0, 0, 0, 0, 0]  # 3 true positives, 1 false negative, 1 false positive, 5 true negatives


@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("cola", {"matthews_correlation": (3 * 5 - 1 * 1) / (4 * 4 * 6 * 6) ** 0.5, "accuracy": 0.8}),
        ("sst2", {"accuracy": 0.8}),
        ("mrpc", {"accuracy": 0.8, "f1": 2 * 3 / (2 * 3 + 1 + 1)}),
        ("qqp", {"accuracy": 0.8, "f1": 0.75}),
        ("mnli", {"accuracy": 0.8}),
        ("qnli", {"accuracy": 0.8}),
        ("rte", {"accuracy": 0.8}),
        ("wnli", {"accuracy": 0.8}),
    ],
)
def test_classes_by_hand(name: str, scores: dict[str, float]) -> None:
    found = score(TASKS[name], PREDICTED, TRUE)
    assert found == pytest.approx(scores, abs=1e-12)
    assert headline(TASKS[name], found) == found[TASKS[name].headline]
    assert all(type(value) is float for value in found.values())


def test_three_classes_by_hand() -> None:
    assert score(TASKS["mnli"], [0, 1, 2, 2], [0, 2, 2, 1]) == {"accuracy": 0.5}


def test_scores_by_hand() -> None:
    """Deviations (−1.5, −.5, .5, 1.5) and (−2, −1, 0, 3): covariance 8, squares 5 and 14; the ranks are the same."""
    found = score(TASKS["stsb"], np.array([1, 2, 3, 6], np.float32), [1.0, 2.0, 3.0, 4.0])
    assert found == pytest.approx({"pearson": 8 / 70**0.5, "spearman": 1.0}, abs=1e-12)
    found = score(TASKS["stsb"], [4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0])
    assert found == pytest.approx({"pearson": -1.0, "spearman": -1.0}, abs=1e-12)


def test_ties_share_their_rank() -> None:
    """Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5, squares 4.5 and 5."""
    found = score(TASKS["stsb"], [1.0, 2.0, 2.0, 9.0], [0.0, 1.0, 2.0, 3.0])
    assert found["spearman"] == pytest.approx((4.5 / 5) ** 0.5, abs=1e-12)


def test_mrpc_stands_by_its_f1() -> None:
    assert headline(TASKS["mrpc"], {"accuracy": 0.1, "f1": 0.9}) == 0.9


@pytest.mark.parametrize("constant", [0, 1])
@pytest.mark.parametrize("labels", [[0, 1, 1, 0, 1], [0] * 5, [1] * 5])
def test_constant_answers_have_a_score(task: Task, constant: int, labels: list[int]) -> None:
    found = score(task, [constant] * 5, labels)
    share = labels.count(constant) / 5
    assert set(found) == set(task.metrics)
    assert found.get("accuracy", share) == share
    assert "f1" not in found or found["f1"] == pytest.approx(2 * share / (1 + share) if constant == 1 else 0.0)
    assert {found.get(metric, 0.0) for metric in ("matthews_correlation", "pearson", "spearman")} == {0.0}


def test_rounding_is_no_correlation() -> None:
    noise = 3.1 + 1e-15 * np.arange(5)
    assert score(TASKS["stsb"], noise, [0, 1, 2, 3, 4]) == {"pearson": 0.0, "spearman": 0.0}
    assert score(TASKS["stsb"], [2.0], [2.0]) == {"pearson": 0.0, "spearman": 0.0}


def test_what_cannot_be_scored() -> None:
    with pytest.raises(RunFailed, match="2 of 3 predictions are not finite"):
        score(TASKS["stsb"], [float("nan"), 1.0, float("inf")], [1.0, 2.0, 3.0])
    for predictions, labels in [([0, 1], [0]), ([], []), ([[0, 1]], [[0, 1]])]:
        with pytest.raises(ValueError, match="cannot be scored"):
            score(TASKS["rte"], predictions, labels)  # type: ignore[arg-type]


def test_the_baseline_is_the_majority_of_what_was_trained_on() -> None:
    """2 of 3 are paraphrases: accuracy 2/3, precision 2/3 and recall 1."""
    assert baseline(TASKS["mrpc"], [1, 1, 0]) == pytest.approx({"accuracy": 2 / 3, "f1": 0.8})
    assert baseline(TASKS["mrpc"], [1, 1, 0], [0, 0, 1]) == pytest.approx({"accuracy": 1 / 3, "f1": 0.0})
    assert baseline(TASKS["cola"], [1, 0, 1]) == pytest.approx({"matthews_correlation": 0.0, "accuracy": 2 / 3})
    assert baseline(TASKS["stsb"], [1.0, 3.5, 4.0]) == {"pearson": 0.0, "spearman": 0.0}
    assert baseline(TASKS["mnli"], [2, 2, 0, 1]) == {"accuracy": 0.5}


def test_the_alarm_of_a_collapse() -> None:
    sentence = collapsed(TASKS["cola"], [1] * 100)
    assert sentence == "the model answers `acceptable` for 100.0% of 100 rows: it has collapsed to one class"
    assert "`neutral` for 99.0% of 1,000" in str(collapsed(TASKS["mnli"], [1] * 990 + [0] * 10))
    assert collapsed(TASKS["mnli"], [1] * 989 + [0] * 11) is None
    assert collapsed(TASKS["cola"], [1] * 19) is None
    sentence = collapsed(TASKS["stsb"], np.full(50, 2.5, np.float32))
    assert sentence == "the model answers 2.50 ± 0.000 for all of 50 rows: it has collapsed to one score"
    assert collapsed(TASKS["stsb"], [2.45, 2.55] * 25) is not None
    assert collapsed(TASKS["stsb"], [2.3, 2.7] * 25) is None
