"""What is compiled to see that all is well: every kernel in every storage, on the shapes of LLaMA, as it would run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from galore.kernels.ops.sixteen import CHUNK
from galore.kernels.rules.adam import AdamRule
from galore.kernels.storage.blockwise import BLOCK_SIZE
from galore.kernels.storage.coded import WIDTH, Coded, empty_codes
from galore.kernels.storage.layout import Compressed, Matrix, group_size
from galore.kernels.storage.moments import Moments
from galore.kernels.storage.rounding import RoundingNoise
from galore.kernels.triton.adam import adam_plan
from galore.kernels.triton.eight import coded_product_plan, encode_plan, regroup_plan
from galore.kernels.triton.fused import (
    rms_norm_backward_plan,
    rms_norm_plan,
    rotary_plan,
    softmax_plan,
    swiglu_backward_plan,
    swiglu_plan,
)
from galore.kernels.triton.launch import Launch
from galore.kernels.triton.lift import lift_plan
from galore.kernels.triton.operand import Operand
from galore.kernels.triton.product import product_plan
from galore.kernels.triton.quantize import (
    compress_plan,
    dequantize_plan,
    dequantize_weight_plan,
    expand_plan,
    from_sixteen_plan,
    quantize_plan,
    quantize_weight_plan,
    to_sixteen_plan,
)
from galore.kernels.triton.tile import Tile
from galore.kernels.triton.tuning import tile_for

STATES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "dynamic": torch.uint8,
    "e4m3": torch.float8_e4m3fn,
}
WEIGHTS = ("float32", "nearest", "stochastic", "compensated16", "compensated8", "int8")
NEEDS_SM89 = "e4m3"  # in a case's name: conversions that older cards do not have
EVEN = (4096, 11008, 1024)  # a, b, r of LLaMA-7B's feed-forward
RAGGED = (1000, 2730, 100)
# A sum in parts that a kernel of its own adds up.
SPLIT = Tile(64, 64, 32, 4, 3, split=4)
Case = tuple[str, list[Launch]]
EIGHT = (
    "product int8 groups even",
    "product int8 groups ragged",
    "product int8 rows ragged",
    "product int8 rows even",
    "product e4m3 rows even",
    "regroup across even",
)
SIXTEEN = ("to sixteen along even", "to sixteen across ragged", "from sixteen even")
FUSED = ("norm even", "norm backward even", "swiglu backward even", "rotary even", "softmax even")


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """A tensor without memory, to plan launches with."""
    return torch.empty(*shape, dtype=dtype, device="meta")


def moments(kind: str, r: int, b: int) -> Moments:
    values = (meta(r, b, dtype=STATES[kind]), meta(r, b, dtype=STATES[kind]))
    absmax = (meta(-(-r * b // BLOCK_SIZE), dtype=torch.float32),) * 2
    return Moments(*values) if kind == "float32" else Moments(*values, *absmax)


def gradient(a: int, b: int, transposed: bool, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return meta(b, a, dtype=dtype).mT if transposed else meta(a, b, dtype=dtype)


def projector(a: int, r: int, bits: int, dtype: torch.dtype = torch.bfloat16) -> Matrix:
    if bits == 0:
        return meta(a, r, dtype=dtype)
    codes = meta(a * r, dtype=torch.int8) if bits == 8 else meta(-(-a * r // 2), dtype=torch.uint8)
    return Compressed(codes, meta(-(-a * r // 128), dtype=torch.float16), (a, r))


def project(
    a: int, b: int, r: int, *, transposed: bool = False, bits: int = 0, dtype: torch.dtype = torch.bfloat16,
    accumulate: bool = False, tile: Tile | None = None,
) -> list[Launch]:  # fmt: skip
    """R = Pᵀ G in fp32."""
    tile = tile or tile_for("project", a, b, r, transposed, f"p{bits or dtype.itemsize * 8}")
    p, g = Operand.of(projector(a, r, bits, dtype)).mT, gradient(a, b, transposed, dtype)
    return product_plan(meta(r, b, dtype=torch.float32), p, g, tile, accumulate=accumulate, dtype=dtype)


def adam(b: int, r: int, kind: str) -> list[Launch]:
    """Adam from an accumulator in fp32."""
    return adam_plan(meta(r, b), meta(r, b, dtype=torch.float32), moments(kind, r, b), AdamRule(), step=3)


def lift(
    a: int, b: int, r: int, weights: str, *, transposed: bool = False, bits: int = 0, tile: Tile | None = None
) -> list[Launch]:
    """W ← decay·W + alpha·P N for one way of keeping W."""
    tile = tile or tile_for("lift", a, b, r, transposed, weights)
    shape, dtype = ((b, a) if transposed else (a, b)), torch.float32 if weights == "float32" else torch.bfloat16
    w, options = meta(*shape, dtype=dtype), dict[str, Any](alpha=-1e-3, decay=0.999, transposed=transposed)
    if weights == "int8":
        w = meta(*shape, dtype=torch.int8)
        options["scales"] = meta(shape[0], shape[1] // group_size(shape[1]))
    if weights.startswith("compensated"):
        options["compensation"] = meta(*shape, dtype=torch.int16 if weights.endswith("16") else torch.int8)
    if weights in ("stochastic", "compensated8", "int8"):
        options["noise"] = RoundingNoise(0, 0, torch.device("meta"))
    return lift_plan(w, projector(a, r, bits, dtype), meta(r, b, dtype=dtype), tile, **options)


def cases() -> Iterator[Case]:
    """(name, plan) of everything that is compiled by the gate."""
    for label, (a, b, r) in (("even", EVEN), ("ragged", RAGGED)):
        for side in ("left", "right"):
            transposed = side == "right"
            yield f"project bf16 {side} {label}", project(a, b, r, transposed=transposed, accumulate=True)
            for weights in WEIGHTS:
                yield f"lift {weights} {side} {label}", lift(a, b, r, weights, transposed=transposed)
        yield f"project fp32 left {label}", project(a, b, r, dtype=torch.float32)
        yield f"project bf16 split {label}", project(a, b, r, accumulate=True, tile=SPLIT)
        for bits in (4, 8):
            yield f"project int{bits} P left {label}", project(a, b, r, bits=bits)
            yield f"lift int{bits} P left {label}", lift(a, b, r, "stochastic", bits=bits)
        for kind in STATES:
            yield f"adam {kind} {label}", adam(b, r, kind)
        yield from ((f"{name} {label}", plan) for name, plan in _quantizers(a, b))
        yield from ((f"{name} {label}", plan) for name, plan in _sixteen(a, b))
        yield from ((f"{name} {label}", plan) for name, plan in _eight(b, a))
        yield from ((f"{name} {label}", plan) for name, plan in _fused(a, b))
    yield from ((f"{name} wide", plan) for name, plan in _norms(64, 8192))


def essential() -> list[Case]:
    """The cases that stand for all on cards other than the one that tiles are chosen for."""
    others = ("adam dynamic ragged", "adam e4m3 even", *EIGHT, *SIXTEEN, *FUSED)
    return [case for case in cases() if case[0].endswith("left even") or case[0] in others]


def coded(rows: int, columns: int, size: int, dtype: torch.dtype = torch.int8) -> Coded:
    """A matrix in 8-bit codes, `size` of a row to a scale."""
    kind = torch.float32 if size == columns else torch.bfloat16
    return Coded(empty_codes(rows, columns, meta(0), dtype), meta(rows, -(-columns // size), dtype=kind), size)


def coded_product(tokens: int, m: int, n: int, size: int, dtype: torch.dtype = torch.int8) -> list[Launch]:
    """X Wᵀ for X (tokens, n) with a scale a row, and W (m, n) with one for `size` codes."""
    return coded_product_plan(meta(tokens, m), coded(tokens, n, n, dtype), coded(m, n, size, dtype))


def _eight(m: int, n: int) -> Iterator[Case]:
    """What both products of a layer (m, n) ask for; the number of tokens is n."""
    for name, dtype in (("int8", torch.int8), ("e4m3", torch.float8_e4m3fn)):
        yield f"encode {name}", encode_plan(coded(n, m, m, dtype), meta(n, m), None)
        yield f"encode {name} stochastic", encode_plan(coded(n, m, m, dtype), meta(n, m), (1, 2))
        yield f"encode {name} across", encode_plan(coded(n, m, m, dtype), meta(m, n).mT, (1, 2))
        yield f"product {name} rows", coded_product(n, m, n, n, dtype)
    yield "product int8 groups", coded_product(n, m, n, WIDTH)
    held = Coded(meta(m, n, dtype=torch.int8), meta(m, n // group_size(n)), group_size(n))
    for name, shape, words in (("along", (m, n), None), ("across", (n, m), (1, 2))):
        scales = meta(-(-shape[1] // WIDTH), shape[0], dtype=torch.float32)
        fresh = Coded(empty_codes(*shape, held.codes, torch.int8), scales, WIDTH)
        yield f"regroup {name}", regroup_plan(fresh, held, name == "across", words)


def _fused(width: int, inner: int) -> Iterator[Case]:
    """What lies between the products of a block of that width; as many tokens."""
    yield from _norms(width, width)
    gate, size = meta(width, inner), 128 if width % 128 == 0 else 2 * (width // 20)
    yield "swiglu", swiglu_plan(gate, gate, gate)
    yield "swiglu backward", swiglu_backward_plan(gate, gate, gate, gate, gate)
    heads, angles = meta(1, width, width // size, size).transpose(1, 2), meta(1, width, size)
    for name, backward in (("rotary", False), ("rotary backward", True)):
        yield name, rotary_plan(heads, heads, angles, angles, backward)
    sums = meta(width, dtype=torch.float32)
    yield "softmax", softmax_plan(gate, meta(width, dtype=torch.int64), sums, sums, 1e-4)


def _norms(rows: int, width: int) -> Iterator[Case]:
    x, gain, r = meta(rows, width), meta(width), meta(rows, dtype=torch.float32)
    yield "norm", rms_norm_plan(x, r, x, gain, 1e-6)
    yield "norm backward", rms_norm_backward_plan(x, meta(64, width, dtype=torch.float32), x, x, gain, r, True)


def _sixteen(m: int, n: int) -> Iterator[Case]:
    """A momentum in sixteen values, along its rows and across them."""
    shapes = ((m,), (n,), (-(-m // CHUNK), n), (m, n), (n, m))
    rows, columns, partial, along, across = (meta(*shape, dtype=torch.float32) for shape in shapes)
    codes = meta(m, n // 2, dtype=torch.uint8)
    yield "to sixteen along", to_sixteen_plan(codes, rows, columns, along, partial)
    yield "to sixteen across", to_sixteen_plan(codes, rows, columns, across.mT, partial)
    yield "from sixteen", from_sixteen_plan(along, codes, rows, columns)


def _quantizers(m: int, n: int) -> Iterator[Case]:
    count, scales = m * n, meta(m, n // group_size(n))
    absmax, value = meta(-(-count // BLOCK_SIZE), dtype=torch.float32), meta(count, dtype=torch.float32)
    for kind in ("dynamic", "e4m3"):
        codes = meta(count, dtype=STATES[kind])
        yield f"quantize {kind}", quantize_plan(codes, absmax, value, True)
        yield f"dequantize {kind}", dequantize_plan(value, codes, absmax, True)
    for bits in (4, 8):
        codes, tops, _ = projector(m, n, bits)
        yield f"compress int{bits}", compress_plan(codes, tops, meta(m, n))
        yield f"expand int{bits}", expand_plan(meta(m, n), codes, tops)
    codes = meta(m, n, dtype=torch.int8)
    yield "quantize weight", quantize_weight_plan(codes, scales, meta(m, n))
    yield "dequantize weight", dequantize_weight_plan(meta(m, n), codes, scales)
