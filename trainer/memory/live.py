"""Where the memory of a run is, in bytes by category, and what the process holds."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor, nn

from galore.trainer.host.blocks import on_device
from galore.trainer.memory.categories import LASTING
from galore.trainer.optim.parts.shards import local


class MemoryUse(NamedTuple):
    """Bytes. On CUDA what the allocator handed out and, in `reserved`, what it took from the device; on the CPU the
    resident set of the process, the interpreter and its libraries included."""

    current: int
    peak: int
    reserved: int


def by_category(model: nn.Module, optimizer: Any = None) -> dict[str, int]:
    """Bytes that exist now of weights, gradients, optimizer states, projectors and accumulators.

    The optimizer says so itself through `memory_by_category()`; one that has no such method is counted by its state
    tensors. Weights hold the buffers too; a tied weight counts once. Works on the meta device.
    """
    parameters = list(model.parameters())
    sizes = Counter(dict.fromkeys(LASTING, 0))
    sizes["weights"] = _bytes(map(local, on_device(model, parameters)))
    sizes["gradients"] = _bytes(parameter.grad for parameter in parameters if parameter.grad is not None)
    if hasattr(optimizer, "memory_by_category"):
        sizes.update(optimizer.memory_by_category())
    elif optimizer is not None:
        states = (value for state in optimizer.state.values() for value in state.values())
        sizes["optimizer_states"] = _bytes(value for value in states if isinstance(value, Tensor))
    return dict(sizes)


def at_peak(categories: dict[str, int], peak: int, baseline: int = 0) -> dict[str, int]:
    """`categories` with the rest of the peak: activations and temporaries, never negative.

    Args:
        peak: most bytes the process held, from `current_and_peak`.
        baseline: bytes held before the model was built (on the CPU, the interpreter and its libraries).
    """
    rest = peak - baseline - sum(categories.values())
    return {**categories, "activations_and_temporaries": max(0, rest)}


def current_and_peak(device: str | torch.device) -> MemoryUse:
    """What is in use on `device` now and at most so far."""
    device = torch.device(device)
    if device.type == "cuda":
        return MemoryUse(
            torch.cuda.memory_allocated(device),
            torch.cuda.max_memory_allocated(device),
            torch.cuda.memory_reserved(device),
        )
    resident = psutil.Process().memory_info().rss
    return MemoryUse(resident, max(resident, _peak_resident()), resident)


def forget_peak() -> None:
    """Count peaks from here on, in a process that carried out another run: its garbage goes back to the system.

    On a CPU this takes Linux; elsewhere the peak stays that of the process.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # glibc
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM becomes VmRSS


def _peak_resident() -> int:
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
