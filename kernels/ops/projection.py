"""Projecting a gradient and lifting an update back, without an m×n fp32 temporary.

bf16 operands are multiplied with fp32 accumulation; the product is fp32 on CUDA and bf16 on the CPU, whose GEMM has no
wider output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from galore.kernels.device import device_type, notice, product
from galore.kernels.ops import dispatch
from galore.kernels.ops.compressed import as_dense
from galore.kernels.ops.dispatch import Backend, choose
from galore.kernels.ops.int8 import add_update_int8_
from galore.kernels.reference.operations import is_transposed, orient
from galore.kernels.storage.layout import Compressed, Matrix
from galore.kernels.storage.rounding import (
    WIDE,
    RoundingNoise,
    add_update_,
    add_update_compensated_,
    block_elements,
    blocks_of,
)

__all__ = ["Dense", "lift_update_", "orient", "project"]

PANEL = {"cpu": 8}  # row blocks of a product that are formed at once; elsewhere a block is large enough
Dense = Callable[[int, int], Tensor]
"""Rows [first, last) of a term of the stored weight's shape (m, n), as (last - first, n), fp32 or bf16; only read."""


def project(p: Matrix, g: Tensor, backend: Backend = "auto") -> Tensor:
    """R (r, b) = Pᵀ G for p (a, r), dense or in codes, and the oriented gradient g (a, b), in whose dtype P multiplies.

    Raises:
        BackendError: `backend` cannot do it; the message says why.
    """
    if choose(dispatch.project(g, isinstance(p, Compressed)), backend).backend == "triton":
        return _project_by_triton(p, g)
    return product(as_dense(p, g.dtype).mT, g)


def _project_by_triton(p: Matrix, g: Tensor) -> Tensor:
    from galore.kernels.triton.tuning import tile_for

    p = _cast(p, g.dtype)
    (a, b), r = g.shape, p.shape[1]
    storage = f"p{p.bits if isinstance(p, Compressed) else 8 * g.dtype.itemsize}"
    tile = tile_for("project", a, b, r, g.stride(0) == 1 and g.stride(1) > 1, storage)
    out = g.new_empty(r, b, dtype=torch.float32)
    if g.is_meta:  # where Triton need not be installed; parts of the sum are all there is beside the result
        if tile.split > 1:
            g.new_empty(tile.split, r, b, dtype=torch.float32)
        notice("project", 2 * a * b * r, p.nbytes + g.nbytes + out.nbytes)
        return out
    from galore.kernels.triton.launch import run
    from galore.kernels.triton.operand import Operand
    from galore.kernels.triton.product import product_plan

    run(product_plan(out, Operand.of(p).mT, g, tile, dtype=g.dtype))
    return out


def row_blocks(w: Tensor) -> Iterator[tuple[int, int, int]]:
    """(block number, first row, last row) of row blocks of w (m, n), as many elements as its device does at a time."""
    return blocks_of(w, w.shape[0], _rows_per_block(w))


def _rows_per_block(w: Tensor) -> int:
    return max(1, block_elements(w) // max(1, w.shape[1]))


def lift_update_(
    w: Tensor,
    p: Matrix | None,
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
    backend: Backend = "auto",
) -> None:
    """W ← decay·W + alpha·(P N + D) in place by torch in row blocks, wide W without D in one product; or in one kernel.

    The random bits of the two differ, as those of two seeds do: torch reads them from a pool, Triton hashes them from
    the element's place.

    Args:
        w: (m, n) contiguous weight, fp32, float64, bf16, or codes in int8, oriented (a, b).
        p: (a, r) projector, dense or in codes; n: (r, b) direction in the subspace; both None where D is all there is.
        decay_after: decay the updated weight, as the official code does.
        noise, tensor: random bits for stochastic rounding into bf16, and this weight's number in their key.
        compensation: of a bf16 w, int16 or int8 with as many elements, in place (see kernels/storage/rounding.py).
        dense: D, asked for one block of rows of W as it is stored at a time; P N + D is formed in fp32.
        transposed: how W is oriented; None goes by the smaller side.
        scales: of a w in int8, (m, n / group), in place (see kernels/ops/int8.py).

    Raises:
        BackendError: `backend` cannot do it; the message says why.
    """
    transposed = is_transposed(w.shape) if transposed is None else transposed
    group = 1 if scales is None else w.shape[1] // scales.shape[1]
    if p is not None and choose(dispatch.lift(w, dense is not None, group), backend).backend == "triton":
        assert n is not None
        p, n = _cast(p, _dtype(w, p, n)), n.to(_dtype(w, p, n))
        if w.is_meta:  # one kernel, nothing beside what it is given
            touched = 2 * sum(each.nbytes for each in (w, compensation, scales) if each is not None)
            notice("lift", 2 * w.numel() * p.shape[1], touched + p.nbytes + n.nbytes)
            return
        _lift_by_triton(
            w,
            p,
            n,
            alpha=alpha,
            decay=decay,
            decay_after=decay_after,
            noise=noise,
            tensor=tensor,
            compensation=compensation,
            transposed=transposed,
            scales=scales,
        )
        return
    product = _product(w, p, n, transposed)
    if w.dtype in WIDE and product is not None and dense is None:
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


def _lift_by_triton(w: Tensor, p: Matrix, n: Tensor, *, transposed: bool, **options: Any) -> None:
    from galore.kernels.triton.launch import run
    from galore.kernels.triton.lift import lift_plan
    from galore.kernels.triton.tuning import tile_for

    a, b = (w.shape[1], w.shape[0]) if transposed else (w.shape[0], w.shape[1])
    tile = tile_for("lift", a, b, n.shape[0], transposed, _storage(w, options))
    run(lift_plan(w, p, n, tile, transposed=transposed, **options))


def _cast(p: Matrix, dtype: torch.dtype) -> Matrix:
    """P in `dtype`, as kernels multiply it; codes are read in it."""
    return p.to(dtype) if isinstance(p, Tensor) else p


def _storage(w: Tensor, options: dict[str, Any]) -> str:
    """How tables of tiles call the way that w is kept."""
    if (compensation := options["compensation"]) is not None:
        return f"compensated{8 * compensation.dtype.itemsize}"
    if w.dtype == torch.bfloat16:
        return "stochastic" if options["noise"] else "nearest"
    return "int8" if w.dtype == torch.int8 else "float32"


def _dtype(w: Tensor, p: Matrix, n: Tensor) -> torch.dtype:
    """What P and N are multiplied in."""
    if w.is_floating_point():
        return w.dtype
    return p.dtype if isinstance(p, Tensor) else n.dtype


def _product(w: Tensor, p: Matrix | None, n: Tensor | None, transposed: bool) -> tuple[Tensor, Tensor] | None:
    """(m, r) and (r, n) in the dtype of w (m, n) whose product is P N as w is stored."""
    if p is None or n is None:
        return None
    dtype = _dtype(w, p, n)
    p, n = as_dense(p, dtype), n.to(dtype)
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
