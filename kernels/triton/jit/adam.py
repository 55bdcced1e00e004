"""Device code: Adam on moments in any storage, one pass: read, update in fp32, store again, direction out."""

from __future__ import annotations

import triton
import triton.language as tl

from galore.kernels.triton.jit.codes import read_dynamic, read_e4m3, write_dynamic, write_e4m3
from galore.kernels.triton.jit.memory import read

FLOAT32 = tl.constexpr(0)
DYNAMIC = tl.constexpr(1)
E4M3 = tl.constexpr(2)  # of the second moment the square root is kept


@triton.jit
def adam_kernel(
    OUT, GRAD, M, V, M_ABSMAX, V_ABSMAX, TABLES, count, grad_scale,
    beta1, rest1, beta2, rest2, eps, m_factor, v_factor,
    STATE: tl.constexpr, BLOCKS: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """OUT ← -(m·m_factor) / (√v·v_factor + ε) of grad_scale · GRAD, both moments updated in place.

    All (count,) seen flat, BLOCKS blocks of 256 to a program. TABLES: fp32 (1029,), see kernels/triton/states.py.
    """
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    offset = block[:, None] * 256 + tl.arange(0, 256)[None, :]
    if EVEN:
        mask = None
        block_mask = None
    else:
        mask = offset < count
        block_mask = block * 256 < count
    g = read(GRAD + offset, mask).to(tl.float32) * grad_scale
    if STATE == FLOAT32:
        m = read(M + offset, mask)
        v = read(V + offset, mask)
    else:
        m_absmax = read(M_ABSMAX + block, block_mask)
        v_absmax = read(V_ABSMAX + block, block_mask)
        if STATE == DYNAMIC:
            m = read_dynamic(M, offset, mask, m_absmax, TABLES)
            v = read_dynamic(V, offset, mask, v_absmax, TABLES + 256)
        else:
            m = read_e4m3(M, offset, mask, m_absmax)
            v = read_e4m3(V, offset, mask, v_absmax)
            v = v * v
    m = beta1 * m + rest1 * g
    v = beta2 * v + rest2 * (g * g)
    if not EVEN and STATE != FLOAT32:
        m = tl.where(mask, m, 0.0)
        v = tl.where(mask, v, 0.0)
    root = tl.sqrt_rn(v)
    direction = tl.div_rn(m * m_factor, root * v_factor + eps)
    tl.store(OUT + offset, (-direction).to(OUT.dtype.element_ty), mask=mask)
    if STATE == FLOAT32:
        tl.store(M + offset, m, mask=mask)
        tl.store(V + offset, v, mask=mask)
    elif STATE == DYNAMIC:
        write_dynamic(M, offset, mask, M_ABSMAX, block, block_mask, TABLES + 512, m, True)
        write_dynamic(V, offset, mask, V_ABSMAX, block, block_mask, TABLES + 772, v, False)
    else:
        write_e4m3(M, offset, mask, M_ABSMAX, block, block_mask, m)
        write_e4m3(V, offset, mask, V_ABSMAX, block, block_mask, root)
