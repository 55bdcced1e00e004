"""Arithmetic, logic, comparisons and selections, element by element."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ptx_emulator.bf16 import in_bf16
from ptx_emulator.block import UNSIGNED, Block, Value, dtype_of, source, target
from ptx_emulator.faults import Fault
from ptx_emulator.parse import Instruction

Step = Callable[[Block, "Value | None"], None]
FLOAT: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "min": np.fmin,
    "max": np.fmax,
    "neg": np.negative,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "ex2": np.exp2,
    "fma": lambda x, y, z: x.astype(np.float64) * y + z,  # the product is exact; rounded once on writing
}
INTEGER: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "min": np.minimum,
    "max": np.maximum,
    "neg": lambda x: np.zeros_like(x) - x,
    "abs": np.abs,
    "mul": np.multiply,
    "mad": lambda x, y, z: x * y + z,
    "div": lambda x, y: np.trunc(x.astype(np.float64) / y).astype(x.dtype),
    "rem": lambda x, y: np.fmod(x, y),
}
LOGIC: dict[str, Callable[..., Any]] = {
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
    "not": np.logical_not,
    "mov": lambda x: x,
}
COMPARE: dict[str, Callable[[Value, Value], Value]] = {
    "eq": np.equal,
    "ne": lambda x, y: (x != y) & (x == x) & (y == y),
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "neu": lambda x, y: ~(x == y),
    "ltu": lambda x, y: ~(x >= y),
    "leu": lambda x, y: ~(x > y),
    "gtu": lambda x, y: ~(x <= y),
    "geu": lambda x, y: ~(x < y),
    "num": lambda x, y: (x == x) & (y == y),
    "nan": lambda x, y: (x != x) | (y != y),
}
NARROW = {"bf16": "b16", "bf16x2": "b32"}  # what their registers are read as
NAMES = FLOAT.keys() | INTEGER.keys() | {"shl", "shr"}


def compute(i: Instruction) -> Step:
    """add, mul.wide, fma, shl, and.pred …: one result of one to three operands."""
    name, kind = i.opcode[0], i.opcode[-1]
    reads, write = [source(x, NARROW.get(kind, kind)) for x in i.operands[1:]], target(i.operands[0])
    function: Callable[..., Any]
    if kind == "pred":
        function = LOGIC[name]
    elif kind in NARROW:
        function = partial(in_bf16, FLOAT[name])
    elif kind == "f32":
        function = FLOAT[name]
    elif name in ("shl", "shr"):
        return _shift(i)
    elif "wide" in i.opcode or "hi" in i.opcode:
        return _wide(i)
    else:
        function = INTEGER[name]

    def step(block: Block, mask: Value | None) -> None:
        write(block, function(*(read(block) for read in reads)), mask)

    return step


def _shift(i: Instruction) -> Step:
    """Amounts of the width and more shift everything out."""
    left, kind = i.opcode[0] == "shl", i.opcode[-1]
    value, amount, write = source(i.operands[1], kind), source(i.operands[2], "u32"), target(i.operands[0])
    width = np.dtype(dtype_of(kind)).itemsize * 8

    def step(block: Block, mask: Value | None) -> None:
        x, n = value(block), amount(block)
        if left:
            write(block, np.where(n < width, x << np.minimum(n, width - 1).astype(x.dtype), 0).astype(x.dtype), mask)
            return
        shifted = x >> np.minimum(n, width - 1).astype(x.dtype)
        rest = shifted if kind[0] == "s" else np.where(n < width, shifted, 0)
        write(block, rest.astype(x.dtype), mask)

    return step


def _wide(i: Instruction) -> Step:
    """mul.wide and mad.wide give twice the width, mul.hi the upper half of that."""
    kind = i.opcode[-1]
    width = np.dtype(dtype_of(kind)).itemsize * 8
    double = f"{kind[0]}{2 * width}"
    reads, write = [source(x, kind) for x in i.operands[1:3]], target(i.operands[0])
    third = source(i.operands[3], double) if i.opcode[0] == "mad" else None

    def step(block: Block, mask: Value | None) -> None:
        x, y = (read(block).astype(dtype_of(double)) for read in reads)
        product = x * y
        if "hi" in i.opcode:
            product = (product >> product.dtype.type(width)).astype(dtype_of(kind))
        write(block, product if third is None else product + third(block), mask)

    return step


def compare(i: Instruction) -> Step:
    """setp."""
    if len(i.opcode) != 3:
        raise Fault(f"unknown comparison: {i.text}")
    function, kind = COMPARE[i.opcode[1]], i.opcode[2]
    x, y, write = source(i.operands[1], kind), source(i.operands[2], kind), target(i.operands[0])
    return lambda block, mask: write(block, function(x(block), y(block)), mask)


def select(i: Instruction) -> Step:
    """selp."""
    kind = i.opcode[-1]
    x, y, choice = source(i.operands[1], kind), source(i.operands[2], kind), source(i.operands[3], "pred")
    write = target(i.operands[0])
    return lambda block, mask: write(block, np.where(choice(block), x(block), y(block)), mask)


def extract(i: Instruction) -> Step:
    """bfe: `length` bits from `start` on, extended by sign for .s32."""
    value, write = source(i.operands[1], "u32"), target(i.operands[0])
    start, length = (int(x, 0) for x in i.operands[2:])
    sign = 1 << (length - 1) if i.opcode[1] == "s32" else 0

    def step(block: Block, mask: Value | None) -> None:
        bits = (value(block) >> np.uint32(start)) & np.uint32((1 << length) - 1)
        write(block, (bits ^ np.uint32(sign)) - np.uint32(sign), mask)

    return step


def permute(i: Instruction) -> Step:
    """prmt: four bytes out of eight, each as it is or its sign."""
    low, high, choice = (source(x, "u32") for x in i.operands[1:])
    write = target(i.operands[0])

    def step(block: Block, mask: Value | None) -> None:
        pool = low(block).astype(np.uint64) | (high(block).astype(np.uint64) << np.uint64(32))
        selector, result = choice(block), np.zeros(block.threads, np.uint32)
        for place in range(4):
            nibble = (selector >> np.uint32(4 * place)) & np.uint32(15)
            byte = (pool >> ((nibble & 7).astype(np.uint64) * np.uint64(8))) & np.uint64(255)
            byte = np.where(nibble & 8, np.where(byte & np.uint64(128), 255, 0), byte)
            result |= byte.astype(np.uint32) << np.uint32(8 * place)
        write(block, result, mask)

    return step


def move(i: Instruction) -> Step:
    """mov: copies, and packs or unpacks the parts of a wider register."""
    kind, (to, what) = i.opcode[-1], i.operands
    if to.startswith("{"):
        return _unpack(kind, to, what)
    if what.startswith("{"):
        return _pack(kind, to, what)
    read, write = source(what, kind), target(to)
    return lambda block, mask: write(block, read(block), mask)


def _pack(kind: str, to: str, what: str) -> Step:
    names = [x.strip() for x in what.strip("{} ").split(",")]
    width = int(kind[1:]) // len(names)
    reads, write, wide = [source(x, f"b{width}") for x in names], target(to), UNSIGNED[int(kind[1:])]

    def step(block: Block, mask: Value | None) -> None:
        parts = [read(block).astype(wide) << wide(width * place) for place, read in enumerate(reads)]
        write(block, np.bitwise_or.reduce(parts), mask)

    return step


def _unpack(kind: str, to: str, what: str) -> Step:
    writes = [target(x.strip()) for x in to.strip("{} ").split(",")]
    width, read, wide = int(kind[1:]) // len(writes), source(what, kind), UNSIGNED[int(kind[1:])]

    def step(block: Block, mask: Value | None) -> None:
        for place, write in enumerate(writes):
            write(block, (read(block) >> wide(width * place)).astype(UNSIGNED[width]), mask)

    return step
