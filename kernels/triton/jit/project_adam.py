"""Device code: projection and Adam in one kernel, where whole blocks of 256 lie within a row of R."""

from __future__ import annotations

import triton
import triton.language as tl

from galore.kernels.triton.jit.adam import adam_tile
from galore.kernels.triton.jit.product import product_tile, tile_of


@triton.jit
def _halves(x, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """The even and the odd rows of x (ROWS, WIDTH)."""
    return tl.split(tl.permute(tl.reshape(x, (ROWS // 2, 2, WIDTH)), (0, 2, 1)))


@triton.jit
def _adam_rows(
    g, OUT, M, V, M_ABSMAX, V_ABSMAX, TABLES, R, N, rm, rn,
    beta1, rest1, beta2, rest2, eps, m_factor, v_factor, STATE: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    offset = rm[:, None] * N + rn[None, :]
    block = (rm * N + tl.min(rn, axis=0)) // 256
    mask = None if EVEN else (rm < R)[:, None] & (rn < N)[None, :]
    block_mask = None if EVEN else rm < R
    adam_tile(
        g, OUT, M, V, M_ABSMAX, V_ABSMAX, TABLES, offset, mask, block, block_mask,
        beta1, rest1, beta2, rest2, eps, m_factor, v_factor, STATE,
    )  # fmt: skip


@triton.jit
def project_adam_kernel(
    OUT, P, P_ABSMAX, G, M, V, M_ABSMAX, V_ABSMAX, TABLES, R, N, K, spr, spk, sgk, sgn, FP8_SCALES, grad_scale,
    beta1, rest1, beta2, rest2, eps, m_factor, v_factor,
    P_BITS: tl.constexpr, DTYPE: tl.constexpr, STATE: tl.constexpr, EVEN: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """`adam_tile` on Pᵀ G for P (K, R) and G (K, N); N divides by 256 = BN unless STATE is FLOAT32.

    Adam comes in two halves of the tile's rows, which halves the registers it needs beside the sums.
    """
    row, column = tile_of(tl.program_id(0), R, N, BM, BN, GROUP)
    rm, rn = row * BM + tl.arange(0, BM), column * BN + tl.arange(0, BN)
    total = product_tile(
        P, P_ABSMAX, G, None, rm, rn, 0, K, R, N, spr, spk, sgk, sgn, FP8_SCALES, P_BITS, 0, DTYPE, BM, BN, BK, EVEN
    )
    even, odd = _halves(total * grad_scale, BM, BN)
    rm = row * BM + 2 * tl.arange(0, BM // 2)
    _adam_rows(
        even, OUT, M, V, M_ABSMAX, V_ABSMAX, TABLES, R, N, rm, rn,
        beta1, rest1, beta2, rest2, eps, m_factor, v_factor, STATE, EVEN,
    )  # fmt: skip
    _adam_rows(
        odd, OUT, M, V, M_ABSMAX, V_ABSMAX, TABLES, R, N, rm + 1, rn,
        beta1, rest1, beta2, rest2, eps, m_factor, v_factor, STATE, EVEN,
    )  # fmt: skip
