"""PTX text → parameters, labels and a flat list of instructions."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LABEL = re.compile(r"(\$\w+):\s*(.*)")
_STATEMENT = re.compile(r"(?:@(!?)(%\w+)\s+)?([a-z][\w.:]*)\s*(.*)", re.DOTALL)
_BRACKETS = {"{": 1, "[": 1, "}": -1, "]": -1}


@dataclass(frozen=True)
class Instruction:
    """`opcode` split at its dots; `guard` is the predicate register, "" for none."""

    guard: str
    negated: bool
    opcode: tuple[str, ...]
    operands: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Program:
    """One kernel: its parameters as (type, name), its threads per block, its instructions, and where labels point."""

    parameters: list[tuple[str, str]]
    threads: int
    instructions: list[Instruction]
    labels: dict[str, int]


def parse(ptx: str) -> Program:
    """The one entry of a module."""
    entry = ptx[ptx.index(".visible .entry") :]
    head, body = entry.split("\n{\n", 1)
    parameters = re.findall(r"\.param\s+\.(\w+)[^,\n]*?(\w+_param_\d+)", head)
    threads = re.search(r"\.reqntid (\d+)", head)
    assert threads is not None, "the kernel states no block size"
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in body[: body.index("$L__func_end")].splitlines():
        _line(line.split("//")[0].strip(), instructions, labels)
    return Program(parameters, int(threads[1]), instructions, labels)


def _line(line: str, instructions: list[Instruction], labels: dict[str, int]) -> None:
    if label := _LABEL.match(line):
        labels[label[1]] = len(instructions)
        line = label[2]
    if line.startswith("."):
        return
    for statement in line.split(";"):
        statement = (
            statement.strip().removeprefix("{").removesuffix("}").strip()
            if statement.count("{") != statement.count("}")
            else statement.strip()
        )
        if not statement or statement.startswith((".", "{", "}")):
            continue
        match = _STATEMENT.fullmatch(statement)
        assert match is not None, f"unreadable: {statement}"
        # memory of the block itself, as there is no cluster
        opcode = tuple(match[3].replace("shared::cta", "shared").split("."))
        instructions.append(Instruction(match[2] or "", match[1] == "!", opcode, _split(match[4]), statement))


def _split(text: str) -> tuple[str, ...]:
    """Operands at the commas outside of brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += _BRACKETS.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return tuple(part.strip() for part in parts if part.strip())


def registers(operand: str) -> list[str]:
    """`{ %r1, %r2 }` or `%r1` as names."""
    return [name.strip() for name in operand.strip("{} ").split(",")]
