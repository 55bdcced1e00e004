"""What data hold out: a model is scored on it, and a run that chooses by it is asked first whether it is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from galore.trainer.build import Run
from galore.trainer.common.errors import UserError, described
from galore.trainer.data.batch import Data, Extra, Result, Scoring
from galore.trainer.data.rows.textdata import TextData
from galore.trainer.data.score import nothing_to_score
from galore.trainer.models.generate import rehearse
from galore.trainer.models.head import split_head
from galore.trainer.optim.ranks import Ranks
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.record.row import losses_of
from galore.trainer.tasks.metrics import flat


def score_held_out(
    model: nn.Module, data: Data, recipe: Recipe, ranks: Ranks | None = None, extra: Extra | None = None
) -> Result:
    """The score of `model` on all that `data` holds out, as section `eval` says; its mode is left as it was.

    Raises:
        UserError: there is nothing to score.
    """
    return data.score(model, Scoring(split_head, recipe.scored_together, recipe.eval, ranks, extra))


def final_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What `final` of the result gave whose `row` was recorded."""
    if "task" in row:
        return {"task": row["task"], **flat(row["scores"])}
    more = ("loss_nats_by_source", "loss_nats_by_modality", "perplexity_by_modality", "extra_loss")
    known = {name: row[name] for name in more if name in row}
    parts = {name: losses_of(each) for name, each in known.items() if isinstance(each, Mapping)}
    plain = ("loss_nats", "perplexity", "mode")
    said = {name: row[name] for each in plain if (name := f"{each}_is") in row}
    return {name: row.get(name) for name in plain} | said | known | parts


def require_held_out(run: Run) -> None:
    """Raise UserError where held-out losses are to choose, and there are none, or what is held out has no target."""
    train, settings = run.recipe.train, run.recipe.eval
    if run.data.has_validation and isinstance(run.data, TextData):
        batches = run.data.validation_batches(run.recipe.scored_together, settings.max_tokens)
        if not any(batch.targets for batch in batches):
            raise nothing_to_score()
    if (train.save_best or train.early_stopping_patience is not None) and not run.data.has_validation:
        key = "save_best" if train.save_best else "early_stopping_patience"
        raise UserError(
            "asks for held-out losses, and nothing is held out",
            where=f"train.{key}",
            fix="set data.validation_path or data.validation_fraction, or leave it out",
        )


def require_sample(run: Run) -> None:
    """Raise UserError where the sample that comes with an evaluation cannot be drawn, whatever the weights."""
    settings, chat = run.recipe.eval, run.recipe.data.instruct
    if settings.sample_prompt is None or not run.data.has_validation:
        return
    try:
        rehearse(run.model, run.data.tokenizer, settings.sample_prompt, settings.sample_tokens, chat)
    except Exception as error:
        raise UserError(
            f"no sample can be drawn: {described(error)}",
            where="eval.sample_prompt",
            fix="shorten it, lower eval.sample_tokens, or set eval.sample_prompt: null to go without",
        ) from error
