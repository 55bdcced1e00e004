"""What training with positions that skip ahead asks of a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from galore.trainer.common.errors import UserError
from galore.trainer.models.capacity import require_positions
from galore.trainer.models.head import knows_bounds, rows_are_known
from galore.trainer.models.rope.rotary import rotary_modules
from galore.trainer.models.rope.scaling import START, own_parameters
from galore.trainer.recipe.schema.train import PositionSkips

WHERE = "train.position_skips"
PROBED = 4  # tokens


def let_positions_skip(model: PreTrainedModel, skips: PositionSkips | None, length: int, isolates: bool) -> list[str]:
    """What rows of `length` tokens are then, in a line; none without `skips`.

    Raises:
        UserError: the model has no rotary positions, fewer than are asked for, or pays no heed to them; it sees no
            further than a window, or tells documents apart by positions.
    """
    if skips is None:
        return []
    kind = model.config.model_type
    own_parameters(model.config, WHERE)
    require_positions(model.config, skips.target_length, f"{WHERE}.target_length")
    if (window := _window(model)) is not None and window < skips.target_length:
        raise _refused(f"every layer of {kind} sees {window} tokens back, and no further")
    if getattr(model.config.get_text_config(), START, None):
        raise _refused("model.rope.start_tokens are rotated as the first of a row, and rows begin anywhere with skips")
    if isolates and not knows_bounds(model):
        what = f"the documents of a row are told apart by their positions in {kind}, and skips would cut them"
        raise UserError(what, where=WHERE, fix="set data.isolate_documents: false, or leave position_skips out")
    if not next(model.parameters()).is_meta and not _heeds(model):
        raise _refused(f"{kind} pays no heed to rotary positions")
    chunks = f"{skips.chunks} chunks" if skips.chunks < length else "single tokens"
    return [f"positions: rows of {length:,} tokens in {chunks}, spread over {skips.target_length:,} positions"]


def _refused(what: str) -> UserError:
    return UserError(what, where=WHERE, fix="leave position_skips out")


def _window(model: PreTrainedModel) -> int | None:
    """How far every layer sees back; None where one sees all."""
    text = model.config.get_text_config()
    window, kinds = getattr(text, "sliding_window", None), getattr(text, "layer_types", None)
    everywhere = kinds is None or set(kinds) == {"sliding_attention"}
    return window if window and everywhere else None


@torch.enable_grad()
def _heeds(model: PreTrainedModel) -> bool:
    """Whether positions that are given reach a rotary module, and the logits are made of what comes out of it."""
    device, was_training = model.device, model.training
    ids = torch.arange(PROBED, device=device)[None] % model.config.get_text_config().vocab_size
    positions = 3 * torch.arange(PROBED, device=device)[None]
    given, leaves = list[bool](), list[Tensor]()

    def watch(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], made: Any) -> Any:
        every = (*arguments, *named.values())
        given.append(any(isinstance(each, Tensor) and torch.equal(each, positions) for each in every))
        own = tuple(each.detach().requires_grad_() for each in (made if isinstance(made, tuple) else (made,)))
        leaves.extend(own)
        return own if isinstance(made, tuple) else own[0]

    hooks = [each.register_forward_hook(watch, with_kwargs=True) for each in rotary_modules(model)]
    model.eval()
    try:
        with rows_are_known():
            logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        if not any(given) or not logits.requires_grad:
            return False
        reached = torch.autograd.grad(logits.float().sum(), leaves, allow_unused=True)
        return any(each is not None for each in reached)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
