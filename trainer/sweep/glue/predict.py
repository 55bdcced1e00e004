"""Answers to the test splits, whose labels nobody has, in the files that GLUE's server takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from galore.trainer.build import choose_device
from galore.trainer.common.durable import make_directory
from galore.trainer.data.glue.prepare import encode, read_rows
from galore.trainer.models.classifier import align_labels
from galore.trainer.scoring import predict
from galore.trainer.sweep.glue.outcome import Outcome, Standing, last, standings
from galore.trainer.sweep.glue.submission import incomplete, write_submission
from galore.trainer.trained.runmodel import load_run_model

Told = Callable[[str], None]


def predict_tests(outcomes: Sequence[Outcome], root: Path, tell: Told) -> list[Path]:
    """The test splits of every task and method that is done, by its seed with the best validation score.

    Returns:
        submission/METHOD/TASK.tsv under `root`.

    Raises:
        UserError: a test split cannot be read. RunFailed: a score is not finite.
    """
    return [path for each in standings(outcomes) if each.done for path in _predicted(each, root, tell)]


def _predicted(standing: Standing, root: Path, tell: Told) -> Iterator[Path]:
    run = max(standing.done, key=lambda each: last(each)[standing.task.headline])
    recipe = run.cell.recipe
    stored = load_run_model(str(root / run.cell.folder), str(choose_device(recipe.train.device)))
    align_labels(stored.model, standing.task, stored.origin)
    folder = root / "submission" / standing.label
    make_directory(folder)
    for split in standing.task.test_splits:
        rows = read_rows(recipe, split, run.cell.loaded.base_dir)
        examples = encode(rows, len(rows), stored.tokenizer, recipe.data.max_length)
        size = recipe.eval.micro_batch_size or recipe.train.micro_batch_size
        answers = predict(stored.model, examples, size, labelled=False).predictions
        path = write_submission(folder, standing.task, split, answers, rows.indices)
        tell(incomplete(standing.task, split, len(rows)) or f"wrote {path}")
        yield path
