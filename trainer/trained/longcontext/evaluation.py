"""`galore eval --passkey` and `--by-position`: what a model makes of long sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from galore.trainer.checkpoint.checkpoint import Skipped
from galore.trainer.common.errors import UserError
from galore.trainer.data.rows.textdata import TextData
from galore.trainer.models.capacity import positions_of
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.trained.evaluation import held_out, set_positions
from galore.trainer.trained.longcontext.passkey import passkeys
from galore.trainer.trained.longcontext.positions import loss_by_position
from galore.trainer.trained.runmodel import StoredModel, load_run_model


@dataclass(frozen=True)
class Asked:
    """What is scored: passkeys of `lengths`, `tries` of each depth; without lengths, held-out tokens by position."""

    lengths: tuple[int, ...] = ()
    tries: int = 5
    seed: int = 42
    max_tokens: int | None = None


@dataclass(frozen=True)
class LongScores:
    """What was scored, and where the model came from: `origin` and `step` as of `Scored`."""

    origin: str
    step: int | None
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    passkey: list[dict[str, Any]]
    by_position: list[dict[str, Any]]


def evaluate_long(
    path: str, loaded: LoadedRecipe | None, asked: Asked, device: str = "cpu", checkpoint: str | None = None
) -> LongScores:
    """Score the model `path` on long sequences, its rotary positions as `loaded` says.

    Raises:
        UserError: see `evaluate_stored`; or a text is longer than the model has positions for.
    """
    stored = load_run_model(path, device, checkpoint)
    if asked.lengths:
        _refuse_classifier(stored)
        set_positions(stored, loaded)
        _refuse_longer(stored, max(asked.lengths))
        found = passkeys(stored.model, stored.tokenizer, asked.lengths, asked.tries, asked.seed)
        return LongScores(stored.origin, stored.step, stored.skipped, (), found, [])
    recipe, data = held_out(stored, loaded)
    if not isinstance(data, TextData):
        raise UserError("is for text to continue", where="--by-position", fix="leave it out")
    tokens = asked.max_tokens or recipe.eval.max_tokens
    batches = data.validation_batches(recipe.scored_together, tokens)
    ranges = loss_by_position(stored.model, batches)
    return LongScores(stored.origin, stored.step, stored.skipped, data.notes, [], ranges)


def _refuse_classifier(stored: StoredModel) -> None:
    if not stored.model.can_generate():
        raise UserError(f"{stored.origin} continues no text", where="--passkey", fix="name a causal language model")


def _refuse_longer(stored: StoredModel, length: int) -> None:
    positions = positions_of(stored.model.config)
    if positions is not None and length > positions:
        raise UserError(
            f"{length:,} tokens do not fit the model's {positions:,} positions",
            where="--passkey",
            fix="ask at fewer, or scale its positions with a recipe: model.rope={type: yarn, factor: …}",
        )
