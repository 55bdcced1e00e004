"""A launch compiled for a GPU that need not be there: the PTX, and what the machine code takes of the card."""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from galore.kernels.triton.launch import Launch

ALIGNMENT = 16  # what a pointer's or integer's divisibility is specialized on
# How Triton calls torch's dtypes in a signature.
NAMES: dict[torch.dtype, str] = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.uint8: "u8",
    torch.int8: "i8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
}
_TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/", re.MULTILINE)
_LABEL = re.compile(r"^(\.L_\w+):")
_BRANCH = re.compile(r"\bBRA\b.*`\((\.L_\w+)\)")
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)")


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes: registers, bytes of stack and local memory per thread, of shared memory per block.

    `tensor_core` counts matrix instructions in the PTX, `instructions` all of the machine code, `loop` those of its
    longest loop, `spills` its loads and stores of local memory.
    """

    registers: int
    stack: int
    local: int
    shared: int
    spills: int
    tensor_core: int
    instructions: int
    loop: int


@dataclass(frozen=True)
class Compiled:
    """PTX and machine code of a launch; `parameters`: the run-time arguments in the order of those of the PTX."""

    launch: Launch
    ptx: str
    cubin: bytes
    shared: int  # bytes of a block
    parameters: list[str]

    @functools.cached_property
    def per_thread(self) -> tuple[int, int, int]:
        """Registers, bytes of stack and of local memory; what has neither of these two spills nothing."""
        usage = _USAGE.search(self._told("cuobjdump", "-res-usage"))
        assert usage is not None, "cuobjdump tells no resource usage"
        registers, stack, local = (int(number) for number in usage.groups())
        return registers, stack, local

    @property
    def tensor_core(self) -> int:
        """Matrix instructions in the PTX."""
        return len(re.findall(r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)\b", self.ptx))

    @functools.cached_property
    def resources(self) -> Resources:
        """All that NVIDIA's tools tell of the machine code; to disassemble it takes a third of a second."""
        machine_code = self._told("nvdisasm", "-c")
        return Resources(
            *self.per_thread,
            self.shared,
            len(re.findall(r"\b(?:LDL|STL)\b", machine_code)),
            self.tensor_core,
            len(_INSTRUCTION.findall(machine_code)),
            _longest_loop(machine_code),
        )

    def _told(self, tool: str, option: str) -> str:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
            cubin.write(self.cubin)
            cubin.flush()
            return subprocess.run(
                [_TOOLS / tool, option, cubin.name], capture_output=True, text=True, check=True
            ).stdout


def compile_launch(launch: Launch, capability: int = 89) -> Compiled:
    """Compile for compute capability `capability` exactly as the launch would be on such a GPU; none is needed."""
    names = launch.kernel.arg_names
    unspecialized = set(launch.kernel.do_not_specialize or ())
    signature, constants, attributes = {}, {}, {}
    for position, name in enumerate(names):
        kind, constant, divisible = _specialized(launch, name, name in unspecialized)
        signature[name] = kind
        if kind == "constexpr":
            constants[(position,)] = constant
        elif divisible:
            attributes[(position,)] = [["tt.divisibility", ALIGNMENT]]
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    parameters = [name for name in names if signature[name] != "constexpr"]
    return Compiled(launch, built.asm["ptx"], built.asm["cubin"], int(built.metadata.shared), parameters)


def _specialized(launch: Launch, name: str, unspecialized: bool) -> tuple[str, Any, bool]:
    """(type, constant, whether it is known to divide by 16) of an argument, as `triton.jit` specializes it."""
    if name in launch.constants:
        return "constexpr", launch.constants[name], False
    value = launch.arguments[name]
    if value is None:
        return "constexpr", None, False
    if isinstance(value, Tensor):
        aligned = value.is_meta or value.data_ptr() % ALIGNMENT == 0
        return f"*{NAMES[value.dtype]}", None, aligned
    if isinstance(value, float):
        return "fp32", None, False
    if unspecialized:
        return "i32", None, False
    if value == 1:
        return "constexpr", 1, False
    return "i32", None, value % ALIGNMENT == 0


def _longest_loop(machine_code: str) -> int:
    """Instructions between a label and the farthest branch back to it; 0 without a loop."""
    count, labels, longest = 0, dict[str, int](), 0
    for line in machine_code.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = count
        elif _INSTRUCTION.match(line):
            count += 1
            if (branch := _BRANCH.search(line)) and branch[1] in labels:
                back = count - labels[branch[1]]
                longest = max(longest, back if back > 2 else 0)  # the last instruction branches to itself
    return longest
