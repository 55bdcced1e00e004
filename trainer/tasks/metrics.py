"""Scores of predictions under scikit-learn's names, the majority baseline, and the alarm when a run collapses to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from galore.trainer.common.errors import RunFailed
from galore.trainer.tasks.glue import HIGHEST_SCORE, LOWEST_SCORE, Task

Values = Sequence[int] | Sequence[float] | npt.NDArray[Any]  # (n,): class ids, or scores
Array = npt.NDArray[Any]

FEWEST_PREDICTIONS = 20  # of which one can say that they are all alike
ONE_CLASS_SHARE = 0.99
CONSTANT_DEVIATION = 0.02 * (HIGHEST_SCORE - LOWEST_SCORE)  # of predicted scores; those of STS-B deviate by about 1.5


def score(task: Task, predictions: Values, labels: Values) -> dict[str, float]:
    """Every metric of the task: 0 to 1, and −1 to 1 for correlations.

    A correlation with something constant, and the F1 of a class that nobody names, is 0.

    Args:
        predictions: (n,) class ids, or scores as the model gives them, not clipped.
        labels: (n,) class ids or scores, none missing.

    Raises:
        RunFailed: a predicted score is not finite.
        ValueError: the two differ in length, or are empty.
    """
    predicted, true = np.asarray(predictions), np.asarray(labels)
    if predicted.shape != true.shape or predicted.ndim != 1 or not len(true):
        raise ValueError(f"predictions of shape {predicted.shape} cannot be scored against labels of {true.shape}")
    require_finite(predicted)
    return {metric: METRICS[metric](true, predicted) for metric in task.metrics}


def require_finite(predictions: Array) -> None:
    """Raises RunFailed for predictions that are no numbers."""
    bad = int((~np.isfinite(predictions)).sum())
    if bad:
        what = f"{bad:,} of {len(predictions):,} predictions are not finite"
        raise RunFailed(what, fix="lower the learning rate; the model has diverged")


def flat(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Scores by split in one mapping: the first split's as they are, another's with its name: accuracy_mismatched."""
    found: dict[str, float] = {}
    for number, (split, each) in enumerate(scores.items()):
        suffix = f"_{split.removeprefix('validation_')}" if number else ""
        found |= {f"{metric}{suffix}": value for metric, value in each.items()}
    return found


def headline(task: Task, scores: Mapping[str, float]) -> float:
    """The one number that stands for the task; `task.headline` names it."""
    return scores[task.headline]


def baseline(task: Task, labels: Values, train_labels: Values | None = None) -> dict[str, float]:
    """What answering the same every time scores on `labels`: the majority class, or the mean score, of `train_labels`.

    Without `train_labels`, of `labels` themselves. Of equally frequent classes the lower id counts.
    """
    known = np.asarray(labels if train_labels is None else train_labels)
    answer = float(known.mean()) if task.is_regression else int(np.bincount(known.astype(np.int64)).argmax())
    return score(task, np.full(len(labels), answer), labels)


def collapsed(task: Task, predictions: Values) -> str | None:
    """What to tell the user when a run (nearly) always answers the same; None if it does not, or too few are known."""
    predicted = np.asarray(predictions)
    if len(predicted) < FEWEST_PREDICTIONS:
        return None
    if task.is_regression:
        return _constant(predicted.astype(np.float64))
    ids, counts = np.unique(predicted, return_counts=True)
    share = counts.max() / len(predicted)
    if share < ONE_CLASS_SHARE:
        return None
    label = task.labels[int(ids[counts.argmax()])]
    return f"the model answers `{label}` for {share:.1%} of {len(predicted):,} rows: it has collapsed to one class"


def _constant(predicted: npt.NDArray[np.float64]) -> str | None:
    deviation = float(predicted.std())
    if deviation >= CONSTANT_DEVIATION:
        return None
    spread = f"{predicted.mean():.2f} ± {deviation:.3f}"
    return f"the model answers {spread} for all of {len(predicted):,} rows: it has collapsed to one score"


def _accuracy(true: Array, predicted: Array) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(true, predicted))


def _f1(true: Array, predicted: Array) -> float:
    """F1 of class 1: paraphrase, duplicate."""
    from sklearn.metrics import f1_score

    return float(f1_score(true, predicted, labels=[1], average=None, zero_division=0.0)[0])


def _matthews(true: Array, predicted: Array) -> float:
    from sklearn.metrics import matthews_corrcoef

    return 0.0 if _same(true) or _same(predicted) else float(matthews_corrcoef(true, predicted))


def _pearson(true: Array, predicted: Array) -> float:
    from scipy.stats import pearsonr

    return _correlation(pearsonr, true, predicted)


def _spearman(true: Array, predicted: Array) -> float:
    from scipy.stats import spearmanr

    return _correlation(spearmanr, true, predicted)


def _correlation(of: Callable[[Array, Array], Any], true: Array, predicted: Array) -> float:
    if _same(true) or _same(predicted):
        return 0.0
    return float(of(true.astype(np.float64), predicted.astype(np.float64)).statistic)


def _same(values: Array) -> bool:
    """Whether all are one value, up to the rounding of float64: what is left of it correlates with noise."""
    spread = float(values.max()) - float(values.min())
    return spread <= 1e-12 * max(1.0, math.fabs(float(values[0])))


METRICS: Mapping[str, Callable[[Array, Array], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews_correlation": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}
