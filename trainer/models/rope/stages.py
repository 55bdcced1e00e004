"""Lengths that grow in a run: which step has sequences of which length, and how positions rotate in it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn
from transformers import PreTrainedConfig

from galore.trainer.common.format import counted
from galore.trainer.data.batch import Batch
from galore.trainer.data.rows.tokenbatch import TokenBatch
from galore.trainer.models.rope.rotary import rotating
from galore.trainer.models.rope.scaling import START, scale_rope, trained_length
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.recipe.schema.rope import RopeSection


@dataclass(frozen=True)
class Stage:
    """Steps up to `until`, from the end of the stage before it, whose rows are cut into `pieces` of `max_length`.

    `config`: how positions rotate meanwhile; None is as ever.
    """

    until: int
    max_length: int
    pieces: int
    config: PreTrainedConfig | None

    @property
    def positions(self) -> dict[str, Any]:
        """How they rotate, as JSON has it."""
        text = None if self.config is None else self.config.get_text_config()
        keys = ("rope_parameters", "max_position_embeddings", START)
        known: dict[str, Any] = json.loads(json.dumps({key: getattr(text, key, None) for key in keys}))
        return {key: value for key, value in known.items() if value is not None}


def stages_of(recipe: Recipe, config: PreTrainedConfig, base_dir: Path) -> list[Stage]:
    """The stages of `train.length_stages` for a model of `config`.

    Raises:
        UserError: the rotary positions of one do not go with the model.
    """
    stages, until = list[Stage](), 0
    for each in recipe.train.length_stages:
        until += each.steps
        own = _config(config, each.rope, recipe.model.rope, each.max_length, base_dir)
        stages.append(Stage(until, each.max_length, recipe.data.max_length // each.max_length, own))
    return stages


@contextmanager
def in_stage(
    stages: Sequence[Stage], model: nn.Module, batch: Batch, step: int, spread: int | None = None
) -> Iterator[tuple[Batch, int]]:
    """A context in which `model` is as the stage of `step`, counted from 0, has it; gives the batch in as many pieces
    per row. What is saved, evaluated and exported is the model of the whole length.

    Args:
        spread: how many positions training rows are spread over, if more than they have tokens.
    """
    stage = next((each for each in stages if step < each.until), None)
    if stage is None:
        with nullcontext() if spread is None else rotating(model, length=spread):
            yield batch, 1
        return
    cut = cast(TokenBatch, batch).cut(stage.pieces)
    with rotating(model, stage.config, stage.max_length):
        yield cut, stage.pieces


def in_words(stages: Sequence[Stage], max_length: int) -> str:
    """The lengths of a run in one line; "" where there is one."""
    starts = [0, *(each.until for each in stages)]
    told = [
        f"{each.max_length:,} tokens for {counted(each.until - start, 'step')}"
        for each, start in zip(stages, starts, strict=False)
    ]
    return ", ".join([*told, f"then {max_length:,}"]) if told else ""


def _config(
    base: PreTrainedConfig, own: RopeSection | None, whole: RopeSection | None, max_length: int, base_dir: Path
) -> PreTrainedConfig | None:
    """The configuration `base` with the positions of a stage: its own, or those of the whole, for its length."""
    rope = own or whole
    if rope is None:
        return None
    original = rope.original_max_position_embeddings or trained_length(base)
    settings: dict[str, float] = {"original_max_position_embeddings": original}
    if own is None and rope.type not in ("default", "dynamic"):
        settings["factor"] = max(1.0, max_length / original)
    config = copy.deepcopy(base)
    scale_rope(config, rope.model_copy(update=settings), base_dir, built=False)
    return config
