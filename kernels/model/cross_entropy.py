"""Cross-entropy of a linear head, without ever holding the logits of all tokens.

For one row h (d,) of the hidden states, with W (V, d) and target t:

    z = W h,   p = softmax(z),   loss = -log p_t,   dz = p - e_t,   dh = Wᵀ dz,   dW = dz hᵀ

dz is known as soon as z is, so both gradients are made in the forward, chunk by chunk, and the backward only scales
them. No product is computed twice. Softmax and loss are fp32 arithmetic whatever the dtype of the weights.

The z-loss c·lse², lse = log Σ exp z, which keeps the logits from drifting (Chowdhery et al., arXiv 2204.02311), adds
2c·lse·p to dz. lse = z_t - log p_t, so that no logit is read again.

dW of chunks of rows is summed in fp32. Where that would take more memory than the chunks spare, as with few tokens and
a wide model, dW is made by chunks of the vocabulary in a second pass, from the lse of the first: one product more, no
sum.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor

from galore.kernels.device import device_type, rounds
from galore.kernels.model.softmax import exp_minus_onehot_, softmax_minus_onehot_

CHUNK_ELEMENTS = 2**25  # logits of one chunk at most: 64 MiB in bf16; larger ones are no faster
CHUNKS = {"cpu": 36, "cuda": 17}  # of more logits than that, so that what exists of them is less than a sixteenth
SMALLEST_CHUNK = {"cpu": 320, "cuda": 224}  # rows: of fewer, adding up the weight's gradient takes too large a share
VOCABULARY_BLOCK = 8192  # rows of dW done together where they are fp32
VOCABULARY_CHUNK = 2048  # columns of logits at a time in a second pass


Softmax = Callable[[Tensor, Tensor, Tensor, Tensor, float], None]
"""What overwrites logits (c, V) by their gradient, given targets (c,), and writes losses and log Σ exp (c,)."""


class LossSums(NamedTuple):
    """Sums over the targets, (), fp32: `total`, with the gradient, is `cross_entropy` + `z`, which have none.

    Where targets have weights, those are in `total` and `z` alone.
    """

    total: Tensor
    cross_entropy: Tensor  # nats
    z: Tensor  # coefficient included
    parts: Tensor | None = None  # (kinds,), the cross-entropy of each kind of target
    extra: Tensor | None = None  # of a second loss, with its gradient


def linear_cross_entropy(
    hidden: Tensor,  # (n, d)
    weight: Tensor,  # (V, d)
    targets: Tensor,  # (n,) int64
    ignore_index: int | None = -100,
    chunk: int | None = None,
) -> Tensor:  # () fp32
    """Sum over the non-ignored rows of -log softmax(hidden @ weightᵀ)[target], nats: `linear_loss` without z-loss."""
    return linear_loss(hidden, weight, targets, ignore_index, chunk).total


def linear_loss(
    hidden: Tensor,  # (n, d)
    weight: Tensor,  # (V, d)
    targets: Tensor,  # (n,) int64
    ignore_index: int | None = -100,
    chunk: int | None = None,
    z_loss: float = 0.0,
    weights: Tensor | None = None,  # (n,)
    kinds: Tensor | None = None,  # (n,) int64
    num_kinds: int = 0,
    softmax: Softmax | None = None,
) -> LossSums:
    """Sums over the non-ignored rows of -log softmax(z)[target] and of z_loss · logsumexp(z)², z = hidden @ weightᵀ.

    Args:
        hidden: last hidden states, (n, d), the dtype of `weight`.
        weight: output head, (V, d). It may be tied, or need no gradient.
        targets: class of every row, (n,) int64; rows equal to `ignore_index` count for nothing.
        ignore_index: target to leave out; None when there is none to look for, which spares a GPU a synchronization.
        chunk: rows whose logits exist at the same time. None takes equal chunks of at most 64 MiB of bf16 logits, and
            at most a 36th of them, on a GPU a 17th.
        z_loss: coefficient.
        weights: what each row counts, its z-loss included, the dtype of the sums; None where each counts once.
        kinds: of each row, a number below `num_kinds`; with it the cross-entropy comes by kind, too.
        softmax: what overwrites a chunk's logits by their gradient; None is `softmax_minus_onehot_`.

    Returns:
        The sums, fp32 (fp64 for fp64 inputs); 0 when every row is ignored.

    Raises:
        ValueError: shapes or dtypes do not belong together, or `chunk` is not positive.
    """
    _check(hidden, weight, targets, chunk)
    if ignore_index is not None:
        kept = (targets != ignore_index).nonzero().squeeze(1)
        if len(kept) < len(targets):
            hidden, targets = hidden.index_select(0, kept), targets.index_select(0, kept)
            weights, kinds = (None if each is None else each.index_select(0, kept) for each in (weights, kinds))
    needs = torch.is_grad_enabled()
    wants_hidden, wants_weight = needs and hidden.requires_grad, needs and weight.requires_grad
    rows = chunk or _chunk_rows(len(targets), weight)
    twice = wants_weight and chunk is None and _sum_costs_more(len(targets), rows, weight)
    how = (rows, wants_hidden, wants_weight, twice, z_loss, weights, kinds, num_kinds, softmax or softmax_minus_onehot_)
    sums = _LinearLoss.apply(hidden, weight, targets, *how)  # type: ignore[no-untyped-call]
    return LossSums(*sums)


def _check(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int | None) -> None:
    fits = hidden.ndim == weight.ndim == 2 and hidden.shape[1] == weight.shape[1] and targets.shape == hidden.shape[:1]
    if not fits or hidden.dtype != weight.dtype:
        found = ", ".join(f"{tuple(t.shape)} {t.dtype}" for t in (hidden, weight, targets))
        raise ValueError(f"expected hidden (n, d) and weight (V, d) of one dtype and targets (n,), not {found}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1 row, not {chunk}")


def _chunk_rows(rows: int, weight: Tensor) -> int:
    """Rows per chunk, all equal so that no small one is left over at the end."""
    chunks = max(1, ceil(rows * weight.shape[0] / CHUNK_ELEMENTS))
    if chunks > 1:
        kind = device_type(weight)
        chunks = max(chunks, min(CHUNKS.get(kind, 36), rows // SMALLEST_CHUNK.get(kind, 224)))
    return max(1, ceil(rows / chunks))


def _sum_costs_more(rows: int, chunk: int, weight: Tensor) -> bool:
    """Whether summing dW over chunks, in fp32, takes more bytes than the logits that chunks spare."""
    widening = _arithmetic(weight).itemsize / weight.dtype.itemsize - 1  # per element of dW
    return chunk < rows and weight.shape[1] * widening >= rows - chunk


class _LinearLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        rows: int,
        wants_hidden: bool,
        wants_weight: bool,
        twice: bool,
        z_loss: float,
        weights: Tensor | None,
        kinds: Tensor | None,
        num_kinds: int,
        softmax: Softmax,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        nll, lse = (
            torch.empty_like(targets, dtype=_arithmetic(hidden)),
            torch.empty_like(targets, dtype=_arithmetic(hidden)),
        )
        d_hidden = torch.empty_like(hidden) if wants_hidden else None
        summed = _WeightGradient(weight, single=len(targets) <= rows) if wants_weight and not twice else None
        for at in rounds(targets, range(0, len(targets), rows)):
            here = slice(at, at + rows)
            logits = hidden[here] @ weight.T
            softmax(logits, targets[here], nll[here], lse[here], z_loss)
            if weights is not None:
                logits.mul_(weights[here].unsqueeze(1))
            if d_hidden is not None:
                torch.mm(logits, weight, out=d_hidden[here])
            if summed is not None:
                summed.add(logits, hidden[here])
            del logits  # before the next ones come
        d_weight = _by_vocabulary(hidden, weight, targets, lse, z_loss, weights) if twice else summed and summed.sum
        ctx.gradients = [d_hidden, d_weight]  # not saved tensors: those could not be given up
        ctx.dtype = hidden.dtype
        parts = None if kinds is None else sums_by_kind(nll, kinds, num_kinds)
        weighted = None if weights is None else (nll * weights).sum()
        squares = lse.square() if weights is None else lse.square() * weights
        nll, z = nll.sum(), z_loss * squares.sum()
        ctx.mark_non_differentiable(nll, z, *([] if parts is None else [parts]))
        return (nll if weighted is None else weighted) + z, nll, z, parts

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        # a number, or a tensor of two dimensions, multiplies bf16 in fp32; one of none would be rounded to bf16 first
        scale = upstream.view(1, 1) if device_type(upstream) == "cuda" else upstream.item()
        made, last = ctx.gradients, not _keeps_graph()
        ctx.gradients = None if last else made
        if made is None:
            raise RuntimeError("backward through this loss a second time needs retain_graph=True the first time")
        return (*(_scaled(made, at, scale, ctx.dtype, last) for at in (0, 1)), *[None] * 10)


class _WeightGradient:
    """Σ dzᵀ h over the chunks: one product in the dtype of the weight, or several summed in fp32."""

    def __init__(self, weight: Tensor, single: bool) -> None:
        self.sum = torch.zeros_like(weight, dtype=weight.dtype if single else _arithmetic(weight))
        self.empty = True

    def add(self, d_logits: Tensor, hidden: Tensor) -> None:  # (c, V), (c, d)
        if self.sum.dtype == hidden.dtype:
            if self.empty:
                torch.mm(d_logits.T, hidden, out=self.sum)
            else:
                self.sum.addmm_(d_logits.T, hidden)
            self.empty = False
            return
        for at in range(0, len(self.sum), VOCABULARY_BLOCK):
            here = slice(at, at + VOCABULARY_BLOCK)
            self.sum[here] += d_logits[:, here].T @ hidden


def sums_by_kind(values: Tensor, kinds: Tensor, num_kinds: int) -> Tensor:  # (num_kinds,)
    """Sums of values (n,) by their kinds (n,); always added in the same order."""
    return torch.stack([(values * (kinds == kind)).sum() for kind in range(num_kinds)])


def _by_vocabulary(
    hidden: Tensor, weight: Tensor, targets: Tensor, lse: Tensor, z_loss: float, weights: Tensor | None = None
) -> Tensor:  # (V, d)
    """dW by chunks of the vocabulary, from hidden (n, d), targets (n,) and log Σ exp of each row's logits, (n,)."""
    d_weight = torch.empty_like(weight)
    for at in range(0, len(weight), VOCABULARY_CHUNK):
        here = slice(at, at + VOCABULARY_CHUNK)
        logits = hidden @ weight[here].T
        exp_minus_onehot_(logits, targets - at, lse, z_loss)
        if weights is not None:
            logits.mul_(weights.unsqueeze(1))
        torch.mm(logits.T, hidden, out=d_weight[here])
        del logits
    return d_weight


def _keeps_graph() -> bool:
    """Whether the backward that is running may be asked again; where torch does not tell, it may."""
    asked = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return True if asked is None else bool(asked())


def _scaled(made: list[Tensor | None], at: int, scale: Tensor | float, dtype: torch.dtype, last: bool) -> Tensor | None:
    """scale · made[at] in `dtype`, without a second fp32 copy of a large gradient; in place if it is the `last` use."""
    gradient = made[at]
    if last:
        made[at] = None
    if gradient is None or (last and gradient.dtype == dtype):
        return None if gradient is None else torch.mul(gradient, scale, out=gradient)
    out = torch.empty_like(gradient, dtype=dtype)
    for at in range(0, len(out), VOCABULARY_BLOCK):
        here = slice(at, at + VOCABULARY_BLOCK)
        torch.mul(gradient[here], scale, out=out[here])
    return out


def _arithmetic(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
