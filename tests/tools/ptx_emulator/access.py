"""Loads, stores, asynchronous copies and barriers."""

from __future__ import annotations

import numpy as np

from ptx_emulator.arithmetic import Step
from ptx_emulator.block import Block, Value, address, dtype_of, source, target
from ptx_emulator.faults import Fault
from ptx_emulator.parse import Instruction, registers


def load(i: Instruction) -> Step:
    """ld.param, ld.global and ld.shared, of one value or a vector."""
    if i.opcode[1] == "param":
        name, write = i.operands[1].strip("[] "), target(i.operands[0])
        return lambda block, mask: write(block, np.broadcast_to(block.parameters[name], block.threads), mask)
    place, writes, dtype = address(i.operands[1]), [target(x) for x in registers(i.operands[0])], dtype_of(i.opcode[-1])
    size, shared = np.dtype(dtype).itemsize * len(writes), _is_shared(i)

    def step(block: Block, mask: Value | None) -> None:
        active = block.everyone if mask is None else mask
        data = (block.shared if shared else block.memory).read(place(block), size, active, i.text).view(dtype)
        for column, write in enumerate(writes):
            write(block, data[:, column].copy(), mask)

    return step


def store(i: Instruction) -> Step:
    """st.global and st.shared."""
    place, kind, shared = address(i.operands[0]), i.opcode[-1], _is_shared(i)
    reads = [source(x, kind) for x in registers(i.operands[1])]

    def step(block: Block, mask: Value | None) -> None:
        active = block.everyone if mask is None else mask
        data = np.ascontiguousarray(np.stack([read(block) for read in reads], 1)).view(np.uint8)
        (block.shared if shared else block.memory).write(place(block), data, active, i.text)

    return step


def _is_shared(i: Instruction) -> bool:
    if i.opcode[1] not in ("global", "shared"):
        raise Fault(f"unknown memory: {i.text}")
    return i.opcode[1] == "shared"


def asynchronous(i: Instruction) -> Step:
    """cp.async: global memory is read now, shared memory changes when its group is waited for."""
    if i.opcode[2] == "commit_group":
        return _commit
    if i.opcode[2] == "wait_group":
        pending = int(i.operands[0], 0)
        return lambda block, mask: _wait(block, pending)
    return _copy(i)


def _copy(i: Instruction) -> Step:
    to, of, size = address(i.operands[0]), address(i.operands[1]), int(i.operands[2], 0)
    taken = source(i.operands[3], "u32") if len(i.operands) > 3 else None

    def step(block: Block, mask: Value | None) -> None:
        active = block.everyone if mask is None else mask
        amount = np.full(block.threads, size) if taken is None else taken(block)
        if not np.isin(amount, (0, size)).all():
            raise Fault(f"part of a copy: {i.text}")
        data = block.memory.read(of(block), size, active & (amount > 0), i.text)
        data[amount == 0] = 0
        place = to(block)
        block.shared.promise(place, size, active, i.text)
        block.copies.append(lambda: block.shared.keep(place, data, active, i.text))

    return step


def _commit(block: Block, mask: Value | None) -> None:
    block.groups.append(block.copies)
    block.copies = []


def _wait(block: Block, pending: int) -> None:
    while len(block.groups) > pending:
        for arrive in block.groups.pop(0):
            arrive()


def barrier(i: Instruction) -> Step:
    """bar.sync of the whole block."""
    return lambda block, mask: block.shared.barrier()
