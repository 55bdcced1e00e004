"""Softmax of logits in place: rows by the gradient of their losses, in fp32 arithmetic whatever their dtype.

    p = softmax(z),   loss = -log p_t,   dz = p - e_t

With the z-loss c·lse², lse = log Σ exp z = z_t - log p_t, dz = (1 + 2c·lse) p - e_t. The fp32 copy is of a few rows at
a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from galore.kernels.device import device_type

# of the fp32 copy: 2 MiB stays in the cache; fewer launches on a GPU
ELEMENTS = {"cpu": 2**19, "cuda": 2**21}
UNDERFLOW = 1e-30  # below this -log p_t is read from the logits, not from p_t


def softmax_minus_onehot_(logits: Tensor, targets: Tensor, losses: Tensor, lse: Tensor, z_loss: float = 0.0) -> None:
    """Overwrite logits z (c, V) by the gradient of their loss, softmax(z)·(1 + 2·z_loss·lse) - onehot(targets).

    Args:
        losses, lse: (c,), written: -log p_t, and log Σ exp z.
    """
    rows = _rows(logits)
    if device_type(logits) == "cuda" and not z_loss:
        _in_few_launches_(logits, targets, losses, lse, rows)
        return
    for block, target, loss, sums in zip(
        *(torch.split(each, rows) for each in (logits, targets.unsqueeze(1), losses, lse)), strict=True
    ):
        p = torch.softmax(block, dim=1, dtype=losses.dtype)
        p_target = p.gather(1, target)
        losses_here = _losses(block, target, p, p_target)
        loss.copy_(losses_here.squeeze(1))
        lse_here = losses_here + block.gather(1, target)
        sums.copy_(lse_here.squeeze(1))
        if z_loss:
            share = 1 + 2 * z_loss * lse_here
            p_target = p_target * share
            p.mul_(share)
        block.copy_(p.scatter_(1, target, p_target - 1))
        del p  # before the next one comes


def _in_few_launches_(logits: Tensor, targets: Tensor, losses: Tensor, lse: Tensor, rows: int) -> None:
    """`softmax_minus_onehot_` without z-loss to the same bits: fp32 copies of `rows` rows, their numbers together.

    Six launches for each copy, where all of it row by row would be twenty: a small model waits for its host.
    """
    targets = targets.unsqueeze(1)
    z_max, z_target = logits.amax(1).to(losses.dtype), logits.gather(1, targets).squeeze(1).to(losses.dtype)
    p_max, p_target = torch.empty_like(losses), torch.empty_like(losses)
    pieces = (torch.split(each, rows) for each in (logits, targets, p_max, p_target.unsqueeze(1)))
    for block, target, most, of_target in zip(*pieces, strict=True):
        p = torch.softmax(block, dim=1, dtype=losses.dtype)
        torch.amax(p, 1, out=most)
        torch.gather(p, 1, target, out=of_target)
        block.copy_(p.scatter_(1, target, of_target - 1))
        del p  # before the next one comes
    losses.copy_(torch.where(p_target > UNDERFLOW, -p_target.log(), z_max - p_max.log() - z_target))
    torch.add(losses, z_target, out=lse)


def exp_minus_onehot_(logits: Tensor, targets: Tensor, lse: Tensor, z_loss: float = 0.0) -> None:
    """`softmax_minus_onehot_` of columns z (n, c), given lse (n,); `targets` (n,) outside 0 … c - 1 lie in others."""
    rows = _rows(logits)
    last = logits.shape[1] - 1
    for block, target, sums in zip(*(torch.split(each, rows) for each in (logits, targets, lse)), strict=True):
        p = block.to(lse.dtype).sub_(sums.unsqueeze(1)).exp_()
        if z_loss:
            p.mul_((1 + 2 * z_loss * sums).unsqueeze(1))
        inside = ((target >= 0) & (target <= last)).to(p.dtype)
        block.copy_(p.scatter_add_(1, target.clamp(0, last).unsqueeze(1), -inside.unsqueeze(1)))
        del p


def _rows(logits: Tensor) -> int:
    """How many rows of the logits are copied to fp32 at a time."""
    return max(1, ELEMENTS.get(device_type(logits), 2**21) // logits.shape[1])


def _losses(logits: Tensor, targets: Tensor, p: Tensor, p_target: Tensor) -> Tensor:
    """-log p_t of every row, (c, 1); where p_t has underflowed as logsumexp(z) - z_t.

    A GPU is not asked whether any has: it would be waited for. There logsumexp(z) is z_max - log p_max, which is at
    hand.
    """
    if device_type(logits) == "cuda":
        p_max, at = p.max(1, keepdim=True)
        z_max, z_target = (logits.gather(1, column).to(p.dtype) for column in (at, targets))
        return torch.where(p_target > UNDERFLOW, -p_target.log(), z_max - p_max.log() - z_target)
    if (p_target > UNDERFLOW).all():
        return -p_target.log()
    z = logits.to(p_target.dtype)
    return z.logsumexp(1, keepdim=True) - z.gather(1, targets)
