"""The state of one thread block: registers as bits, memories, asynchronous copies; and how operands are read and written."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from ptx_emulator.faults import Fault
from ptx_emulator.memory import GlobalMemory, SharedMemory

WIDTHS = {"%p": 1, "%rs": 16, "%r": 32, "%rd": 64}
UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
SIGNED = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}
Value = np.ndarray
Read = Callable[["Block"], Value]
Write = Callable[["Block", Value, "Value | None"], None]
_REGISTER = re.compile(r"(%[a-z]+)\d+$")
_ADDRESS = re.compile(r"\[\s*([%\w]+)\s*(?:\+\s*(-?\w+))?\s*\]")


class Block:
    """`everyone` is the mask of all threads; a mask of None means the same."""

    def __init__(
        self,
        threads: int,
        shared: int,
        place: tuple[int, int],
        grid: tuple[int, int],
        parameters: dict[str, Value],
        memory: GlobalMemory,
    ) -> None:
        self.threads, self.parameters, self.memory = threads, parameters, memory
        self.shared = SharedMemory(shared, threads)
        self.everyone = np.ones(threads, bool)
        special = {
            "%tid.x": np.arange(threads),
            "%ctaid.x": place[0],
            "%ctaid.y": place[1],
            "%nctaid.x": grid[0],
            "%nctaid.y": grid[1],
        }
        self.registers: dict[str, Value] = {
            name: np.broadcast_to(np.asarray(value, np.uint32), threads) for name, value in special.items()
        }
        self.groups: list[list[Callable[[], None]]] = []  # committed asynchronous copies
        self.copies: list[Callable[[], None]] = []  # those not yet committed


def dtype_of(kind: str) -> type[np.generic]:
    """NumPy's type for .f32, .s16, .u64, .b8 …"""
    if kind == "f32":
        return np.float32
    return (SIGNED if kind[0] == "s" else UNSIGNED)[int(kind[1:])]


def source(operand: str, kind: str) -> Read:
    """How to read an operand as `kind`: `pred` or as of `dtype_of`."""
    if operand.startswith("%"):
        return _register(operand, kind)
    if kind == "pred":
        constant = np.asarray(int(operand, 0) != 0)
    elif operand.startswith("0f"):
        constant = np.asarray(int(operand[2:], 16), np.uint32).view(np.float32)
    elif operand == "global_smem":
        constant = np.asarray(0, np.uint32)
    else:
        width = 8 * np.dtype(dtype_of(kind)).itemsize
        constant = np.asarray(int(operand.rstrip("U"), 0) & ((1 << width) - 1), UNSIGNED[width])
    constant = constant if kind == "pred" else constant.view(dtype_of(kind))
    return lambda block: np.broadcast_to(constant, block.threads)


def _register(name: str, kind: str) -> Read:
    dtype = np.dtype(bool) if kind == "pred" else np.dtype(dtype_of(kind))

    def read(block: Block) -> Value:
        bits = block.registers.get(name)
        if bits is None:
            raise Fault(f"{name} is read before it is written")
        if kind == "pred":
            return bits
        if bits.dtype.itemsize != dtype.itemsize:
            bits = bits.astype(UNSIGNED[8 * dtype.itemsize])
        return bits.view(dtype)

    return read


def target(name: str) -> Write:
    """How to write a register: floats as bits, signed integers extended to its width, only where the mask is true."""
    if name == "_":
        return lambda block, value, mask: None
    match = _REGISTER.match(name)
    assert match is not None, name
    width = WIDTHS[match[1]]

    def write(block: Block, value: Value, mask: Value | None) -> None:
        bits = value if width == 1 else _bits(value, width)
        if mask is not None:
            before = block.registers.get(name)
            poison = np.zeros(block.threads, bits.dtype) if before is None else before
            bits = np.where(mask, bits, poison)
        block.registers[name] = bits

    return write


def _bits(value: Value, width: int) -> Value:
    if value.dtype.kind == "f":
        return value.astype(np.float32, copy=False).view(np.uint32)
    if value.dtype.itemsize * 8 != width:
        value = value.astype((SIGNED if value.dtype.kind == "i" else UNSIGNED)[width])
    return value.view(UNSIGNED[width])


def address(operand: str) -> Read:
    """`[ %rd1 + 16 ]` as byte addresses, uint64."""
    match = _ADDRESS.match(operand)
    assert match is not None, operand
    shared = not match[1].startswith("%rd")
    base = source(match[1], "u32" if shared else "u64")
    offset = np.uint64(int(match[2] or "0", 0) & ((1 << 64) - 1))
    wrap = np.uint64((1 << 32) - 1) if shared else np.uint64((1 << 64) - 1)
    return lambda block: (base(block).astype(np.uint64) + offset) & wrap
