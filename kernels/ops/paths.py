"""Which implementation runs for the shapes of a run, in words: nothing is chosen silently."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import NamedTuple

import torch

from galore.kernels.ops.dispatch import BackendError, Case, adam, choose, lift, project, quantizer, unavailable
from galore.kernels.ops.fused import softmax
from galore.kernels.storage import blockwise
from galore.kernels.storage.rounding import WIDE


class Path(NamedTuple):
    """One operation, the implementation that runs, and the reason."""

    op: str
    path: str
    why: str


class Problem(NamedTuple):
    """A weight as the optimizer keeps it, without memory: (m, n), rank, and how weight, moments and P are stored."""

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
        _loss(torch.device(device)),
        *[path for problem in problems or (_TYPICAL,) for path in _paths(torch.device(device), problem, gemm)],
        *([] if unavailable(torch.device(device)) else [_launch(), _tiles()]),
        Path("8-bit states", *blockwise.path()),
        momenta(device),
        Path("subspace", "torch.linalg, fp32", "falls back to float64 eigh / QR, counted, where it does not converge"),
    ]


def momenta(device: str) -> Path:
    """What stores momenta in 4 bits, of fewer than 2³¹ elements each."""
    return _path(
        "4-bit momenta",
        "torch, row blocks",
        quantizer(torch.empty(0, device="meta", dtype=torch.float32)),
        torch.device(device),
    )


def _launch() -> Path:
    if importlib.util.find_spec("triton") is None:
        return Path("launch", "Triton's way", "triton is not installed")
    from galore.kernels.triton.direct import refusal

    if reason := refusal():
        return Path("launch", "Triton's way", reason)
    return Path(
        "launch", "compiled kernels are found", "what a kernel was compiled for is asked once, not at each launch"
    )


def _tiles() -> Path:
    from galore.kernels.triton.tuning import origin

    return Path("tiles", *origin())


def _loss(device: torch.device) -> Path:
    found = _path(
        "linear_cross_entropy", "torch", softmax.case(torch.empty(0, dtype=torch.float32, device="meta")), device
    )
    return found._replace(
        path=f"{found.path}, chunked", why=f"the logits never exist whole; softmax in fp32 ({found.why})"
    )


def summary(device: str, problems: Iterable[Problem]) -> list[str]:
    """`explain` of the distinct problems in few lines: `op, op of shape, shape: implementation (reason)`.

    One more where kernels run and a table of tiles that was measured here is not gone by.

    Raises:
        BackendError: the environment asks for a backend that cannot do one of them, or the loss.
    """
    choose(softmax.case(torch.empty(0, dtype=torch.float32, device="meta"))._replace(device=torch.device(device)))
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
    if any(backend == "triton" for backend, _ in groups):
        from galore.kernels.triton.tuning import origin, refusal

        lines += [f"tiles: {', '.join(origin())}"] if refusal() else []
    return lines


_TYPICAL = Problem((4096, 11008), 1024, torch.bfloat16, "dynamic")


def _paths(device: torch.device, problem: Problem, gemm: str) -> list[Path]:
    """The paths of one shape: project, adam, lift_update."""
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
    return "torch, addmm_" if problem.weight in WIDE else "torch, row blocks"
