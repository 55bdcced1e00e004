"""Predictions for the hidden labels, in the files that GLUE's server takes.

The server wants the files of all tasks in one zip, and `AX.tsv` with MNLI's answers to the diagnostic rows, which are
no task of their own and have no training data; it is not written here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from galore.trainer.common.durable import replace_file
from galore.trainer.common.errors import UserError
from galore.trainer.tasks.glue import HIGHEST_SCORE, LOWEST_SCORE, Task
from galore.trainer.tasks.metrics import require_finite

WITH_LABEL_NAMES = ("mnli", "qnli", "rte")  # the others are answered by label id, STS-B by the score
SUFFIXES = {"test_matched": "-m", "test_mismatched": "-mm"}
HEADER = "index\tprediction\n"


def submission_name(task: Task, split: str) -> str:
    """`CoLA.tsv`, `MNLI-mm.tsv` …

    Raises:
        ValueError: not a test split of the task.
    """
    if split not in task.test_splits:
        raise ValueError(f"`{split}` is no test split of {task.folder}")
    return f"{task.folder}{SUFFIXES.get(split, '')}.tsv"


def write_submission(
    folder: Path,
    task: Task,
    split: str,
    predictions: Sequence[int] | Sequence[float] | npt.NDArray[Any],
    indices: Sequence[int] | npt.NDArray[np.int64],
) -> Path:
    """Write the file of one test split, whole or not at all, ordered by index.

    Args:
        folder: is there already.
        predictions: (n,) class ids, or scores, which are clipped to 0 to 5.
        indices: (n,) GLUE's own numbers of the rows, as `Rows.indices` has them.

    Raises:
        OSError: the disk is full, or the folder cannot be written; a file that was there stays as it was.
        RunFailed: a predicted score is not finite.
        UserError: two rows have the same index.
        ValueError: the two differ in length.
    """
    predicted, numbers = np.asarray(predictions), np.asarray(indices)
    if predicted.shape != numbers.shape or predicted.ndim != 1:
        raise ValueError(f"predictions of shape {predicted.shape} for indices of {numbers.shape}")
    require_finite(predicted)
    _require_distinct(numbers, task, split)
    order = np.argsort(numbers)
    lines = _lines(task, numbers[order].tolist(), predicted[order].tolist())
    path = folder / submission_name(task, split)
    replace_file(path, HEADER + "".join(lines))
    return path


def incomplete(task: Task, split: str, count: int) -> str | None:
    """What to tell the user when the server will not take a file of `count` rows; None where it will."""
    official = task.sizes[split]
    if count == official:
        return None
    return f"{submission_name(task, split)} has {count:,} rows; GLUE's server takes it with all {official:,} only"


def _lines(task: Task, numbers: Iterable[int], predicted: Iterable[float]) -> Iterable[str]:
    for number, value in zip(numbers, predicted, strict=True):
        yield f"{number}\t{_answer(task, value)}\n"


def _answer(task: Task, value: float) -> str:
    if task.is_regression:
        return f"{min(max(value, LOWEST_SCORE), HIGHEST_SCORE):.3f}"
    return task.labels[int(value)] if task.name in WITH_LABEL_NAMES else str(int(value))


def _require_distinct(numbers: npt.NDArray[np.int64], task: Task, split: str) -> None:
    found, counts = np.unique(numbers, return_counts=True)
    if len(found) < len(numbers):
        what = f"the index {found[counts > 1][0]} is there {counts[counts > 1][0]} times"
        raise UserError(what, where=f"{task.folder} {split}", fix="fetch the test data again")
