"""What the device could do at best: a table of published GPU peaks, and one measurement of the CPU."""

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

_T = 1e12

# Dense peaks with float32 accumulation, FLOP/s: (bfloat16 tensor cores, float32 outside them). Names as the driver
# gives them, without "NVIDIA" and "GeForce"; a laptop or cut-down variant has another name and other clocks, so it is
# not here.
# Sources: NVIDIA's product datasheets (data center) and architecture white papers (GeForce). Sparsity is never counted.
GPU_PEAKS: dict[str, tuple[float, float]] = {
    # Blackwell GeForce: RTX Blackwell GPU architecture white paper, "peak FP16/BF16 tensor with FP32 accumulate"
    "RTX 5090": (209.5 * _T, 104.8 * _T),
    "RTX 5080": (112.6 * _T, 56.3 * _T),
    "RTX 5070 Ti": (87.9 * _T, 43.9 * _T),
    "RTX 5070": (61.7 * _T, 30.9 * _T),
    # Ada GeForce: Ada GPU architecture white paper; 512 tensor and 256 float32 FLOP per SM and clock
    "RTX 4090": (165.2 * _T, 82.6 * _T),
    "RTX 4080 SUPER": (104.4 * _T, 52.2 * _T),
    "RTX 4080": (97.5 * _T, 48.7 * _T),
    "RTX 4070 Ti SUPER": (88.2 * _T, 44.1 * _T),
    "RTX 4070 Ti": (80.2 * _T, 40.1 * _T),
    "RTX 4070": (58.3 * _T, 29.1 * _T),
    "RTX 4060 Ti": (44.1 * _T, 22.1 * _T),
    "RTX 4060": (30.2 * _T, 15.1 * _T),
    # Ampere GeForce: GA102 white paper; the same rates. The RTX 3080 is left out: two cards of that name differ
    "RTX 3090 Ti": (80.0 * _T, 40.0 * _T),
    "RTX 3090": (71.0 * _T, 35.6 * _T),
    "RTX 3070": (40.6 * _T, 20.3 * _T),
    "RTX 3060": (25.5 * _T, 12.7 * _T),
    # Data center: datasheets; those that print the sparse figure are halved
    "A100-SXM4-40GB": (312.0 * _T, 19.5 * _T),
    "A100-SXM4-80GB": (312.0 * _T, 19.5 * _T),
    "A100-PCIE-40GB": (312.0 * _T, 19.5 * _T),
    "A100 80GB PCIe": (312.0 * _T, 19.5 * _T),
    "A30": (165.0 * _T, 10.3 * _T),
    "L4": (121.0 * _T, 30.3 * _T),
    "L40S": (362.0 * _T, 91.6 * _T),
    "H100 80GB HBM3": (989.4 * _T, 66.9 * _T),
    "H100 NVL": (835.5 * _T, 60.0 * _T),
    "H100 PCIe": (756.0 * _T, 51.2 * _T),
    "H200": (989.4 * _T, 66.9 * _T),
}

# Power limit of the whole board as published, watts: NVIDIA's product pages and datasheets ("total graphics power",
# "max thermal design power"). Of two sizes or settings under one name it is the higher; boards of other makers take
# up to 10 % more.
GPU_WATTS: dict[str, int] = {
    "RTX 5090": 575,
    "RTX 5080": 360,
    "RTX 5070 Ti": 300,
    "RTX 5070": 250,
    "RTX 4090": 450,
    "RTX 4080 SUPER": 320,
    "RTX 4080": 320,
    "RTX 4070 Ti SUPER": 285,
    "RTX 4070 Ti": 285,
    "RTX 4070": 200,
    "RTX 4060 Ti": 165,
    "RTX 4060": 115,
    "RTX 3090 Ti": 450,
    "RTX 3090": 350,
    "RTX 3070": 220,
    "RTX 3060": 170,
    "A100-SXM4-40GB": 400,
    "A100-SXM4-80GB": 400,
    "A100-PCIE-40GB": 250,
    "A100 80GB PCIe": 300,
    "A30": 165,
    "L4": 72,
    "L40S": 350,
    "H100 80GB HBM3": 700,
    "H100 NVL": 400,
    "H100 PCIe": 350,
    "H200": 700,
}

GEMM_SIZE = 2048


@dataclass(frozen=True)
class Peak:
    """The most a device computes, FLOP/s; None when unknown, and `note` says why."""

    flops_per_second: float | None
    basis: Literal["table", "measured", "unknown"]
    device: str
    note: str = ""


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
    entry = GPU_PEAKS.get(_brief(name))
    if entry is None:
        return Peak(None, "unknown", name, f"{name} is not in the table of GPU peaks; MFU is left out")
    if dtype == torch.bfloat16:
        return Peak(entry[0], "table", name)
    if dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest":  # TF32 is another peak
        return Peak(entry[1], "table", name)
    return Peak(None, "unknown", name, f"no table entry for {dtype} on {name} with these settings; MFU is left out")


def gpu_watts(name: str) -> int | None:
    """Published power limit of the board that the driver calls `name`; None where it is not known."""
    return GPU_WATTS.get(_brief(name))


def _brief(name: str) -> str:
    return name.removeprefix("NVIDIA ").removeprefix("GeForce ")


def cache_dir() -> Path:
    """$GALORE_CACHE, or ~/.cache/galore."""
    return user_path(os.environ.get("GALORE_CACHE") or "~/.cache/galore")


def measure_gemm(dtype: torch.dtype, *, size: int = GEMM_SIZE, repeats: int = 5) -> float:
    """Best of `repeats` products of two size×size matrices on the CPU, FLOP/s."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        a, b = (torch.rand(size, size).to(dtype) for _ in range(2))
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
