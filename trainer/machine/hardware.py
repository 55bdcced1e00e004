"""What the device could do at best: a GPU by its published peak, the CPU by one measurement."""

from __future__ import annotations

import json
import os
import platform
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from galore.trainer.common.durable import make_directory, replace_file
from galore.trainer.common.errors import UserError
from galore.trainer.common.lock import awaited
from galore.trainer.common.reading import read_bounded, user_path
from galore.trainer.machine.gpus import gpu_called

GEMM_SIZE = 2048


@dataclass(frozen=True)
class Peak:
    """The most a device computes, FLOP/s; None when unknown, and `note` says why.

    `of` is the type that it is the peak of, where a run multiplies in a faster one; else empty.
    """

    flops_per_second: float | None
    basis: Literal["table", "measured", "unknown"]
    device: str
    note: str = ""
    of: str = ""


def device_peak(device: str, dtype: torch.dtype) -> Peak:
    """Peak of matrix products in `dtype` on `device`.

    A GPU is looked up by name. The CPU is measured, in a tenth of a second to some seconds; the best measurement per
    model, thread count, type and torch version is remembered in the cache directory.
    """
    if torch.device(device).type == "cuda":
        return gpu_peak(torch.cuda.get_device_name(device), dtype)
    if torch.device(device).type == "cpu":
        return _cpu_peak(dtype)
    return Peak(None, "unknown", device, f"no peak is known for {device}")


def gpu_peak(name: str, dtype: torch.dtype) -> Peak:
    """Peak of the GPU called `name` by the driver."""
    entry = gpu_called(name)
    if entry is None:
        return Peak(None, "unknown", name, f"{name} is not in the table of GPU peaks; MFU is left out")
    if dtype == torch.bfloat16:
        return Peak(entry.tensor, "table", name)
    if dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest":  # TF32 is another peak
        return Peak(entry.shader, "table", name)
    return Peak(None, "unknown", name, f"no table entry for {dtype} on {name} with these settings; MFU is left out")


def cache_dir() -> Path:
    """$GALORE_CACHE, or ~/.cache/galore."""
    return user_path(os.environ.get("GALORE_CACHE") or "~/.cache/galore")


def measure_gemm(dtype: torch.dtype, *, size: int = GEMM_SIZE, repeats: int = 5) -> float:
    """Best of `repeats` products of two size×size matrices on the CPU, FLOP/s."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        a, b = (torch.rand(size, size, dtype=torch.float32).to(dtype) for _ in range(2))
        out = torch.mm(a, b)  # warm-up: packing buffers, thread pool
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            torch.mm(a, b, out=out)
            seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def cpu_name() -> str:
    """The processor as the system calls it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _cpu_peak(dtype: torch.dtype) -> Peak:
    name, threads = cpu_name(), torch.get_num_threads()
    key = f"{name} | {threads} threads | torch {torch.__version__} | {str(dtype).removeprefix('torch.')}"
    file = cache_dir() / "cpu_peaks.json"
    known = _read(file)
    measured = measure_gemm(dtype)  # every time, a tenth of a second: on a busy machine one measurement is too low
    if measured > known.get(key, 0.0):
        known[key] = measured
        _write(file, known)
    return Peak(known[key], "measured", name, f"best {GEMM_SIZE}³ product, {threads} threads")


def _read(file: Path) -> dict[str, float]:
    try:
        entries: Any = json.loads(read_bounded(file))
        return {key: float(value) for key, value in entries.items() if float(value) > 0}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # absent or damaged: measured again


def _write(file: Path, entries: dict[str, float]) -> None:
    """A cache that cannot be written costs one measurement per run, so it is no error."""
    with suppress(OSError, UserError):
        make_directory(file.parent)
        with awaited(file.with_name(f"{file.name}.lock")):
            replace_file(file, json.dumps(entries, indent=2, sort_keys=True))
