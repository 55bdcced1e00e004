"""Feed-forward networks and norms of a model in tiles of tokens: which they are, in words, and their forward."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any, Literal

import torch
from torch import Tensor, nn

from galore.kernels.model.tiles import in_tiles
from galore.trainer.common.errors import UserError
from galore.trainer.models.tiles.local import candidates, obstacle, obstacle_seen, vector_size
from galore.trainer.optim.int8_linear import int8_layers

WHERE = "train.tile_tokens"
SHARE = 8  # tiles of a micro-batch where their number is left to us


def tile_modules(model: nn.Module, tokens: int | Literal["auto"] | None, micro_batch: int = 0) -> list[str]:
    """Let feed-forward networks and norms of `model` be computed `tokens` at a time; returns lines that say which.

    A feed-forward network is a part of a block that takes one tensor and consists of linear layers and elementwise
    functions. That no token sees another is tried on real weights.

    Args:
        tokens: None tiles nothing; "auto" takes an eighth of a micro-batch, but at least as many as the model is wide:
            what a tile then makes is little beside the attention of all tokens, and its products are large.
        micro_batch: tokens of a micro-batch.

    Raises:
        UserError: nothing of the model can be tiled.
    """
    if tokens is None:
        return []
    width = int(model.get_input_embeddings().weight.shape[1])  # type: ignore[operator]
    tokens = max(width, -(-micro_batch // SHARE)) if tokens == "auto" else tokens
    tiled: Counter[str] = Counter()
    left: dict[str, str] = {}
    for module in candidates(model):
        kind = type(module).__name__
        reason = obstacle(module) or (None if kind in tiled else obstacle_seen(module))
        if reason is not None:
            left[kind] = reason
            continue
        vectors = tokens * max(1, width // vector_size(module))
        module.__dict__["forward"] = functools.partial(_forward, module, vectors)
        tiled[kind] += 1
    whole = [f"{kind} ({reason})" for kind, reason in left.items()]
    if not tiled:
        what = f"no part of {type(model).__name__} can be computed in tiles of tokens"
        raise UserError(what + (f": {'; '.join(whole)}" if whole else ""), where=WHERE, fix="leave it out")
    told = ", ".join(f"{count} {kind}" for kind, count in tiled.items())
    lines = [f"in tiles of {tokens:,} tokens, forward and backward: {told}"]
    return [*lines, *([f"not in tiles, but whole: {'; '.join(whole)}"] if whole else [])]


def _forward(module: Any, vectors: int, *given: Tensor, **named: Tensor) -> Tensor:
    (x,) = (*given, *named.values())
    trained: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
    if not x.requires_grad and not trained and any(layer.receive for layer in int8_layers(module)):
        # so that there is a backward
        trained = [torch.empty(0, dtype=torch.float32, device=x.device, requires_grad=True)]
    return in_tiles(functools.partial(type(module).forward, module), x, vectors, trained)
