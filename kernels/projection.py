"""Projecting a gradient and lifting an update back, without an m×n fp32 temporary.

bf16 operands are multiplied with fp32 accumulation; the product is fp32 on CUDA and bf16 on the CPU, whose GEMM has no
wider output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from galore.kernels.device import device_type, product
from galore.kernels.int8 import add_update_int8_
from galore.kernels.reference import is_transposed, orient
from galore.kernels.rounding import RoundingNoise, add_update_, add_update_compensated_, block_elements, blocks_of

__all__ = ["Dense", "lift_update_", "orient", "project"]

PANEL = {"cpu": 8}  # row blocks of a product that are formed at once; elsewhere a block is large enough
Dense = Callable[[int, int], Tensor]
"""Rows [first, last) of a term of the stored weight's shape (m, n), as (last - first, n) in fp32 or bf16; not written to."""


def project(p: Tensor, g: Tensor) -> Tensor:
    """R (r, b) = Pᵀ G for p (a, r) and the oriented gradient g (a, b); P is cast to the gradient's dtype."""
    return product(p.to(g.dtype).mT, g)


def row_blocks(w: Tensor) -> Iterator[tuple[int, int, int]]:
    """(block number, first row, last row) of row blocks of w (m, n), each as many elements as its device does at a time."""
    return blocks_of(w, w.shape[0], _rows_per_block(w))


def _rows_per_block(w: Tensor) -> int:
    return max(1, block_elements(w) // w.shape[1])


def lift_update_(
    w: Tensor,
    p: Tensor | None,
    n: Tensor | None,
    *,
    alpha: float,
    decay: float = 1.0,
    decay_after: bool = False,
    noise: RoundingNoise | None = None,
    tensor: int = 0,
    compensation: Tensor | None = None,
    dense: Dense | None = None,
    transposed: bool | None = None,
    scales: Tensor | None = None,
) -> None:
    """W ← decay·W + alpha·(P N + D) in place, in row blocks; fp32 without D in one product.

    Args:
        w: (m, n) contiguous weight, fp32, bf16, or codes in int8, oriented (a, b).
        p: (a, r) projector; n: (r, b) direction in the subspace; both None where D is all there is.
        decay_after: decay the updated weight, as the official code does.
        noise, tensor: random bits for stochastic rounding into bf16, and this weight's number in their key.
        compensation: of a bf16 w, int16 or int8 with as many elements, in place (see kernels/rounding.py).
        dense: D, asked for one block of rows of W as it is stored at a time; P N + D is formed in fp32.
        transposed: how W is oriented; None goes by the smaller side.
        scales: of a w in int8, (m, n / group), in place (see kernels/int8.py).
    """
    product = _product(w, p, n, is_transposed(w.shape) if transposed is None else transposed)
    if w.dtype == torch.float32 and product is not None and dense is None:
        w.addmm_(*product, beta=1.0 if decay_after else decay, alpha=alpha)
        if decay_after and decay != 1.0:
            w.mul_(decay)
        return
    compensations = None if compensation is None else compensation.view(w.shape)
    scratch = None
    for block, first, last, update in _updates(w, product, dense):
        rows = w[first:last].view(-1)
        bits = noise.window(tensor, block, rows.numel()) if noise else None
        if scales is not None:
            held = (w[first:last], scales[first:last])
            add_update_int8_(*held, update, alpha=alpha, decay=decay, decay_after=decay_after, noise=bits)
            continue
        if compensations is None:
            scratch = rows.new_empty(rows.numel(), dtype=torch.float32) if scratch is None else scratch
            add_update_(rows, update, alpha=alpha, decay=decay, decay_after=decay_after, noise=bits, scratch=scratch)
            continue
        add_update_compensated_(
            rows,
            compensations[first:last].view(-1),
            update,
            alpha=alpha,
            decay=decay,
            decay_after=decay_after,
            noise=bits,
        )


def _product(w: Tensor, p: Tensor | None, n: Tensor | None, transposed: bool) -> tuple[Tensor, Tensor] | None:
    """(m, r) and (r, n) in the dtype of w (m, n) whose product is P N as w is stored."""
    if p is None or n is None:
        return None
    dtype = w.dtype if w.is_floating_point() else p.dtype
    p, n = p.to(dtype), n.to(dtype)
    return (n.mT, p.mT) if transposed else (p, n)


def _updates(
    w: Tensor, product: tuple[Tensor, Tensor] | None, dense: Dense | None
) -> Iterator[tuple[int, int, int, Tensor]]:
    """(block number, first row, last row, those rows of P N + D, flat); the sum in fp32.

    The product is formed in panels of several blocks: thin ones would read its right-hand factor too often.
    """
    per_panel = PANEL.get(device_type(w), 1)
    panel, start = None, 0
    for block, first, last in row_blocks(w):
        if product is not None and (panel is None or block % per_panel == 0 or last > start + panel.shape[0]):
            panel = None  # before the next one is made
            start = first - block % per_panel * _rows_per_block(w)
            panel = product[0][start : start + per_panel * _rows_per_block(w)] @ product[1]
        if panel is None:
            assert dense is not None, "nothing to add: neither P N nor a dense term"
            yield block, first, last, dense(first, last).reshape(-1)
            continue
        lifted = panel[first - start : last - start]
        yield block, first, last, (lifted if dense is None else lifted + dense(first, last).float()).view(-1)
