"""Packed rows whose documents do not see each other: which attention a model takes for them, and whether it is so."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from galore.kernels.model.segments import Segments, segment_attention
from galore.trainer.common.errors import UserError
from galore.trainer.data.rows.tokenbatch import model_arguments
from galore.trainer.models.cpu import NAME as OWN
from galore.trainer.models.cpu import changes_scores
from galore.trainer.models.retnet.configuration_retnet import RetNetConfig

PREFIX = "segments_of_"  # in transformers' registry, before the attention that whole sequences take
MASKS = {"sdpa": sdpa_mask, OWN: sdpa_mask, "eager": eager_mask}
EAGER = "eager_attention_forward"  # in the module of every architecture that asks the registry
LENGTH = 12  # tokens of each of the two documents that are tried
EXACT = (torch.float32, torch.float64)


def isolate_documents(model: PreTrainedModel) -> list[str]:
    """Make `model` take `model_arguments`; returns lines that say how. Call it before adapters are added.

    Raises:
        UserError: it lets the documents of a row see each other all the same.
    """
    now, tried = model.config._attn_implementation, not next(model.parameters()).is_meta
    if now in MASKS and _takes_bounds(model):
        name = PREFIX + now
        whole = _eager if now == "eager" else ALL_ATTENTION_FUNCTIONS[now]
        AttentionInterface.register(name, partial(attention_forward, whole))
        AttentionMaskInterface.register(name, partial(_mask, MASKS[now]))
        model.set_attn_implementation(name)
        if not tried or _leak(model) is None:
            return ["documents of a row: isolated, each with attention and positions of its own"]
        model.set_attn_implementation(now)
    if tried and (leak := _leak(model)) is not None:
        raise UserError(
            f"the documents of a packed row cannot be isolated in {model.config.model_type}: it {leak}",
            where="data.isolate_documents",
            fix="set data.packing: paper for one document a row, or data.isolate_documents: false to let them be seen",
        )
    how = "a mask of all pairs of positions, which is slow"
    if isinstance(model.config, RetNetConfig):
        how = "a state that begins anew with each"
    elif now == "flash_attention_2":
        how = "flash attention's bounds"
    return [f"documents of a row: isolated by {how}"]


def _takes_bounds(model: Any) -> bool:
    """Whether its layers hand bounds and window to their attention, as flash attention asks of an architecture."""
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ()
    has_eager = model.config._attn_implementation != "eager" or hasattr(_module_of(model), EAGER)
    return bool(model._supports_flash_attn) and has_eager and "chunked_attention" not in kinds


def attention_forward(
    whole: Any,
    module: nn.Module,
    query: Tensor,  # (B, H, T, D)
    key: Tensor,  # (B, K, T, D), K divides H
    value: Tensor,  # (B, K, T, D)
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    segments: Segments | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:  # (B, T, H, D)
    """transformers' attention function: `whole` within each of the `segments`, or over all where there are none.

    Bounds and window say all, as they do to flash attention: a mask beside them is of an architecture that does not see
    that rows are packed.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        out: Tensor = whole(module, q, k, v, mask, dropout=dropout, scaling=scaling, **kwargs)[0]
        return out

    if segments is None:
        return attend(query, key, value, attention_mask), None
    if whole is not _eager and changes_scores(kwargs):
        raise ValueError("its scores are more than a product")
    fused = dropout == 0.0 and whole is not _eager
    return segment_attention(query, key, value, segments, attend, scaling, sliding_window, fused), None


def _eager(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **kwargs: Any) -> Any:
    """The architecture's own attention, plainly causal without a mask: soft-capped scores, sinks and all."""
    if mask is None:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril_()
    if mask.dtype == torch.bool:
        mask = q.new_zeros(1, 1, *mask.shape).masked_fill_(~mask, torch.finfo(q.dtype).min)
    return getattr(_module_of(module), EAGER)(module, q, k, v, mask, **kwargs)


def _module_of(part: nn.Module) -> Any:
    return sys.modules[type(part).__module__]


def _mask(
    otherwise: Any, *args: Any, attention_mask: Tensor | None = None, allow_is_causal_skip: bool = True, **kwargs: Any
) -> Tensor | None:
    """The mask of `otherwise`; none for packed rows, whose positions do not allow to skip it: they have bounds."""
    if attention_mask is None and not allow_is_causal_skip:
        return None
    mask: Tensor | None = otherwise(
        *args, attention_mask=attention_mask, allow_is_causal_skip=allow_is_causal_skip, **kwargs
    )
    return mask


def _leak(model: PreTrainedModel) -> str | None:
    """Why documents are not isolated. Whatever an architecture promises, its logits tell: of one behind two others."""
    try:
        with torch.no_grad():
            is_apart = _is_apart(model)
    except (TypeError, ValueError, RuntimeError) as error:
        return f"takes no bounds ({str(error).splitlines()[0]})"
    return None if is_apart else "lets them see each other, or counts positions on"


def _is_apart(model: Any) -> bool:
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        ids = torch.arange(3 * LENGTH, device=device).view(3, LENGTH) % model.get_input_embeddings().weight.shape[0]
        one, other, last = ids
        rows = torch.stack((torch.cat((one, last)), torch.cat((other, last))))
        arguments = model_arguments(torch.arange(LENGTH).repeat(2, 2), device)
        packed = model(input_ids=rows, use_cache=False, **arguments).logits.float()
        alone = model(input_ids=ids, use_cache=False).logits.float()
    finally:
        model.train(was_training)
    first, second = packed[:, LENGTH:]
    differs, exact = (alone[2] - alone[0]).abs().max(), model.dtype in EXACT
    same = (first - alone[2]).abs().max() <= differs * (1e-3 if exact else 0.1)
    # equal but for experts, whose sums go by how many tokens each gets: the last bit of a half precision
    unseen = (first - second).abs().max() <= (differs * 1e-3 if exact else first.abs().max() * 2**-8)
    return bool(same and unseen)
