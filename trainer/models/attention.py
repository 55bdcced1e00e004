"""Which attention kernels can run here, and why the others cannot."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import get_args

import torch

from galore.trainer.common.errors import UserError
from galore.trainer.recipe.schema.model import ModelSection

IMPLEMENTATIONS: tuple[str, ...] = get_args(ModelSection.model_fields["attn_implementation"].annotation)


@dataclass(frozen=True)
class Availability:
    """One attention kernel: `reason` says why it cannot run, or what it will run as."""

    name: str
    available: bool
    reason: str


def check_attention(name: str, device: str, dtype: str) -> None:
    """Refuse an attention kernel that cannot run on `device` with weights of `dtype`.

    Raises:
        UserError: with the reason, and the kernel to take instead.
    """
    found = availability(name, device, dtype)
    if not found.available:
        raise UserError(
            f"{name} cannot run here: {found.reason}",
            where="model.attn_implementation",
            fix="set model.attn_implementation: sdpa",
        )


def attention_on(section: ModelSection, device: str) -> str:
    """The kernel a network is built with: on `device="meta"` none runs, and flash attention need not be installed."""
    flash_on_meta = device == "meta" and section.attn_implementation == "flash_attention_2"
    return "sdpa" if flash_on_meta else section.attn_implementation


def all_attention(device: str, dtype: str) -> list[Availability]:
    """Every kernel a recipe may name, in the order of the schema, with its reason."""
    return [availability(name, device, dtype) for name in IMPLEMENTATIONS]


def availability(name: str, device: str, dtype: str) -> Availability:
    """Whether kernel `name` runs on `device` ("cpu", "cuda", "cuda:1") with `dtype` ("float32", "bfloat16")."""
    if name not in IMPLEMENTATIONS:
        return Availability(name, False, f"unknown; there are {', '.join(IMPLEMENTATIONS)}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        return Availability(name, False, "torch finds no CUDA device")
    if name != "flash_attention_2":
        return Availability(name, True, _RUNS_AS[name])
    obstacle = _flash_obstacle(device, dtype)
    return Availability(name, obstacle is None, obstacle or "flash-attn kernels")


_RUNS_AS = {
    "sdpa": "torch.nn.functional.scaled_dot_product_attention picks its fastest kernel",
    "eager": "plain matrix products; keeps the whole (s, s) attention matrix of every head",
}


def _flash_obstacle(device: str, dtype: str) -> str | None:
    if not device.startswith("cuda"):
        return f"it needs a CUDA device, and this run is on {device}"
    if dtype == "float32":
        return "it has no float32 kernels; set model.dtype: bfloat16 to use it"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"it needs compute capability 8.0, and this GPU has {major}.{minor}"
    if find_spec("flash_attn") is None:  # transformers would otherwise fetch a kernel from the hub by itself
        return "the package flash-attn is not installed"
    return None
