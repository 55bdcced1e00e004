"""8-bit blockwise storage of optimizer states in the dynamic format of bitsandbytes (arXiv 2110.02861)."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from galore.kernels.device import device_type

BLOCK_SIZE = 256  # elements that share one fp32 absmax; divides every block_elements
SHARES = 64  # parts of a look-up that threads can take; divides BLOCK_SIZE
_REST = (1 << 23) - 1  # below the code in an int32


@functools.cache
def bitsandbytes() -> tuple[Any, str]:
    """`bitsandbytes.functional` and "", or None and why it cannot be used: nothing but speed depends on it."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns about kernels that are not used here
    try:
        with _without_compiler():
            return importlib.import_module("bitsandbytes.functional"), ""
    except ModuleNotFoundError:
        return None, "bitsandbytes is not installed (pip install 'galore-llm[8bit]')"
    except Exception as error:  # a library of it that this machine cannot load has many ways to say so
        return None, f"bitsandbytes cannot be imported ({(str(error) or type(error).__name__).splitlines()[0]})"


@contextmanager
def _without_compiler() -> Iterator[None]:
    """A context in which torch compiles nothing.

    bitsandbytes asks for that of a few functions that are not called here, and the compiler takes seconds to import.
    """
    compiling = torch.compile
    vars(torch)["compile"] = lambda function=None, **_: function or (lambda function: function)
    try:
        yield
    finally:
        vars(torch)["compile"] = compiling


def path() -> tuple[str, str]:
    """What reads 8-bit states where Triton's kernels do not, and why."""
    library, why = bitsandbytes()
    return (
        ("torch", f"{why}; the values are the same") if library is None else ("bitsandbytes", "beside Triton's kernels")
    )


@functools.cache
def code(signed: bool, device: torch.device) -> Tensor:
    """The 256 fp32 values of the dynamic map, signed for first moments and unsigned for second moments."""
    decades = [10.0**exponent * _middles(2 ** (exponent + (6 if signed else 7))) for exponent in range(-6, 1)]
    opposite = [-values for values in decades] if signed else []
    ends = torch.tensor([0.0, 1.0], dtype=torch.float32, device="cpu")
    return torch.cat([*decades, *opposite, ends]).sort().values.to(device)


def _middles(parts: int) -> Tensor:
    """fp32 (parts,): the middles of equal parts of [0.1, 1], edges counted from the nearer end, each rounded once.

    So does `torch.linspace` on processors that multiply and add in one instruction; others give other last bits, which
    a format cannot have.
    """
    ends = torch.tensor([0.1, 1.0], dtype=torch.float32, device="cpu")
    (low, high), step = ends.double(), ends.diff().div(parts).double()
    edge = torch.arange(parts + 1, dtype=torch.float64, device="cpu")
    edges = torch.where(edge < (parts + 1) // 2, low + step * edge, high - step * (parts - edge)).float()
    return (edges[1:] + edges[:-1]) / 2


@functools.cache
def _summands(signed: bool) -> Tensor:
    """int32 (2¹⁶,): |summand of a number's bf16 rounding + its bits| is 2²³ times its code, plus a rest below 2²³.

    fp32 numbers that round to the same bf16 number have one code, or two with one midpoint between them. The greatest
    number with the lower code gets the greatest rest; any greater one carries. Positive numbers grow with their bits;
    negative ones fall, so their sums are negative. A rest of 23 bits lets all subnormal numbers round to 0: some
    processors do that.
    """
    values = code(signed, torch.device("cpu"))
    midpoints = (values[1:] + values[:-1]) / 2
    sign = torch.tensor([0, -(1 << 31)], dtype=torch.int32, device="cpu")[:, None]
    rounded = torch.arange(1 << 15, dtype=torch.int32, device="cpu")
    nearer, farther = sign | (rounded << 16).sub(1 << 15).clamp_min(0), sign | (rounded << 16).add(1 << 15)
    codes = torch.bucketize(torch.stack((nearer, farther)).view(torch.float32), midpoints, out_int32=True)
    lower, upper = codes.aminmax(dim=0)
    midpoint = midpoints[lower.clamp_max(len(midpoints) - 1)].view(torch.int32)
    greatest = torch.where(upper > lower, midpoint, torch.where(sign < 0, nearer, nearer + _REST))
    total = (lower << _REST.bit_length()) + _REST
    return (torch.where(sign < 0, -total, total) - greatest).view(-1)


def _nearest(scaled: Tensor, signed: bool) -> Tensor:
    """fp32 (blocks, 256), at most 1 in magnitude → codes in int32; of nan, any.

    A code is the number of midpoints below, so that of two values as near the lower one is taken.
    """
    summands = _look_up(_summands(signed).to(scaled.device), scaled.bfloat16().view(torch.uint16))
    return summands.add_(scaled.view(torch.int32)).abs_().bitwise_right_shift_(_REST.bit_length())


def _look_up(table: Tensor, index: Tensor) -> Tensor:
    """table (n,) at index (blocks, 256). `index_select` is faster, `gather` has more than one thread on the CPU."""
    if torch.get_num_threads() == 1 or device_type(table) == "cuda":
        return table.index_select(0, index.view(-1).int()).view(index.shape)
    return table.expand(SHARES, -1).gather(1, index.view(SHARES, -1).long()).view(index.shape)


def quantize_(codes: Tensor, absmax: Tensor, value: Tensor, signed: bool) -> None:
    """codes (k,) uint8, absmax (⌈k/256⌉,) fp32 ← value (k,) fp32, used up: each to its nearest value of the map.

    A block that holds an inf or nan reads back as nan and inf throughout.

    On the CPU the nearest code is found here: bitsandbytes' own CPU kernel sends an exact 0 to the map's fifth value
    above it, and a moment of 0 must stay 0.
    """
    library, _ = bitsandbytes() if device_type(value) == "cuda" else (None, "")
    if library is not None:
        out, state = library.quantize_blockwise(value, code=code(signed, value.device), blocksize=BLOCK_SIZE)
        codes.copy_(out)
        absmax.copy_(state.absmax)
        return
    blocks = _in_blocks(value)
    torch.maximum(blocks.amax(1).abs_(), blocks.amin(1).abs_(), out=absmax)
    blocks.div_(absmax.clamp_min(torch.finfo(torch.float32).tiny)[:, None])
    codes.copy_(_nearest(blocks, signed).view(-1)[: value.numel()])


def dequantize(stored: Tensor, absmax: Tensor, signed: bool) -> Tensor:
    """(uint8 (k,), absmax (⌈k/256⌉,)) → fp32 (k,). The same bits with and without bitsandbytes."""
    library, _ = bitsandbytes()
    if library is not None:
        values = code(signed, stored.device)
        value: Tensor = library.dequantize_blockwise(stored, absmax=absmax, code=values, blocksize=BLOCK_SIZE)
        return value
    values = _look_up(code(signed, stored.device), _in_blocks(stored))
    return values.mul_(absmax[:, None]).view(-1)[: stored.numel()]


def _in_blocks(x: Tensor) -> Tensor:
    """x (k,) as (⌈k/256⌉, 256): itself, or a copy with zeros behind it."""
    tail = -x.numel() % BLOCK_SIZE
    return (torch.nn.functional.pad(x, (0, tail)) if tail else x).view(-1, BLOCK_SIZE)
