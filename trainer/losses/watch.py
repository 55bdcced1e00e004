"""What chosen blocks show in a forward pass: the attention of chosen positions, and hidden states.

The attention that runs is what ran before, and its result the same to the bit; beside it the probabilities of the
watched blocks are made again from queries and keys. Recomputed blocks make them again in the backward, too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from galore.trainer.common.errors import UserError
from galore.trainer.models.adapters.lora import without_adapters
from galore.trainer.models.isolation import EAGER
from galore.trainer.models.isolation import PREFIX as ISOLATED

PREFIX = "watched_"  # in transformers' registry, before the attention that runs
ATTENTION, HIDDEN = "attention", "hidden"
SOFTCAP, SINKS = "softcap", "s_aux"  # transformers' names
UNKNOWN = ("position_bias", "sinks", "indices", "block_indices")
WHERE = "extra_loss.layers"


@dataclass(frozen=True)
class Changes:
    """What an architecture does to scores beside scaling them. `softcap`: they stay below it, as Gemma 2's do;
    `sinks`: (heads,) a score each that takes its share and shows nothing, as GPT-OSS has them."""

    softcap: float | None = None
    sinks: Tensor | None = None


class Watch:
    """The blocks `layers` of a model. After a pass in `during`, what they showed is there until the next one.

    Attributes:
        attention: of each layer (b, heads, queries, s), fp32, with its gradient.
        hidden: of each layer its output (b, s, d), with its gradient.
    """

    def __init__(self, model: Any, layers: Sequence[int], sees: Sequence[str]) -> None:
        base: Any = without_adapters(model)
        blocks = [each for each in base.modules() if isinstance(each, GradientCheckpointingLayer)]
        self.layers = [_number(layer, len(blocks)) for layer in layers]
        self.attention, self.hidden = dict[int, Tensor](), dict[int, Tensor]()
        self._open = self._on = False
        self._queries: Tensor | None = None
        for number in self.layers:
            if HIDDEN in sees:
                blocks[number].register_forward_hook(partial(self._show, number))
            if ATTENTION in sees:
                _attention_of(blocks[number], number).galore_watch = partial(self._attend, number)
        if ATTENTION in sees:
            _make_visible(base)

    @contextmanager
    def during(self, queries: Tensor | None = None) -> Iterator[None]:
        """Watch the passes within; of attention the rows of `queries` (b, q), positions, or those of all positions."""
        self.attention.clear()
        self.hidden.clear()
        self._queries, self._open, self._on = queries, True, True
        try:
            yield
        finally:
            self._open = False

    @property
    def is_watching(self) -> bool:
        """Whether a pass is watched, or a block of one computed again, which must make what it made before."""
        return self._open or (self._on and torch.is_grad_enabled())

    def _show(self, number: int, block: nn.Module, arguments: Any, output: Any) -> None:
        if self._open:
            self.hidden[number] = output if isinstance(output, Tensor) else output[0]

    def _attend(
        self, number: int, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float | None, changes: Changes
    ) -> None:
        if self.is_watching:
            found = probabilities(query, key, mask, scaling, self._queries, changes)
            if self._open:
                self.attention[number] = found


def probabilities(
    query: Tensor,  # (b, h, s, d)
    key: Tensor,  # (b, k, s, d), k divides h
    mask: Tensor | None,
    scaling: float | None,
    queries: Tensor | None,
    changes: Changes = Changes(),
) -> Tensor:  # (b, h, q, s)
    """Softmax of the scores of positions `queries` (b, q), plainly causal without a mask; fp32."""
    batch, heads, length, width = query.shape
    key = key.repeat_interleave(heads // key.shape[1], dim=1)
    at = torch.arange(length, device=query.device).expand(batch, -1) if queries is None else queries.to(query.device)
    rows = at[:, None, :, None]
    chosen = query if queries is None else query.gather(2, rows.expand(-1, heads, -1, width))
    scores = (chosen @ key.transpose(2, 3)).float() * (width**-0.5 if scaling is None else scaling)
    if changes.softcap is not None:
        scores = changes.softcap * (scores / changes.softcap).tanh()
    if mask is None:
        unseen = torch.arange(length, device=query.device) > rows
        return _softmax(scores.masked_fill(unseen, float("-inf")), changes.sinks)
    mask = mask.expand(batch, -1, -1, -1)[..., :length]
    there = mask if queries is None else mask.gather(2, rows.expand(-1, mask.shape[1], -1, length))
    scores = scores.masked_fill(~there, float("-inf")) if there.dtype == torch.bool else scores + there
    return _softmax(scores, changes.sinks)


def _softmax(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Over the last dimension, and over a column of `sinks` that is left out again."""
    if sinks is None:
        return scores.softmax(-1)
    column = sinks.float().view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
    return torch.cat((scores, column), dim=-1).softmax(-1)[..., :-1]


def _number(layer: int, blocks: int) -> int:
    if not -blocks <= layer < blocks:
        what = f"the model has {blocks} blocks, and no block {layer}"
        raise UserError(what, where=WHERE, fix=f"write numbers from 0 to {blocks - 1}, or from -1 backwards")
    return layer % blocks


def _attention_of(block: nn.Module, number: int) -> Any:
    """The self-attention in a block: the first module of it that says whose layer it is."""
    found = next((each for each in block.modules() if hasattr(each, "layer_idx") and hasattr(each, "scaling")), None)
    if found is None:
        what = f"block {number} has no attention that can be watched"
        raise UserError(what, where=WHERE, fix="name blocks with attention")
    return found


def _make_visible(model: Any) -> None:
    """Let the attention of `model` tell its queries and keys to whom a module names as its watch."""
    now = model.config._attn_implementation
    if now.startswith(PREFIX):
        return
    if now.startswith(ISOLATED):
        fix = "set data.packing: paper, or data.isolate_documents: false"
        raise UserError("the attention of isolated documents is not shown", where="data.isolate_documents", fix=fix)
    if now != "eager" and now not in ALL_ATTENTION_FUNCTIONS.valid_keys():
        raise UserError(f"{now} does not show its attention", where="model.attn_implementation", fix="set it to sdpa")
    whole = _eager if now == "eager" else ALL_ATTENTION_FUNCTIONS[now]
    AttentionInterface.register(PREFIX + now, partial(_watched, whole))
    AttentionMaskInterface.register(PREFIX + now, ALL_MASK_ATTENTION_FUNCTIONS[now])
    model.set_attn_implementation(PREFIX + now)


def _watched(
    whole: Any,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> Any:
    """transformers' attention function: `whole`, and whoever watches the module is told."""
    tell = getattr(module, "galore_watch", None)
    if tell is not None:
        tell(query, key, mask, scaling, _changes(kwargs))
    return whole(module, query, key, value, mask, scaling=scaling, **kwargs)


def _changes(kwargs: dict[str, Any]) -> Changes:
    """Raises UserError for what nobody here can make again."""
    unknown = [name for name in UNKNOWN if kwargs.get(name) is not None]
    if unknown:
        what = f"the attention of this architecture takes {', '.join(unknown)}, and cannot be shown"
        raise UserError(what, where=WHERE, fix="take an extra loss that needs no attention")
    return Changes(kwargs.get(SOFTCAP), kwargs.get(SINKS))


def _eager(module: nn.Module, *tensors: Any, **kwargs: Any) -> Any:
    return getattr(sys.modules[type(module).__module__], EAGER)(module, *tensors, **kwargs)
