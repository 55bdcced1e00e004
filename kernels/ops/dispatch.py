"""Which implementation of each operation runs for a device and a shape, and why: nothing is chosen silently."""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from galore.kernels.device import capability, device_type

Backend = Literal["auto", "torch", "triton"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
ENVIRONMENT = "GALORE_BACKEND"  # takes the place of "auto"
OLDEST, OLDEST_E4M3 = (8, 0), (8, 9)  # compute capability: bf16 tensor cores, conversions to e4m3
LARGEST = 1 << 31  # elements apart that the kernels' 32-bit offsets reach
WIDEST_GROUP = 128  # of an int8 weight, in a kernel


class BackendError(RuntimeError):
    """The backend that was asked for cannot do the operation."""


class Choice(NamedTuple):
    """An implementation and the reason."""

    backend: Backend
    why: str


class Case(NamedTuple):
    """One operation on given operands: what speaks against Triton, "" if nothing, and what for it or for torch.

    `fuses` says what the kernel spares beside torch's best sequence; "" where that is nothing, so that `auto` stays
    with torch for the reason in `otherwise`.
    """

    device: torch.device
    against: str
    fuses: str
    otherwise: str = ""
    e4m3: bool = False


def choose(case: Case, backend: Backend = "auto") -> Choice:
    """The implementation that runs.

    Raises:
        BackendError: `backend`, or the environment's, was asked for by name and cannot do it.
    """
    wanted = _wanted(backend)
    reason = case.against or unavailable(case.device, e4m3=case.e4m3)
    if wanted == "triton" and reason:
        raise BackendError(f"backend 'triton' was asked for, but {reason}")
    if wanted == "triton":
        return Choice("triton", "asked for")
    if wanted == "torch":
        return Choice("torch", "asked for")
    if reason:
        return Choice("torch", reason)
    return Choice("triton", case.fuses) if case.fuses else Choice("torch", case.otherwise)


def _wanted(backend: Backend) -> Backend:
    if backend not in BACKENDS:
        raise BackendError(f"there is no backend {backend!r}; there are {', '.join(BACKENDS)}")
    named = os.environ.get(ENVIRONMENT, "auto") if backend == "auto" else backend
    if named not in BACKENDS:
        raise BackendError(f"{ENVIRONMENT}={named!r}: there are {', '.join(BACKENDS)}")
    return named


def unavailable(device: torch.device, *, e4m3: bool = False) -> str:
    """Why Triton's kernels cannot run on `device`, "" if they can; `meta` is asked for the card it stands for alone."""
    if device_type(device) != "cuda":
        return f"Triton's kernels are for CUDA, not {device_type(device)}"
    if device.type == "meta":
        return _too_old(capability(device), e4m3)
    if not _is_here():
        return ""
    return _unavailable(device.index if device.index is not None else torch.cuda.current_device(), e4m3)


@functools.cache
def _is_here() -> bool:
    """Whether there is a card: asked once, as every operation of every layer wants to know."""
    return torch.cuda.is_available()


@functools.cache
def _unavailable(index: int, e4m3: bool) -> str:
    if torch.version.hip is not None:
        return "the kernels are tested for NVIDIA cards only"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install 'galore-llm[triton]')"
    if reason := _too_old(torch.cuda.get_device_capability(index), e4m3):
        return reason
    from galore.kernels.triton.selftest import failure

    return failure(index)


def _too_old(found: tuple[int, int] | None, e4m3: bool) -> str:
    if found is None or found >= (OLDEST_E4M3 if e4m3 else OLDEST):
        return ""
    return f"compute capability {found[0]}.{found[1]} lacks {'e4m3' if e4m3 else 'bf16 products'}"


def adam(gradient: Tensor, kind: str) -> Case:
    """`adam_direction_` on moments of `kind`."""
    return Case(
        gradient.device,
        too_large(gradient),
        "moments are read, updated and stored in one pass, in any storage",
        e4m3=kind == "e4m3",
    )


def project(g: Tensor, coded: bool) -> Case:
    """`project` with P in codes or as it is."""
    fuses = "P is read as codes" if coded else ""
    return Case(g.device, _unfit(g), fuses, "a matrix product alone is cuBLAS' at best")


def lift(w: Tensor, dense: bool, group: int = 1) -> Case:
    """`lift_update_`; `dense` if something is added beside P N, `group` codes of an int8 weight under one scale."""
    against = _unfit(w)
    if dense:
        against = "the kernel adds P N and nothing else"
    elif group > WIDEST_GROUP:
        against = f"{group} int8 codes share one scale, and a tile holds {WIDEST_GROUP}"
    elif not w.is_contiguous():
        against = "the weight's rows do not lie one behind the other"
    fuses = "" if w.dtype == torch.float32 else "P N is rounded into the weight without passing through memory"
    return Case(w.device, against, fuses, "addmm_ in fp32 is one product in place already")


def quantizer(x: Tensor, *others: Tensor) -> Case:
    """Any quantizer or its inverse, on its own, or another pass over matrices: all that its kernel reads and writes."""
    return Case(x.device, too_large(x, *others), "one pass")


def too_large(*operands: Tensor) -> str:
    """What speaks against kernels that reach every element of `operands`, views among them, by their strides."""
    furthest = max(map(reach, operands))
    return f"{furthest:,} elements are more than 32-bit offsets reach" if furthest >= LARGEST else ""


def reach(x: Tensor) -> int:
    """Elements from the first of x to its last as they lie, whatever is between them."""
    if not x.numel():
        return 0
    return 1 + sum((size - 1) * abs(stride) for size, stride in zip(x.shape, x.stride(), strict=True))


def _unfit(x: Tensor) -> str:
    """What speaks against a product of x."""
    return "Triton's kernels compute in fp32, and this is float64" if x.dtype == torch.float64 else too_large(x)
