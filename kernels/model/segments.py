"""Causal attention within the segments of packed rows: documents that lie side by side and do not see each other.

The segments of rows (b, s) are those of the flat sequence (b·s,), for a row always begins one. On a GPU with flash
attention they are one launch, whose kernel is told the bounds; elsewhere each is a call of its own, or all are one
batch where their lengths are equal. No (s, s) mask is made.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from galore.kernels.device import capability, device_type

# since torch 2.12; before it the kernel takes groups of heads without being told
ASKED_FOR_GROUPS = "enable_gqa" in inspect.signature(varlen_attn).parameters

Whole = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Attention over whole sequences: q, k, v (n, H or K, t, D) and a boolean mask (t, t), None for plainly causal, to
(n, t, H, D)."""


@dataclass(frozen=True)
class Segments:
    """The segments of rows (b, s), row after row."""

    lengths: tuple[int, ...]
    bounds: Tensor  # (segments + 1,) int32, on the device of the model

    @classmethod
    def of(cls, positions: Tensor, device: torch.device) -> Segments:
        """The segments of tokens whose positions in them are (b, s), on the CPU: where it is 0, one begins."""
        starts = (positions.flatten() == 0).nonzero().squeeze(1)
        bounds = torch.cat((starts, starts.new_tensor([positions.numel()]))).to(torch.int32)
        return cls(tuple(bounds.diff().tolist()), bounds.to(device, non_blocking=True))

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def are_equal(self) -> bool:
        return len(set(self.lengths)) == 1


def segment_attention(
    q: Tensor,  # (b, H, s, D)
    k: Tensor,  # (b, K, s, D), K divides H
    v: Tensor,  # (b, K, s, E)
    segments: Segments,
    whole: Whole,
    scale: float | None = None,
    window: int | None = None,
    fused: bool = True,
) -> Tensor:  # (b, s, H, E)
    """Causal attention in which a token sees those before it in its segment, the last `window` of them if given.

    Args:
        whole: attention over sequences that are whole; flash attention does without it.
        scale: factor on the scores, for flash attention; None is 1/√D.
        fused: flash attention may do it, for it computes the same as `whole`.
    """
    rows, length = q.shape[0], q.shape[2]
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))  # (b·s, heads, D)
    if fused and runs_varlen(q, v):
        out = _varlen(q, k, v, segments, scale, window)
    elif segments.are_equal:
        out = _one_batch(q, k, v, segments.longest, whole, window)
    else:
        parts = zip(*(torch.split(x, list(segments.lengths)) for x in (q, k, v)), strict=True)
        out = torch.cat([_one_batch(a, b, c, len(a), whole, window) for a, b, c in parts])
    return out.view(rows, length, *out.shape[1:])


def runs_varlen(q: Tensor, v: Tensor) -> bool:
    """Whether flash attention takes the segments in one launch: half precision, one head size, a card that has it."""
    half = q.dtype in (torch.bfloat16, torch.float16)
    if not half or device_type(q) != "cuda":
        return False
    size = q.shape[-1]
    return size == v.shape[-1] and size <= 256 and size % 8 == 0 and (capability(q.device) or (0, 0)) >= (8, 0)


def _varlen(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float | None, window: int | None) -> Tensor:
    seen = -1 if window is None else window - 1  # before the token itself
    bounds, longest = segments.bounds, segments.longest
    groups: dict[str, Any] = {"enable_gqa": q.shape[1] != k.shape[1]} if ASKED_FOR_GROUPS else {}
    out = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scale, window_size=(seen, 0), **groups)
    assert isinstance(out, Tensor)
    return out


def _one_batch(q: Tensor, k: Tensor, v: Tensor, length: int, whole: Whole, window: int | None) -> Tensor:
    """Segments of one length, (n·t, heads, D) each, to (n·t, H, E)."""
    q, k, v = (x.reshape(-1, length, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
    mask = None if window is None or length <= window else _banded(length, window, q.device)
    return whole(q, k, v, mask).flatten(0, 1)


def _banded(length: int, window: int, device: torch.device) -> Tensor:
    ones = torch.ones(length, length, dtype=torch.bool, device=device)
    return ones.tril_().triu_(1 - window)
