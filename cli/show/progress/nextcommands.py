"""What to type once a run is over, as far as it fits the run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from galore.trainer.record.rundir import RunDir

if TYPE_CHECKING:
    from galore.trainer.recipe.schema.recipe import Recipe

LONGEST_PROMPT = 40  # letters; a longer one hides the command
BASELINES = {"unigram_loss_nats", "baseline"}  # facts of a run that holds something out


def next_commands(run: RunDir, recipe: Recipe) -> str:
    """The commands that use the model of `run`, one a line."""
    return "next:   " + "\n        ".join(_commands(run, recipe))


def _commands(run: RunDir, recipe: Recipe) -> Iterator[str]:
    folder = shlex.quote(run.typed)
    if recipe.data.task is None:  # a classifier continues no text
        yield f"galore generate {folder} --prompt {shlex.quote(_prompt(recipe))}"
    if recipe.data.instruct:
        yield f"galore chat {folder}"
    if BASELINES & run.read_facts().keys():
        yield f"galore eval {folder}{' --checkpoint best' if recipe.train.save_best else ''}"
    yield f"galore export {folder} OUT"


def _prompt(recipe: Recipe) -> str:
    """The recipe's own, where it is short."""
    prompt = recipe.eval.sample_prompt or ""
    return prompt if prompt.isprintable() and 0 < len(prompt) <= LONGEST_PROMPT else "…"
