"""Activations, gradients and weights to 8-bit codes, and the product of two such matrices.

X ≈ s q, s of a row = max |row| / largest;   q = nearest(X / s), or ⌊X / s + u⌋ with E[s q] = X
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from galore.kernels.device import notice
from galore.kernels.ops.dispatch import Backend, choose, quantizer
from galore.kernels.ops.int8 import dequantize
from galore.kernels.ops.matmul.draws import Draw
from galore.kernels.ops.matmul.format import Format
from galore.kernels.ops.matmul.formats import FORMATS
from galore.kernels.ops.matmul.int8 import INT8
from galore.kernels.storage.coded import STEP, WIDTH, Coded, empty_codes
from galore.kernels.storage.layout import group_size
from galore.kernels.storage.rounding import block_elements, blocks_of

TINY = 1e-30  # scale of a row of zeros
ENCODE = "encode"  # what is noticed on `meta`
PRODUCT = {name: f"{name} product" for name in FORMATS}


def row_codes(x: Tensor, form: Format, draw: Draw | None = None, backend: Backend = "auto") -> Coded:
    """x (M, N), any strides and floating dtype, in codes with an fp32 scale a row; `draw` rounds stochastically."""
    m, n = x.shape
    top = torch.linalg.vector_norm(x, math.inf, dim=1, keepdim=True, dtype=torch.float32)
    out = Coded(empty_codes(m, n, x, form.dtype), top.div_(form.largest).clamp_min_(TINY), n)
    if choose(quantizer(x, out.codes), backend).backend == "triton":
        if x.is_meta:
            notice(ENCODE, 0, x.nbytes + out.nbytes)
        else:
            from galore.kernels.triton.eight import encode_plan
            from galore.kernels.triton.launch import run

            run(encode_plan(out, x, draw and draw.words))
        return out
    for block, first, last in blocks_of(x, m, max(1, block_elements(x) // n)):
        value = torch.div(x[first:last].float(), out.scales[first:last]).contiguous()
        bits = None if draw is None else draw.window(block, value.numel(), x.device).view(value.shape)
        out.codes[first:last] = form.encode(value, bits)
    return out


def weight_codes(
    weight: Tensor,
    scales: Tensor | None,
    form: Format,
    dtype: torch.dtype,
    *,
    transposed: bool,
    draw: Draw | None = None,
    backend: Backend = "auto",
) -> Coded:
    """W (m, n), or its transpose, in codes along the summands of a product: n of x Wᵀ, m of δ W.

    int8 codes that share `scales` along n, a multiple of 16 to one, are what x Wᵀ reads as they are. Across, their
    groups are of several scales: they are rounded anew, WIDTH to a fresh one, without the weight in floating point. A
    weight in floating point, and what goes to another format, has a scale to each row of the result.

    Args:
        scales: of a weight in int8; dtype: that such a weight is formed in on its way to another format.
    """
    if scales is None:
        return row_codes(weight.mT if transposed else weight, form, draw, backend)
    if not form.reads_int8:
        dense = dequantize(weight, scales, dtype, backend)
        return row_codes(dense.mT if transposed else dense, form, draw, backend)
    held = Coded(weight.contiguous(), scales.contiguous(), group_size(weight.shape[1]))
    aligned = held.size % STEP == 0 and (held.size <= WIDTH or held.whole)
    return held if aligned and not transposed else regrouped(held, transposed, draw, backend)


def regrouped(held: Coded, transposed: bool, draw: Draw | None = None, backend: Backend = "auto") -> Coded:
    """int8 codes, or their transpose, rounded anew with a scale for every WIDTH along the rows of the result."""
    m, n = held.codes.shape[::-1] if transposed else held.codes.shape
    groups = -(-n // WIDTH)
    # neighbours of one group lie together, which a tile reads
    scales = torch.empty(groups, m, dtype=torch.float32, device=held.codes.device).mT
    out = Coded(empty_codes(m, n, held.codes, torch.int8), scales, WIDTH)
    if choose(quantizer(held.codes, out.codes), backend).backend == "triton":
        if scales.is_meta:
            notice(ENCODE, 0, held.nbytes + out.nbytes)
        else:
            from galore.kernels.triton.eight import regroup_plan
            from galore.kernels.triton.launch import run

            run(regroup_plan(out._replace(scales=scales.mT), held, transposed, draw and draw.words))
        return out
    for group in range(groups):
        part = slice(group * WIDTH, min((group + 1) * WIDTH, n))
        value = _piece(held, part, transposed)
        within = row_codes(value, INT8, draw and draw.part(group), "torch")
        out.codes[:, part], scales[:, group] = within.codes, within.scales[:, 0]
    return out


def _piece(held: Coded, part: slice, transposed: bool) -> Tensor:
    """fp32 columns `part` of what codes stand for, or rows, as columns."""
    if transposed:
        return Coded(held.codes[part], held.scales[part], held.size).dense().mT
    return held.dense()[:, part]


def coded_product(a: Coded, b: Coded, form: Format, dtype: torch.dtype, backend: Backend = "auto") -> Tensor:
    """A Bᵀ (M, N) in `dtype` of A (M, K) with one scale a row and B (N, K); sums in int32 and fp32, rounded once."""
    out = a.scales.new_empty(a.codes.shape[0], b.codes.shape[0], dtype=dtype)
    if choose(quantizer(out, a.codes, b.codes), backend).backend == "triton":
        if out.is_meta:
            work = 2 * out.numel() * a.codes.shape[1]
            notice(PRODUCT[form.name], work, a.nbytes + b.nbytes + out.nbytes)
        else:
            from galore.kernels.triton.eight import coded_product_plan
            from galore.kernels.triton.launch import run

            run(coded_product_plan(out, a, b))
        return out
    return out.copy_(form.multiply(a, b).mul_(a.scales))
