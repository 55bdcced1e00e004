"""Plans of products in 8 bits: operands to codes, and the product of two matrices in codes."""

from __future__ import annotations

import torch
from torch import Tensor

from galore.kernels.storage.coded import WIDTH, Coded, padded
from galore.kernels.triton.jit.eight import coded_product_kernel, encode_kernel, regroup_kernel
from galore.kernels.triton.launch import Launch, blocks
from galore.kernels.triton.tile import Tile

FORMATS = {torch.int8: 0, torch.float8_e4m3fn: 1}  # as the kernels number them
ALONG, ACROSS = (
    (4, 512),
    (64, 64),
)  # rows and columns to a program, where neighbours of a row or of a column lie together
ROWS = 32  # regrouped to a program
LARGE = Tile(128, 128, 128, 8, 3)
SMALL = Tile(64, 64, 128, 4, 3)  # of products with few tiles
MASKED = Tile(64, 128, 128, 4, 3)  # of groups that tiles do not cover: masks take registers
MULTIPROCESSORS = 128  # that should have a tile each


def encode_plan(out: Coded, x: Tensor, words: tuple[int, int] | None) -> list[Launch]:
    """out.codes ← x (M, N), any strides, over the scale of its row, which is there; `words` round stochastically."""
    m, n = x.shape
    rows, columns = ALONG if x.stride(1) == 1 else ACROSS
    low, high = words or (0, 0)
    return [
        Launch(
            encode_kernel,
            (blocks(m, rows), blocks(n, columns)),
            {
                "OUT": _raw(out.codes),
                "X": x,
                "S": out.scales,
                "M": m,
                "N": n,
                "padded": padded(n),
                "sxm": x.stride(0),
                "sxn": x.stride(1),
                "som": out.codes.stride(0),
                "low": low,
                "high": high,
            },
            {
                "FORMAT": FORMATS[out.codes.dtype],
                "STOCHASTIC": words is not None,
                "ROWS": rows,
                "COLUMNS": columns,
            },
            bytes=x.nbytes + out.nbytes,
        )
    ]


def regroup_plan(out: Coded, held: Coded, transposed: bool, words: tuple[int, int] | None) -> list[Launch]:
    """out, groups of WIDTH along its rows ← held, or its transpose, in int8 with groups along its own rows."""
    (m, n), (along, across) = out.codes.shape, held.codes.stride()
    low, high = words or (0, 0)
    return [
        Launch(
            regroup_kernel,
            (blocks(m, ROWS), blocks(n, WIDTH)),
            {
                "OUT": out.codes,
                "OUT_S": out.scales,
                "CODES": held.codes,
                "S": held.scales,
                "M": m,
                "N": n,
                "padded": padded(n),
                "groups": held.scales.shape[1],
                "scm": across if transposed else along,
                "scn": along if transposed else across,
                "som": out.codes.stride(0),
                "low": low,
                "high": high,
            },
            {
                "SIZE": held.size,
                "TRANSPOSED": transposed,
                "STOCHASTIC": words is not None,
                "ROWS": ROWS,
                "WIDTH": WIDTH,
            },
            bytes=out.nbytes + held.nbytes,
        )
    ]


def coded_product_plan(out: Tensor, a: Coded, b: Coded, tile: Tile | None = None) -> list[Launch]:
    """out (M, N) ← A Bᵀ for A (M, K) with one scale a row and B (N, K) with one a row or a group."""
    m, n, k = a.codes.shape[0], b.codes.shape[0], padded(a.codes.shape[1])
    tile = tile or tile_for(m, n, k, b.whole)
    depth = tile.depth if b.whole else max(32, 1 << (b.size - 1).bit_length())
    even = m % tile.rows == 0 and n % tile.columns == 0 and k % depth == 0 and (b.whole or b.size == depth)
    return [
        Launch(
            coded_product_kernel,
            (blocks(m, tile.rows) * blocks(n, tile.columns), 1),
            {
                "OUT": out,
                "A": _raw(a.codes),
                "A_S": a.scales,
                "B": _raw(b.codes),
                "B_S": b.scales,
                "M": m,
                "N": n,
                "K": k,
                "sam": a.codes.stride(0),
                "sbn": b.codes.stride(0),
                "ssn": b.scales.stride(0),
                "ssg": b.scales.stride(1),
            },
            {
                "FORMAT": FORMATS[b.codes.dtype],
                "SIZE": b.size if not b.whole else depth,
                "WHOLE": b.whole,
                "EVEN": even,
                **tile.constants(),
                "BK": depth,
            },
            tile.warps,
            tile.stages,
            flops=2 * m * n * k,
            bytes=a.nbytes + b.nbytes + out.nbytes,
        )
    ]


def tile_for(m: int, n: int, k: int, whole: bool) -> Tile:
    """The tile of a product (m, n) over k: small where large ones would leave multiprocessors idle."""
    if blocks(m, LARGE.rows) * blocks(n, LARGE.columns) < MULTIPROCESSORS:
        return SMALL
    return LARGE if whole or LARGE.even(m, n, k) else MASKED


def _raw(codes: Tensor) -> Tensor:
    """e4m3 as the bytes that kernels are given."""
    return codes if codes.dtype == torch.int8 else codes.view(torch.uint8)
