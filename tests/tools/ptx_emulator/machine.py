"""Runs a compiled launch on CPU tensors, which change as they would on the GPU."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import torch

from ptx_emulator import access, arithmetic, convert, warp
from ptx_emulator.block import Block, Value, source
from ptx_emulator.faults import Fault
from ptx_emulator.memory import GlobalMemory
from ptx_emulator.parse import Instruction, Program, parse

DECODERS = {
    **dict.fromkeys(arithmetic.NAMES, arithmetic.compute),
    "setp": arithmetic.compare,
    "selp": arithmetic.select,
    "bfe": arithmetic.extract,
    "prmt": arithmetic.permute,
    "mov": arithmetic.move,
    "cvt": convert.convert,
    "mma": warp.multiply,
    "ldmatrix": warp.load_matrices,
    "shfl": warp.shuffle,
    "redux": warp.reduce,
    "ld": access.load,
    "st": access.store,
    "cp": access.asynchronous,
    "bar": access.barrier,
}
SCRATCH = 2  # pointers that Triton appends to a kernel's parameters, unused here


def emulate(ptx: str, arguments: list[Any], grid: tuple[int, int], shared: int) -> int:
    """Run every block of `grid`; returns the instructions executed by a thread of each, together.

    Args:
        arguments: run-time arguments in the order of the kernel's parameters; tensors are CPU tensors.

    Raises:
        Fault: see the package.
    """
    program, memory = parse(ptx), GlobalMemory()
    given = [*arguments, *[0] * SCRATCH]
    if len(given) != len(program.parameters):
        raise Fault(f"{len(program.parameters)} parameters, {len(arguments)} arguments")
    parameters = {
        name: _bits(kind, value, memory) for (kind, name), value in zip(program.parameters, given, strict=True)
    }
    steps = [_decode(i, program) for i in program.instructions]
    with np.errstate(all="ignore"):
        return sum(
            _run(Block(program.threads, shared, (x, y), grid, parameters, memory), steps)
            for y in range(grid[1])
            for x in range(grid[0])
        )


def _bits(kind: str, value: Any, memory: GlobalMemory) -> Value:
    if isinstance(value, torch.Tensor):
        return np.asarray(memory.pointer(value), np.uint64)
    if kind == "f32":
        return np.asarray(struct.unpack("<I", struct.pack("<f", value))[0], np.uint32)
    width = int(kind[1:])
    return np.asarray(int(value) & ((1 << width) - 1), np.uint64 if width == 64 else np.uint32)


def _decode(i: Instruction, program: Program) -> tuple[Any, bool, Any, int, str]:
    """(guard, negated, step, where a branch goes or -1, text)."""
    guard = source(i.guard, "pred") if i.guard else None
    if i.opcode[0] == "bra":
        return guard, i.negated, None, program.labels[i.operands[0]], i.text
    if i.opcode[0] in ("ret", "exit"):
        return guard, i.negated, None, len(program.instructions), i.text
    if i.opcode[0] not in DECODERS:
        raise Fault(f"unknown instruction: {i.text}")
    return guard, i.negated, DECODERS[i.opcode[0]](i), -1, i.text


def _run(block: Block, steps: list[tuple[Any, bool, Any, int, str]]) -> int:
    counter = executed = 0
    while counter < len(steps):
        guard, negated, step, destination, text = steps[counter]
        counter += 1
        executed += 1
        mask = None if guard is None else guard(block) ^ negated
        if step is None:
            counter = _branch(mask, counter, destination, text)
        elif mask is None or mask.all():
            step(block, None)
        else:
            step(block, mask)
    return executed


def _branch(mask: Value | None, following: int, destination: int, text: str) -> int:
    if mask is None or mask.all():
        return destination
    if mask.any():
        raise Fault(f"threads part ways: {text}")
    return following
