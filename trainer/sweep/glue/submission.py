"""Predictions for the hidden labels, in the files that GLUE's server takes.

The server wants the files of all tasks in one zip, and `AX.tsv` with MNLI's answers to the diagnostic rows, which are
no task of their own and have no training data; it is not written here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from galore.trainer.common.durable import make_directory, replace_file
from galore.trainer.common.errors import RunFailed, UserError, described
from galore.trainer.data.glue.prepare import check_splits, encode, read_rows
from galore.trainer.data.glue.score import predict
from galore.trainer.machine.device import choose_device
from galore.trainer.models.classifier import align_labels
from galore.trainer.sweep.glue.grid import task_of
from galore.trainer.sweep.glue.standing import Scored, last, standings
from galore.trainer.sweep.jobs import Failures
from galore.trainer.sweep.options import Trial
from galore.trainer.sweep.outcome import Outcome
from galore.trainer.tasks.glue import HIGHEST_SCORE, LOWEST_SCORE, TASKS, Task
from galore.trainer.tasks.metrics import require_finite
from galore.trainer.trained.evaluation import take_rows
from galore.trainer.trained.runmodel import load_run_model

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


def check_tests(trials: Sequence[Trial]) -> None:
    """Raise UserError before anything is trained unless the files of every test split are there, or on the hub."""
    for trial in {(task_of(each), str(each.recipe.data.path)): each for each in trials}.values():
        check_splits(trial.recipe, trial.loaded.base_dir, TASKS[task_of(trial)].test_splits)


def predict_tests(outcomes: Sequence[Outcome], root: Path, tell: Callable[[str], None]) -> tuple[list[Path], Failures]:
    """The test splits of every task and method that is done, by its seed with the best validation score.

    Returns:
        submission/METHOD/TASK.tsv under `root`; and by folder the runs that gave no answers, and why. They do not stop
        the others.

    Raises:
        UserError, OSError: of the only run that is to answer.
    """
    written, failures = list[Path](), Failures()
    ready = [each for each in standings(outcomes) if each.done]
    for each in ready:
        run = max(each.done, key=lambda run: last(run)[each.task.headline])
        try:
            for path in _predicted(each, run, root, tell):
                written.append(path)
        except (UserError, OSError) as error:
            if len(ready) == 1:
                raise
            failure = error if isinstance(error, UserError) else RunFailed(described(error))
            failures[run.trial.folder] = failure
            tell(f"{run.trial.folder} answers no test split: {described(failure)}")
    return written, failures


def _predicted(standing: Scored, run: Outcome, root: Path, tell: Callable[[str], None]) -> Iterator[Path]:
    recipe = run.trial.recipe
    stored = load_run_model(str(root / run.trial.folder), str(choose_device(recipe.train.device)))
    align_labels(stored.model, standing.task, stored.origin)
    take_rows(stored, recipe, stored.tokenizer.pad_token_id)
    folder = root / "submission" / standing.label
    make_directory(folder)
    for split in standing.task.test_splits:
        rows = read_rows(recipe, split, run.trial.loaded.base_dir)
        examples = encode(rows, len(rows), stored.tokenizer, recipe.data.max_length)
        answers = predict(stored.model, examples, recipe.scored_together, labelled=False).predictions
        path = write_submission(folder, standing.task, split, answers, rows.indices)
        tell(incomplete(standing.task, split, len(rows)) or f"wrote {path}")
        yield path
