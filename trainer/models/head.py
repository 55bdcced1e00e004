"""Take a causal model apart at its output head, so that a loss need not hold the logits of a whole batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import masking_utils

from galore.trainer.models.adapters.lora import without_adapters
from galore.trainer.models.isolation import PREFIX
from galore.trainer.models.linears import is_plain


class SplitModel(NamedTuple):
    """logits (b, s, V) = `body`(input_ids)[0] @ `weight`.T"""

    body: nn.Module  # ids (b, s) → hidden states (b, s, d)
    weight: Tensor  # (V, d)

    def hidden(self, input_ids: Tensor, **arguments: Any) -> Tensor:
        """Last hidden states (b, s, d), after the final norm, in the head's type: a residual stream may be float32."""
        known = not arguments or knows_bounds(self.body)
        with rows_are_known() if known else nullcontext():
            out: Tensor = self.body(input_ids=input_ids, use_cache=False, **arguments)[0]
        return out.to(self.weight.dtype)


@contextmanager
def rows_are_known() -> Iterator[None]:
    """A context in which transformers makes its masks without looking for rows of several documents.

    It would read that from the positions of every micro-batch, for which a GPU is waited for.
    """
    looks = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = looks


def knows_bounds(body: Any) -> bool:
    """Whether its attention is told where documents end, and needs no mask for it."""
    name = str(body.config._attn_implementation)
    return name.startswith((PREFIX, "flash_attention"))


_plain: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def split_head(model: nn.Module) -> SplitModel | None:
    """The body and the head's weight, or None where the head does more than one matrix product.

    Biased heads are seen by type. Soft-capped or scaled logits and the like are not visible from outside, so the first
    call runs two tokens through both forms: the same product gives the same bits. Works on models that adapters wrap.
    """
    base: Any = without_adapters(model)
    head: Any = base.get_output_embeddings()
    body: Any = base.get_decoder() if hasattr(base, "get_decoder") else base.base_model
    if head is None or not is_plain(head) or getattr(head, "bias", None) is not None or body is base:
        return None
    if not head.weight.is_floating_point():  # codes, whose gradient the head itself has to hand over
        return None
    split = SplitModel(body, head.weight)
    if model not in _plain:
        _plain[model] = head.weight.is_meta or _gives_same_logits(base, split)
    return split if _plain[model] else None


@torch.no_grad()
def _gives_same_logits(base: Any, split: SplitModel) -> bool:
    was_training = base.training
    base.eval()
    try:
        ids = torch.tensor([[0, 1]], device=split.weight.device)
        logits = base(input_ids=ids, use_cache=False).logits
        return torch.equal(logits, nn.functional.linear(split.hidden(ids), split.weight))
    finally:
        base.train(was_training)
