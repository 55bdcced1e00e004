"""The data of a recipe: text to continue, or the labelled examples of a task."""

from __future__ import annotations

from pathlib import Path

from galore.trainer.data.batch import Progress, TrainingData
from galore.trainer.data.glue.prepare import prepare_task
from galore.trainer.data.prepare import prepare_data
from galore.trainer.data.rows.labelled import LabelledData
from galore.trainer.recipe.schema.recipe import Recipe

Data = TrainingData | LabelledData


def read_data(recipe: Recipe, base_dir: Path, progress: Progress | None = None) -> Data:
    """Training and held-out rows of a recipe; see `prepare_data` and `prepare_task`. Raises UserError, RunFailed."""
    if recipe.data.task is not None:
        return prepare_task(recipe, base_dir, progress)
    return prepare_data(recipe, base_dir, progress)
