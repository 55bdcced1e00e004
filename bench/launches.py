"""Host time of a launch without Triton's way to it, and that the driver is asked for the same; needs a C compiler, no GPU.

    python bench/launches.py [--all] [--update]

Triton's own launchers run, down to the driver, which is a library that does nothing but write launches down (no_driver.c).
Each kernel is launched four times, in turn Triton's way and without: function, grid, threads, shared memory, stream and
every byte of every parameter are those of Triton's way, or the exit code is 1. Aligned tensors, and between multiples of
16. Microseconds of processor time per launch, the least of several rounds. `--all`: everything the compile gate compiles,
minutes; else what stands for all. `--update`: of whole updates, milliseconds of `step()`: 24 layers, 168 projected matrices.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tensors are the processor's

import torch
import triton
from triton.backends.nvidia import driver as nvidia

from galore.kernels.ops import dispatch
from galore.kernels.predict.catalogue import cases, essential
from galore.kernels.triton import direct
from galore.kernels.triton.launch import Launch

HERE = Path(__file__).parent
SIZES = {"i1": 1, "i8": 1, "u8": 1, "i16": 2, "i32": 4, "u32": 4, "fp32": 4, "i64": 8, "u64": 8}
ROUNDS, LAUNCHES = 9, 200
LAYERS, STEPS = 24, 5


class Last(ctypes.Structure):
    """The last launch, as no_driver.c writes it down."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("count", "function", "stream")),
        ("grid", ctypes.c_uint64 * 3),
        ("block", ctypes.c_uint64 * 3),
        ("shared", ctypes.c_uint64),
        ("parameters", ctypes.c_int),
        ("sizes", ctypes.c_int * 126),
        ("bytes", ctypes.c_uint8 * 8 * 126),
    )

    def read(self) -> tuple[Any, ...]:
        """All but the count; of the parameters as many bytes as they have."""
        sizes = self.sizes[: self.parameters]
        parameters = [bytes(each)[:size] for each, size in zip(self.bytes, sizes, strict=False)]
        return self.function, self.stream, *self.grid, *self.block, self.shared, *parameters


def install() -> Last:
    """Let Triton launch through the library; where it writes down."""
    folder = Path(tempfile.mkdtemp())
    library, include = folder / "libcuda.so.1", Path(nvidia.__file__).with_name("include")
    options = ["-O2", "-shared", "-fPIC", f"-I{include}", f"-Wl,-soname,{library.name}"]
    subprocess.run(["cc", *options, HERE / "no_driver.c", "-o", library], check=True)
    os.environ |= {"TRITON_LIBCUDA_PATH": str(folder), "TRITON_CACHE_DIR": str(folder / "cache")}
    loaded = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)  # a later dlopen of its name finds it
    found = nvidia.CudaDriver()
    found.get_current_device, found.get_current_stream = lambda: 0, lambda device: 7
    found.get_device_capability = lambda device: (8, 9)
    triton.runtime.driver.set_active(found)
    return Last.in_dll(loaded, "last")


def real(launch: Launch, offset: int) -> Launch:
    """The launch on memory that nobody touches, each tensor `offset` elements behind a multiple of 16 bytes."""

    def of(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        room = torch.empty(x.untyped_storage().nbytes() // x.itemsize + offset, dtype=x.dtype)
        return room[offset:].as_strided(x.shape, x.stride(), offset)

    return replace(launch, arguments={name: of(x) for name, x in launch.arguments.items()})


def compared(launch: Launch, last: Last) -> tuple[bool, float, float]:
    """Whether both ways ask for the same; microseconds of Triton's way, and without."""
    given, options = {**launch.arguments, **launch.constants}, (launch.warps, launch.stages)

    def ordinary() -> Any:
        return direct.ordinary(launch.kernel, launch.grid, given, options)

    def found() -> None:
        direct.launch(launch.kernel, launch.grid, launch.arguments, launch.constants, options)

    last.parameters = 0  # those of this kernel are known once it is compiled
    kinds = [kind for kind in ordinary().src.signature.values() if kind != "constexpr"]
    sizes = [8 if kind.startswith("*") else SIZES[kind] for kind in kinds] + [8, 8]  # and two scratch buffers
    last.parameters, last.sizes[: len(sizes)] = len(sizes), sizes
    asked = []
    for way in (ordinary, found, ordinary, found):
        ctypes.memset(last.bytes, 0xFF, ctypes.sizeof(last.bytes))
        before = last.count
        way()
        asked.append((last.count - before, last.read()))
    times = [seconds(way) * 1e6 for way in (ordinary, found)]
    return asked.count(asked[0]) == len(asked), times[0], times[1]


def seconds(call: Callable[[], Any]) -> float:
    """Of the processor per call, the least of several rounds: others may use the machine, too."""
    found = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(LAUNCHES):
            call()
        found.append((time.process_time() - start) / LAUNCHES)
    return min(found)


def launches(whole: bool) -> Iterator[tuple[str, Launch]]:
    for name, plan in cases() if whole else essential():
        for launch in plan:
            yield name, real(launch, 0)
            yield f"{name}, between", real(launch, 1)


def update() -> tuple[float, float]:
    """Milliseconds of `step()`, the least of several in turn: Triton's way, and without."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from galore.trainer.optim import GaLoreAdamW, galore_groups

    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "vocab_size": 512}
    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=LAYERS, **sizes)).bfloat16()
    optimizer = GaLoreAdamW(galore_groups(model, rank=16), lr=1e-3, max_grad_norm=1.0, update_proj_gap=10**6)
    ids = torch.randint(512, (2, 32))

    def step() -> float:
        model(input_ids=ids).logits.float().sum().backward()
        optimizer.clip_grad_norm_(1.0)
        start = time.process_time()
        optimizer.step()
        return (time.process_time() - start) * 1e3

    step()
    dispatch.unavailable = lambda device, e4m3=False: ""
    forms, way = direct._forms, lambda kernel: None
    times: dict[Any, list[float]] = {way: [], forms: []}
    for _ in range(STEPS + 1):
        for direct._forms in times:
            times[direct._forms].append(step())
    return min(times[way][1:]), min(times[forms][1:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--update", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    last = install()
    print(f"torch {torch.__version__}, triton {triton.__version__}; {direct.refusal() or 'compiled kernels are found'}")
    if options.update:
        print("one update: {:.1f} ms Triton's way, {:.1f} ms without".format(*update()))
        return 0
    print(f"{'µs per launch':45} {'Triton':>7} {'found':>7}")
    held = True
    for name, launch in launches(options.all):
        same, ordinary, found = compared(launch, last)
        held &= same
        print(f"{name:45} {ordinary:7.1f} {found:7.1f}{'' if same else '  NOT THE SAME'}", flush=True)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
