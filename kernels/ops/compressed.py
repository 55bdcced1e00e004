"""Projectors in 8 or 4 bits: symmetric codes to the nearest, one fp16 absmax per 128 elements.

Q-GaLore (arXiv 2407.08296, section 3.2) keeps P in INT4 and shows that training bears it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from galore.kernels.device import notice
from galore.kernels.ops.dispatch import Backend, choose, quantizer
from galore.kernels.storage.layout import GROUP, Bits, Compressed, Matrix
from galore.kernels.storage.rounding import block_elements

LARGEST = {torch.int8: 127, torch.uint8: 7}  # code that stands for the absmax, by the dtype of the codes


def as_dense(x: Matrix, dtype: torch.dtype) -> Tensor:
    """x in `dtype`, however it is kept."""
    if isinstance(x, Compressed):
        return expand({"codes": x.codes, "absmax": x.absmax}, x.shape, dtype)
    return x.to(dtype)


def compress(p: Tensor, bits: Bits, backend: Backend = "auto") -> dict[str, Tensor]:
    """P, any shape of k elements and any floating dtype → {"codes", "absmax"}, flat: ⌈k·bits/8⌉ + 2·⌈k/128⌉ bytes.

    codes: int8 (k,) in [-127, 127], or uint8 (⌈k/2⌉,), two codes in [-7, 7] a byte in two's complement, the earlier one
    in the lower half. absmax: fp16 (⌈k/128⌉,), so entries must stay below 65,504; the codes are found with the rounded
    absmax, whose rounding is therefore no error.

    Of a random orthonormal P the relative error ‖P̃ - P‖/‖P‖ is 0.65 % in 8 bits and 11.7 % in 4 (bf16: 0.17 %). P̃ is
    no longer orthonormal: with a = 4r, ‖P̃ᵀP̃ - I‖_F/√r is 0.085 in 4 bits, ‖P̃ᵀP̃ - I‖₂ 0.19, and the columns are
    1.4 % too long in the square; in 8 bits 0.0046 and 0.0092, in bf16 0.0012. What assumes PᵀP = I, as ‖G - P R‖² =
    ‖G‖² - ‖R‖² does, must be given P̃ᵀP̃ instead (`residual_squares(..., gram=)`).
    """
    if bits not in (4, 8):
        raise ValueError(f"projectors are kept in 4 or 8 bits, not {bits}")
    flat = p.reshape(-1)
    if choose(quantizer(flat), backend).backend == "triton":
        return _compress_by_triton(flat.contiguous(), bits)
    parts = [_compress_block(part, bits) for part in torch.split(flat, block_elements(flat))]
    codes, absmax = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return {"codes": codes, "absmax": absmax}


def expand(stored: dict[str, Tensor], shape: Sequence[int], dtype: torch.dtype, backend: Backend = "auto") -> Tensor:
    """What `compress` kept of P, in `shape` and `dtype`: code · absmax / largest code in fp32, rounded once."""
    codes, absmax = stored["codes"], stored["absmax"]
    p = torch.empty(math.prod(shape), dtype=dtype, device=codes.device)
    if choose(quantizer(p), backend).backend == "triton":
        _expand_by_triton(p, codes, absmax)
        return p.view(tuple(shape))
    size = block_elements(codes)
    for first in range(0, p.numel(), size):
        last = min(first + size, p.numel())
        scales = absmax[first // GROUP : -(-last // GROUP)].float() / LARGEST[codes.dtype]
        p[first:last] = _expand_block(_unpacked(codes, first, last), scales)
    return p.view(tuple(shape))


def _compress_by_triton(flat: Tensor, bits: int) -> dict[str, Tensor]:
    count = flat.numel() if bits == 8 else -(-flat.numel() // 2)
    codes = flat.new_empty(count, dtype=torch.int8 if bits == 8 else torch.uint8)
    absmax = flat.new_empty(-(-flat.numel() // GROUP), dtype=torch.float16)
    if flat.is_meta:
        notice("compress", 0, flat.nbytes + codes.nbytes + absmax.nbytes)
    else:
        from galore.kernels.triton.launch import run
        from galore.kernels.triton.quantize import compress_plan

        run(compress_plan(codes, absmax, flat))
    return {"codes": codes, "absmax": absmax}


def _expand_by_triton(out: Tensor, codes: Tensor, absmax: Tensor) -> None:
    if out.is_meta:
        notice("expand", 0, out.nbytes + codes.nbytes + absmax.nbytes)
    else:
        from galore.kernels.triton.launch import run
        from galore.kernels.triton.quantize import expand_plan

        run(expand_plan(out, codes, absmax))


def _compress_block(flat: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(codes, absmax) of one block (k,)."""
    groups = torch.nn.functional.pad(flat.float(), (0, -flat.numel() % GROUP)).view(-1, GROUP)
    absmax, largest = groups.abs().amax(1).half(), 2 ** (bits - 1) - 1
    scales = (absmax.float() / largest).clamp_min(torch.finfo(torch.float32).tiny)  # of a group of zeros, too
    codes = (groups / scales[:, None]).round_().clamp_(-largest, largest).to(torch.int8).view(-1)
    return (codes[: flat.numel()] if bits == 8 else _packed(codes)[: -(-flat.numel() // 2)]), absmax


def _packed(codes: Tensor) -> Tensor:
    """int8 (2k,) in [-7, 7] → uint8 (k,), the even elements in the lower halves."""
    codes = codes.view(torch.uint8)
    return (codes[0::2] & 15) | (codes[1::2] << 4)


def _unpacked(codes: Tensor, first: int, last: int) -> Tensor:
    """int8 codes of elements [first, last); `first` is even."""
    if codes.dtype == torch.int8:
        return codes[first:last]
    signed = codes[first // 2 : -(-last // 2)].view(torch.int8)
    return torch.stack([signed << 4 >> 4, signed >> 4], dim=1).view(-1)[: last - first]  # >> carries the sign down


def _expand_block(codes: Tensor, scales: Tensor) -> Tensor:
    """fp32 (k,) from int8 codes (k,) and the fp32 value of code 1 in each group."""
    padded = torch.nn.functional.pad(codes, (0, -codes.numel() % GROUP)).view(-1, GROUP)
    return (padded * scales[:, None]).view(-1)[: codes.numel()]
