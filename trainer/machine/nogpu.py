"""Why torch computes on no GPU of this machine, and what to do about it."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

import torch

from galore.trainer.common.reading import read_bounded

DRIVER = Path("/proc/driver/nvidia/version")
DEVICES = Path("/dev")  # of card 0 it has nvidia0
VISIBLE = "CUDA_VISIBLE_DEVICES"
INSTALL = "https://pytorch.org/get-started"
# CUDA's release notes, "minor version compatibility": the oldest driver on Linux by CUDA's major version
OLDEST = {11: (450, 80), 12: (525, 60), 13: (580, 0)}


def is_card_here() -> bool:
    """Whether an NVIDIA card is in the machine, by its driver or its device, which torch need not know."""
    return DRIVER.exists() or (DEVICES / "nvidia0").exists()


def why_no_gpu() -> tuple[str, str]:
    """(why torch finds no GPU, what to do where there is one)."""
    cuda = torch.version.cuda
    if cuda is None:
        return "this torch is built for CPUs only", f"install its CUDA build: {INSTALL}"
    if not is_card_here():
        return "no NVIDIA driver is loaded", "install the driver of the card; start a container with --gpus all"
    if (hidden := _hidden()) is not None:
        return f"{VISIBLE}={hidden!r} names no card that is here", f"unset {VISIBLE}, or name a card of nvidia-smi -L"
    version, needed = _driver(), OLDEST.get(int(cuda.partition(".")[0]))
    if version and needed and version < needed:
        here, least = (".".join(map(str, each)) for each in (version, needed))
        what = f"the driver {here} is too old for this torch's CUDA {cuda}, which needs {least}"
        return what, f"update the driver, or install a torch for an older CUDA: {INSTALL}"
    return (
        f"the driver gives CUDA {cuda} no device",
        "see whether nvidia-smi lists the card; if not, restart the machine",
    )


def idle_card(asked: str) -> str:
    """The card that a run on the CPU leaves idle though it `asked` for any device, and why; empty where none is."""
    if asked != "auto" or not is_card_here():
        return ""
    why, fix = why_no_gpu()
    return f"an NVIDIA card is in this machine and not used: {why}; {fix}"


def _hidden() -> str | None:
    """$CUDA_VISIBLE_DEVICES where its first word is no number of a card here: CUDA heeds nothing behind such a one."""
    value = os.environ.get(VISIBLE)
    if value is None:
        return None
    first = value.partition(",")[0].strip()
    if first.startswith(("GPU-", "MIG-")):
        return None
    cards = len([each for each in DEVICES.glob("nvidia*") if re.fullmatch(r"nvidia\d+", each.name)])
    return None if first.isdecimal() and (cards == 0 or int(first) < cards) else value


def _driver() -> tuple[int, int] | None:
    """(major, minor) of the driver's version, as it says itself."""
    text = ""
    with suppress(OSError):
        text = read_bounded(DRIVER).decode(errors="replace")
    found = re.search(r"Kernel Module.*?\s(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None
