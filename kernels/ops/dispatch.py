"""Which implementation of each operation runs for a device and a shape, and why: nothing is chosen silently."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from galore.kernels.device import device_type
from galore.kernels.storage import blockwise

Backend = Literal["auto", "torch", "triton"]
ENVIRONMENT = "GALORE_BACKEND"  # takes the place of "auto"
OLDEST, OLDEST_E4M3 = (8, 0), (8, 9)  # compute capability: bf16 tensor cores, conversions to e4m3
LARGEST = 1 << 31  # elements that the kernels' 32-bit offsets reach
WIDEST_GROUP = 128  # of an int8 weight, in a kernel


class BackendError(RuntimeError):
    """The backend that was asked for cannot do the operation."""


class Choice(NamedTuple):
    """An implementation and the reason."""

    backend: Backend
    why: str


class Path(NamedTuple):
    """One operation, the implementation that runs, and the reason."""

    op: str
    path: str
    why: str


class Case(NamedTuple):
    """One operation on given operands: what speaks against Triton, "" if nothing, and what for it or for torch.

    `fuses` says what the kernel spares beside torch's best sequence; "" where that is nothing, so that `auto` stays with
    torch for the reason in `otherwise`.
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
    if backend not in get_args(Backend):
        raise BackendError(f"there is no backend {backend!r}; there are {', '.join(get_args(Backend))}")
    named = os.environ.get(ENVIRONMENT, "auto") if backend == "auto" else backend
    if named not in get_args(Backend):
        raise BackendError(f"{ENVIRONMENT}={named!r}: there are {', '.join(get_args(Backend))}")
    return named  # type: ignore[return-value]


def unavailable(device: torch.device, *, e4m3: bool = False) -> str:
    """Why Triton's kernels cannot run on `device`, "" if they can; of a GPU that is not here, that they could."""
    if device_type(device) != "cuda":
        return f"Triton's kernels are for CUDA, not {device_type(device)}"
    if device.type == "meta" or not torch.cuda.is_available():
        return ""
    return _unavailable(device.index if device.index is not None else torch.cuda.current_device(), e4m3)


@functools.cache
def _unavailable(index: int, e4m3: bool) -> str:
    if torch.version.hip is not None:
        return "the kernels are tested for NVIDIA cards only"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install 'galore-llm[triton]')"
    capability = torch.cuda.get_device_capability(index)
    if capability < (OLDEST_E4M3 if e4m3 else OLDEST):
        return f"compute capability {capability[0]}.{capability[1]} lacks {'e4m3' if e4m3 else 'bf16 products'}"
    from galore.kernels.triton.selftest import failure

    return failure(index)


def adam(gradient: Tensor, kind: str) -> Case:
    """`adam_direction_` on moments of `kind`."""
    return Case(
        gradient.device,
        _too_large(gradient),
        "moments are read, updated and stored in one pass, in any storage",
        e4m3=kind == "e4m3",
    )


def project_adam(g: Tensor, kind: str) -> Case:
    """`project_adam_`."""
    return Case(g.device, _too_large(g), "R never goes through memory, where blocks allow", e4m3=kind == "e4m3")


def project(g: Tensor, coded: bool) -> Case:
    """`project` with P in codes or as it is."""
    fuses = "P is read as codes" if coded else ""
    return Case(g.device, _too_large(g), fuses, "a matrix product alone is cuBLAS' at best")


def lift(w: Tensor, dense: bool, group: int = 1) -> Case:
    """`lift_update_`; `dense` where something is added beside P N, `group` the codes of an int8 weight under one scale."""
    against = _too_large(w)
    if dense:
        against = "the kernel adds P N and nothing else"
    elif group > WIDEST_GROUP:
        against = f"{group} int8 codes share one scale, and a tile holds {WIDEST_GROUP}"
    fuses = "" if w.dtype == torch.float32 else "P N is rounded into the weight without passing through memory"
    return Case(w.device, against, fuses, "addmm_ in fp32 is one product in place already")


def quantizer(x: Tensor) -> Case:
    """Any quantiser or its inverse, on its own."""
    return Case(x.device, _too_large(x), "one pass")


def _too_large(x: Tensor) -> str:
    return f"{x.numel():,} elements are more than 32-bit offsets reach" if x.numel() >= LARGEST else ""


class Problem(NamedTuple):
    """A weight as the optimizer keeps it, without its memory: (m, n), rank, and how weight, moments and P are stored."""

    shape: tuple[int, int]
    rank: int
    weight: torch.dtype
    moments: str
    coded_projector: bool = False
    dense: bool = False
    group: int = 1

    def __str__(self) -> str:
        return f"{self.shape[0]}×{self.shape[1]} r{self.rank}"


def explain(device: str, problems: Iterable[Problem] = ()) -> list[Path]:
    """The paths taken on `device` ("cpu" or "cuda"), in the order a training step meets them; for every shape given."""
    gemm = (
        "fp32 accumulation and result"
        if device == "cuda"
        else "fp32 accumulation; bf16 result, the CPU GEMM has no wider one"
    )
    return [
        Path("linear_cross_entropy", "torch, chunked", "the logits never exist whole; softmax in fp32"),
        *[path for problem in problems or (_TYPICAL,) for path in _paths(torch.device(device), problem, gemm)],
        Path("8-bit states", *blockwise.path()),
        Path("subspace", "torch.linalg, fp32", "falls back to float64 eigh / QR, counted, where it does not converge"),
    ]


def summary(device: str, problems: Iterable[Problem]) -> list[str]:
    """`explain` of the distinct problems in few lines: `op, op of shape, shape: implementation (reason)`.

    Raises:
        BackendError: the environment asks for a backend that cannot do one of them.
    """
    groups: dict[tuple[str, str], dict[str, list[str]]] = {}
    for problem in dict.fromkeys(problems):
        for op, case in _cases(problem).items():
            chosen = choose(case._replace(device=torch.device(device)))
            shapes = groups.setdefault((chosen.backend, chosen.why), {})
            shapes.setdefault(str(problem), []).append(op)
    lines = []
    for (backend, why), shapes in groups.items():
        by_ops: dict[str, list[str]] = {}
        for shape, ops in shapes.items():
            by_ops.setdefault(", ".join(dict.fromkeys(ops)), []).append(shape)
        lines += [f"{ops} of {', '.join(of)}: {backend} ({why})" for ops, of in by_ops.items()]
    return lines


_TYPICAL = Problem((4096, 11008), 1024, torch.bfloat16, "dynamic")


def _paths(device: torch.device, problem: Problem, gemm: str) -> list[Path]:
    """Of one shape: project, adam, lift_update."""
    shape = f" {problem}" if problem is not _TYPICAL else ""
    cases = _cases(problem)
    if not cases["project"].fuses:
        cases["project"] = cases["project"]._replace(otherwise=gemm)
    return [_path(f"{op}{shape}", _by_torch(op, device, problem), case, device) for op, case in cases.items()]


def _cases(problem: Problem) -> dict[str, Case]:
    weight = torch.empty(*problem.shape, dtype=problem.weight, device="meta")
    return {
        "project": project(weight, problem.coded_projector),
        "adam": adam(weight, problem.moments),
        "lift_update": lift(weight, problem.dense, problem.group),
    }


def _path(op: str, by_torch: str, case: Case, device: torch.device) -> Path:
    try:
        chosen = choose(case._replace(device=device))
    except BackendError as error:
        return Path(op, "none", str(error))
    return Path(op, by_torch if chosen.backend == "torch" else chosen.backend, chosen.why)


def _by_torch(op: str, device: torch.device, problem: Problem) -> str:
    cuda = device.type == "cuda"
    if op == "project":
        return f"torch, {'cuBLAS' if cuda else 'oneDNN / BLAS'}"
    if op == "adam":
        return f"torch, fused, in blocks of {'2²²' if cuda else '2¹⁸'} elements"
    return "torch, addmm_" if problem.weight == torch.float32 else "torch, row blocks"
