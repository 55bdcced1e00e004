"""Facts about this computer and what is installed on it, for `galore doctor`."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
import zlib
from pathlib import Path
from typing import Any

import psutil

import galore
from galore.trainer.recipe.extras import EXTRAS, install

CORE = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
TRITON = "not installed: it comes with torch's CUDA builds on Linux"
BFLOAT16 = {"amx_bf16": "AMX tiles", "avx512_bf16": "AVX-512", "bf16": "Arm BF16"}  # CPU flag → unit, the fastest first


def examine() -> dict[str, Any]:
    """Everything, as JSON can hold it."""
    import torch

    from galore.trainer.machine.hardware import cache_dir
    from galore.trainer.models.attention import all_attention

    gpus = [gpu(index) for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    device = "cuda" if gpus else "cpu"
    return {
        "versions": versions(),
        "cpu": cpu(),
        "gpus": gpus,
        "no_gpu": "" if gpus else no_gpu(),
        "ranks": ranks(bool(gpus)),
        "attention": [vars(each) for each in all_attention(device, "bfloat16")],
        "kernels": kernels(device),
        "disk": [disk("working directory", Path.cwd()), disk("cache", cache_dir())],
    }


def ranks(gpus: bool) -> dict[str, Any]:
    """The processes that torchrun started, after they have met, and what carries their sums."""
    from galore.trainer.parallel.group import join, leave

    group = join("auto" if gpus else "cpu")
    if group is None:
        return {"size": 1, "backend": None, "machines": 1}
    try:
        names = group.gathered(zlib.crc32(platform.node().encode()).to_bytes(8, "little"))
        return {"size": group.size, "backend": group.backend, "machines": len(set(names))}
    finally:
        leave()


def versions() -> dict[str, dict[str, str | None]]:
    """Installed versions; of what is missing, `fix` says how to get it."""
    found: dict[str, dict[str, str | None]] = {
        "galore": {"installed": galore.__version__, "fix": None, "distribution": "galore-llm"},
        "python": {"installed": f"{platform.python_version()} at {sys.executable}", "fix": None},
    }
    for name in CORE:
        found[name] = _version(name, f"not installed: pip install '{name}'")
    for module, extra in EXTRAS.items():
        found[extra.distribution] = _version(extra.distribution, f"not installed: {install(module)}")
    return found | {"triton": _version("triton", TRITON)}


def _version(name: str, fix: str) -> dict[str, str | None]:
    installed = version_of(name)
    return {"installed": installed, "fix": None if installed else fix}


def version_of(name: str) -> str | None:
    """The version of a distribution; None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu() -> dict[str, Any]:
    """Model, cores, memory, and what computes bfloat16."""
    from galore.trainer.machine.hardware import cpu_name

    flags = _cpu_flags()
    unit = next((name for flag, name in BFLOAT16.items() if flag in flags), None)
    return {
        "name": cpu_name(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "bfloat16": f"in hardware, {unit}"
        if unit
        else "no hardware unit is known: set model.dtype=float32 if it is slow",
    }


def _cpu_flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return set()
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    return set(next((line for line in lines if line.startswith(("flags", "Features"))), "").split())


def gpu(index: int) -> dict[str, Any]:
    """One CUDA device as torch and its driver see it."""
    import torch

    free, total = torch.cuda.mem_get_info(index)
    major, minor = torch.cuda.get_device_capability(index)
    return {
        "name": torch.cuda.get_device_name(index),
        "free_bytes": free,
        "memory_bytes": total,
        "compute_capability": f"{major}.{minor}",
        "driver": driver(),
        "cuda": torch.version.cuda,
    }


def driver() -> str | None:
    """Version of the NVIDIA driver; None without driver or without the package that asks it."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None


def no_gpu() -> str:
    """Why torch uses no GPU, and what to do about it where there is one."""
    from galore.trainer.machine.nogpu import is_card_here, why_no_gpu

    why, fix = why_no_gpu()
    return f"no GPU, runs on the CPU: {why}; {'to use the card' if is_card_here() else 'with an NVIDIA card'}: {fix}"


def kernels(device: str) -> list[dict[str, str]]:
    """Which implementation of each operation runs on `device`, and why."""
    from galore.kernels.ops.paths import explain

    return [path._asdict() for path in explain(device)]


def disk(what: str, path: Path) -> dict[str, Any]:
    """Free bytes where `path` is, or will be."""
    there = next(each for each in (path, *path.absolute().parents) if each.exists())
    return {"what": what, "path": str(path), "free_bytes": shutil.disk_usage(there).free}
