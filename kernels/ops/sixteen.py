"""Momenta in 4 bits: rows and columns of one size and sixteen values, in few passes on CUDA, else as torch stores them.

Values nearest to x / r / c are found with sizes that were added up in another order: the codes of the two paths differ
where a number lies on the edge between two values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from galore.kernels.device import notice
from galore.kernels.ops.dispatch import Backend, choose, quantizer
from galore.kernels.storage.sixteen import dequantize_, quantize_

CHUNK = 128  # rows whose squares are added up together, on any card: sums are in the same order


def encode_(codes: Tensor, rows: Tensor, columns: Tensor, x: Tensor, backend: Backend = "auto") -> None:
    """Codes (m, n / 2) uint8, rows (m,) and columns (n,) fp32 ← x (m, n) fp32, n even, of any layout.

    By Triton 4 n fp32 bytes per CHUNK rows exist beside it; x itself only where neither rows nor columns lie together.
    """
    if not x.numel():
        for sizes in (rows, columns):
            sizes.zero_()
        return
    if choose(quantizer(x), backend).backend != "triton":
        quantize_(codes, rows, columns, x)
        return
    if not (x.is_contiguous() or x.mT.is_contiguous()):
        x = x.contiguous()
    partial = x.new_empty(-(-len(x) // CHUNK), x.shape[1])
    if x.is_meta:
        # sizes of rows, squares of columns and codes each read it
        notice("to sixteen", 0, 3 * x.nbytes + 2 * partial.nbytes + codes.nbytes + rows.nbytes + columns.nbytes)
    else:
        from galore.kernels.triton.launch import run
        from galore.kernels.triton.quantize import to_sixteen_plan

        run(to_sixteen_plan(codes, rows, columns, x, partial))


def decode(codes: Tensor, rows: Tensor, columns: Tensor, backend: Backend = "auto") -> Tensor:
    """The fp32 matrix (m, n) that `encode_` stored: r c v."""
    codes, rows, columns = codes.contiguous(), rows.contiguous(), columns.contiguous()
    out = torch.empty(len(rows), len(columns), dtype=torch.float32, device=codes.device)
    if choose(quantizer(out), backend).backend != "triton":
        dequantize_(out, codes, rows, columns)
    elif out.is_meta:
        notice("from sixteen", 0, out.nbytes + codes.nbytes + rows.nbytes + columns.nbytes)
    else:
        from galore.kernels.triton.launch import run
        from galore.kernels.triton.quantize import from_sixteen_plan

        run(from_sixteen_plan(out, codes, rows, columns))
    return out
