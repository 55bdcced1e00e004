"""Retention in its three forms, which are one function: parallel, chunk by chunk, and token by token.

For one head with decay γ and rotation R (by the angles θ, per token), q, k (T, dk) and v (T, dv):

    parallel      oₙ = Σ over m ≤ n of γⁿ⁻ᵐ (Rⁿqₙ · Rᵐkₘ) vₘ
    recurrent     Sₙ = γ R⁻¹ Sₙ₋₁ + kₙ vₙᵀ,   oₙ = qₙ Sₙ
    chunkwise     parallel within a chunk, and Rⁿqₙ γⁱ S of the chunks before for its i-th token

The rotation counts tokens from those of the call, and the state is turned so that its last token stands at 0: nothing
grows with the position. Products are in the type of q, states in float32, or in float64 where q is.

Source: Sun et al., 2023 (arXiv 2307.08621), equations 1 to 7. Its three normalizations are left out: they cancel in the
group norm that follows. This file is copied into exported folders: it imports torch alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def decays(heads: int) -> Tensor:
    """γ = 1 - 2^(-5 - h) of each head, (H,) in float64: half-lives from 22 tokens on, doubled from head to head."""
    return 1 - torch.exp2(-5 - torch.arange(heads, dtype=torch.float64, device="cpu"))


def rotations(length: int, width: int, theta: float, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of n·θ for tokens n = 1, …, `length`: (T, dk/2) each, from angles in float64."""
    frequencies = theta ** -torch.linspace(0, 1, width // 2, dtype=torch.float64, device=device)
    angles = torch.arange(1, length + 1, dtype=torch.float64, device=device)[:, None] * frequencies
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs (x₁, x₂) of the last dimension, halves apart, turned by the angles; cos and sin broadcast, in x's type."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def retention(
    q: Tensor,  # (B, H, T, dk)
    k: Tensor,  # (B, H, T, dk)
    v: Tensor,  # (B, H, T, dv)
    turns: tuple[Tensor, Tensor],  # (T, dk/2) each
    chunk: int,
    state: Tensor | None = None,  # (B, H, dk, dv)
    documents: Tensor | None = None,  # (B, T)
) -> tuple[Tensor, Tensor]:  # (B, H, T, dv), (B, H, dk, dv)
    """Retention of T tokens that follow on `state`, token by token or in chunks; the outputs, and the state after them.

    Args:
        turns: what `rotations` gives for T tokens, in float32, or in float64 where q is.
        chunk: tokens that see each other through a square of scores; those before them are seen through a state.
        documents: number of each token's document, never falling: a token sees those of its own. There is no state
            before them then.
    """
    gamma, wide = decays(q.shape[1]).to(q.device), _wide(q)
    if q.shape[2] == 1 and documents is None:
        return recurrent(q, k, v, turns, gamma, state)
    cos, sin = turns
    q, k = (rotate(x.to(wide), cos, sin).to(x.dtype) for x in (q, k))
    out, after = chunkwise(q, k, v, gamma, chunk, state, documents)
    return out, rotate(after.mT, cos[-1], -sin[-1]).mT


def recurrent(
    q: Tensor, k: Tensor, v: Tensor, turns: tuple[Tensor, Tensor], gamma: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One token (B, H, 1, ·), not rotated: the state decays, turns back by a token and takes k vᵀ in."""
    wide, (cos, sin) = _wide(q), turns
    after = k.to(wide).mT @ v.to(wide)
    if state is not None:
        after = after + gamma.to(wide)[:, None, None] * rotate(state.mT, cos[0], -sin[0]).mT
    return (q.to(wide) @ after).to(q.dtype), after


def parallel(q: Tensor, k: Tensor, v: Tensor, gamma: Tensor, documents: Tensor | None = None) -> Tensor:
    """(Q Kᵀ ∘ D) V of all tokens at once, q and k rotated, (…, T, ·) to (…, T, dv)."""
    since = torch.arange(q.shape[-2], device=q.device)
    since = (since[:, None] - since).to(gamma.dtype)  # (T, T), n - m
    decay = torch.where(since < 0, 0.0, gamma[:, None, None] ** since.clamp(min=0)).to(q.dtype)
    decay = decay.view(-1, *[1] * (q.ndim - 4), *since.shape)
    if documents is not None:
        decay = decay * (documents[..., :, None] == documents[..., None, :])
    return (q @ k.mT * decay) @ v


def chunkwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gamma: Tensor,
    chunk: int,
    state: Tensor | None = None,
    documents: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Parallel within each chunk, and between them a state that is turned as the first token's: T·chunk scores."""
    length, chunk = q.shape[2], min(chunk, q.shape[2])
    missing, wide = -length % chunk, _wide(q)
    q, k, v = (_chunks(F.pad(x, (0, 0, 0, missing)), 2, chunk) for x in (q, k, v))  # (B, H, N, C, ·)
    place = torch.arange(1, chunk + 1, device=q.device, dtype=gamma.dtype)
    left = (chunk - place).repeat(q.shape[2], 1)  # (N, C)
    # the end of the last chunk is that of its tokens, not of what fills it up
    left[-1] = (left[-1] - missing).clamp_min(0)
    from_start = (gamma[:, None] ** place)[:, None, :, None].to(q.dtype)  # (H, 1, C, 1)
    to_end = (gamma[:, None, None] ** left)[..., None].to(q.dtype)  # (H, N, C, 1)
    over, last_over = ((gamma**size)[:, None, None].to(wide) for size in (chunk, chunk - missing))  # (H, 1, 1)
    carried = [over] * (q.shape[2] - 1) + [last_over]
    if documents is not None:
        documents = _chunks(F.pad(documents, (0, missing), value=-1), 1, chunk)[:, None]  # (B, 1, N, C)
        last = documents[..., -1:]
        before = torch.cat((last.new_full((len(last), 1, 1, 1), -1), last[:, :, :-1]), dim=2)
        from_start = from_start * (documents == before)[..., None]
        to_end = to_end * (documents == last)[..., None]
        carried = list((over[:, None] * (before == last)[..., None]).unbind(2))
    added = ((k * to_end).mT @ v).to(wide).unbind(2)
    state = torch.zeros_like(added[0]) if state is None else state
    states = []
    for keep, new in zip(carried, added, strict=True):
        states.append(state)
        state = keep * state + new
    out = parallel(q, k, v, gamma, documents) + (q * from_start) @ torch.stack(states, dim=2).to(q.dtype)
    return out.flatten(2, 3)[:, :, :length], state


def _chunks(x: Tensor, dim: int, size: int) -> Tensor:
    return x.reshape(*x.shape[:dim], -1, size, *x.shape[dim + 1 :])


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
