"""What the 32 threads of a warp do together: matrix products, matrix loads, shuffles and reductions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptx_emulator.arithmetic import Step
from ptx_emulator.bf16 import bf16_values
from ptx_emulator.block import Block, Read, Value, address, dtype_of, source, target
from ptx_emulator.convert import E4M3
from ptx_emulator.faults import Fault
from ptx_emulator.parse import Instruction, registers

LANE = np.arange(32)
GROUP, PLACE = LANE // 4, LANE % 4  # a fragment's row, and its position along the row
REDUCTIONS = {"max": np.max, "min": np.min, "add": np.sum}
# input type → (elements per register, values of the elements' bits)
ELEMENTS: dict[str, tuple[int, Callable[[Value], Value]]] = {
    "bf16": (2, bf16_values),
    "f16": (2, lambda bits: bits.astype(np.uint16).view(np.float16).astype(np.float32)),
    "e4m3": (4, lambda bits: E4M3[bits]),
    "s8": (4, lambda bits: bits.astype(np.uint8).view(np.int8).astype(np.float32)),
    "tf32": (1, lambda bits: (bits & np.uint32(0xFFFFE000)).view(np.float32)),
}
SUMS = {"f32": ("f32", np.float32), "s32": ("s32", np.int32)}  # → how registers are read, and what sums are rounded to


def multiply(i: Instruction) -> Step:
    """mma.sync.m16n8kK with fp32 or int32 sums: D = A B + C, fragments as the PTX manual lays them out."""
    shape, *_, wide, kind = [word for word in i.opcode if word != "satfinite"][
        3:8
    ]  # no sum here comes near int32's end
    if not shape.startswith("m16n8k") or wide not in SUMS or kind not in ELEMENTS:
        raise Fault(f"unknown matrix product: {i.text}")
    depth = int(shape.removeprefix("m16n8k"))
    names = [registers(operand) for operand in i.operands]
    reads = [[source(name, "u32") for name in group] for group in names[1:3]]
    read_as, rounded = SUMS[wide]
    sums, writes = [source(name, read_as) for name in names[3]], [target(name) for name in names[0]]

    def step(block: Block, mask: Value | None) -> None:
        a, b = _left(block, reads[0], depth, kind), _right(block, reads[1], depth, kind)
        product = a.astype(np.float64) @ b
        for place, (read, write) in enumerate(zip(sums, writes, strict=True)):
            part = product[:, GROUP + 8 * (place >> 1), 2 * PLACE + (place & 1)].reshape(-1)
            write(block, (read(block) + part).astype(rounded), mask)

    return step


def _left(block: Block, reads: list[Read], depth: int, kind: str) -> Value:
    """A (warps, 16, depth): registers go down the rows first, then along."""
    out = np.empty((block.threads // 32, 16, depth), np.float32)
    for place, read in enumerate(reads):
        for element, column, values in _elements(read(block), depth, kind):
            del element
            out[:, GROUP + 8 * (place & 1), column + depth // 2 * (place >> 1)] = values
    return out


def _right(block: Block, reads: list[Read], depth: int, kind: str) -> Value:
    """B (warps, depth, 8)."""
    out = np.empty((block.threads // 32, depth, 8), np.float32)
    for place, read in enumerate(reads):
        for element, row, values in _elements(read(block), depth, kind):
            del element
            out[:, row + depth // 2 * place, GROUP] = values
    return out


def _elements(bits: Value, depth: int, kind: str) -> list[tuple[int, Value, Value]]:
    """(element, position of each lane's within half the depth, values (warps, 32)) of one register."""
    count, decode = ELEMENTS[kind]
    width = 32 // count
    bits = bits.reshape(-1, 32)
    found = []
    for element in range(count):
        part = (bits >> np.uint32(width * element)) & np.uint32((1 << width) - 1)
        found.append((element, PLACE * count + element, decode(part)))
    return found


def load_matrices(i: Instruction) -> Step:
    """ldmatrix: each lane names a row of 16 bytes, and gets two neighbours of an 8×8 matrix per register."""
    writes, place = [target(name) for name in registers(i.operands[0])], address(i.operands[1])
    transposed = "trans" in i.opcode

    def step(block: Block, mask: Value | None) -> None:
        data = block.shared.read(place(block), 16, block.everyone, i.text)
        rows = data.view(np.uint16).reshape(-1, 4, 8, 8)  # (warps, matrix, row, column)
        for number, write in enumerate(writes):
            matrix = rows[:, number].swapaxes(1, 2) if transposed else rows[:, number]
            low, high = matrix[:, GROUP, 2 * PLACE], matrix[:, GROUP, 2 * PLACE + 1]
            write(block, (low.astype(np.uint32) | (high.astype(np.uint32) << np.uint32(16))).reshape(-1), mask)

    return step


def shuffle(i: Instruction) -> Step:
    """shfl.sync.bfly and .idx over whole warps."""
    if i.opcode[2] not in ("bfly", "idx"):
        raise Fault(f"unknown shuffle: {i.text}")
    value, choice, write = (
        source(i.operands[1], "b32"),
        source(i.operands[2], "u32"),
        target(i.operands[0].split("|")[0]),
    )

    def step(block: Block, mask: Value | None) -> None:
        number = choice(block).reshape(-1, 32).astype(np.int64)
        lane = LANE ^ number if i.opcode[2] == "bfly" else number & 31
        write(block, np.take_along_axis(value(block).reshape(-1, 32), lane, 1).reshape(-1), mask)

    return step


def reduce(i: Instruction) -> Step:
    """redux.sync: every lane gets the warp's result."""
    function, kind = REDUCTIONS[i.opcode[2]], i.opcode[-1]
    value, write = source(i.operands[1], kind), target(i.operands[0])

    def step(block: Block, mask: Value | None) -> None:
        result = function(value(block).reshape(-1, 32), axis=1).astype(dtype_of(kind))
        write(block, np.repeat(result, 32), mask)

    return step
