"""A decomposition that raises or gives no numbers: every optimizer goes on, counts it, and stays resumable."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from galore.kernels.dct import random_basis
from galore.kernels.decompose import first_finite
from galore.kernels.reference.operations import gram_error
from galore.trainer.optim.projected import ProjectedSlot

from .cases import GAP, PRESETS, Case

FAULTS = ("raises", "gives nan", "cusolver")
NAMES = ("qr", "svd", "eigh", "cholesky", "cholesky_ex")
REFRESHES = ("delayed", "two-pass", "summed", "first-micro-batch")
Break = Callable[[str], None]


def allowed(preset: str, *overrides: str) -> bool:
    try:
        return bool(Case(preset, "wide", *overrides).optimizer)
    except ValueError:
        return False


MODES: list[tuple[str, ...]] = [(), *((f"optim.refresh={mode}",) for mode in REFRESHES)]
RUNS = [
    (preset, overrides, fault)
    for (preset, overrides), fault in zip(itertools.product(PRESETS, MODES), itertools.cycle(FAULTS))
    if not overrides or ("refresh" not in " ".join(PRESETS[preset]) and allowed(preset, *overrides))
]  # in turns: 5 modes, 3 faults


@pytest.fixture
def break_all(monkeypatch: pytest.MonkeyPatch) -> Break:
    """Let every decomposition of torch's fail from now on, in the way that is named."""

    def broken(original: Any, fault: str) -> Any:
        def function(*args: Any, **kwargs: Any) -> Any:
            if fault == "raises":
                raise torch.linalg.LinAlgError("did not converge")
            if fault == "cusolver":
                raise RuntimeError("cusolver error: CUSOLVER_STATUS_EXECUTION_FAILED")
            found = original(*args, **kwargs)
            parts = [part * torch.nan if part.is_floating_point() else part for part in found]
            return type(found)(parts) if isinstance(found, tuple) else found * torch.nan

        return function

    def break_now(fault: str) -> None:
        for name in NAMES:
            monkeypatch.setattr(torch.linalg, name, broken(getattr(torch.linalg, name), fault))

    return break_now


def take(case: Case, gradient: Tensor) -> int:
    """One step; returns how often something fell back in it."""
    if case.optimizer.wants_sketch_pass:
        with case.optimizer.sketching():
            (case.weight * gradient).sum().backward()
    (case.weight * gradient).sum().backward()
    case.optimizer.step()
    report = case.optimizer.report
    assert report is not None
    assert not report.skipped
    return report.fallbacks


def is_finite(case: Case) -> bool:
    tensors = [case.weight, *case.optimizer.state_tensors().values()]
    return all(bool(torch.isfinite(tensor.float()).all()) for tensor in tensors)


def decomposes(case: Case) -> bool:
    found = case.projected and case.optim.proj_type not in ("dct", "random")
    return found or case.optim.inner == "sumo"


@pytest.mark.parametrize(("preset", "overrides", "fault"), RUNS)
def test_training_begins_without_any_decomposition(
    preset: str, overrides: tuple[str, ...], fault: str, break_all: Break
) -> None:
    break_all(fault)
    case = Case(preset, "wide", *overrides)
    counts = [take(case, gradient) for gradient in itertools.islice(case.gradients(), GAP + 2)]
    assert is_finite(case)
    assert (counts[0] > 0) == (decomposes(case) or case.optim.inner == "soap")  # its axes, at first and every ten steps
    slot = case.slot
    if isinstance(slot, ProjectedSlot) and slot.subspace.orthonormal:
        bf16 = slot.subspace.format.dtype == torch.bfloat16
        assert float(gram_error(slot.projector)) < (5e-3 if bf16 else 1e-6)
    same = Case(preset, "wide", *overrides)
    with torch.no_grad():
        same.weight.copy_(case.weight)
    same.optimizer.load_state_tensors(case.optimizer.state_tensors(), case.optimizer.clock)
    gradient = next(case.gradients())
    assert take(case, gradient) == take(same, gradient)
    assert torch.equal(case.weight, same.weight)


@pytest.mark.parametrize(("preset", "overrides", "fault"), RUNS)
def test_the_old_basis_goes_on_until_a_new_one_is_found(
    preset: str, overrides: tuple[str, ...], fault: str, break_all: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(preset, "wide", *overrides)
    gradients = list(case.gradients())
    for gradient in gradients[:3]:
        assert take(case, gradient) == 0
    before = {name: tensor.clone() for name, tensor in case.slot.state.items() if name.startswith("projector")}
    break_all(fault)
    counts = [take(case, gradient) for gradient in gradients[3 : GAP + 2]]
    assert is_finite(case)
    assert (sum(counts) > 0) == decomposes(case)
    kept = [torch.equal(case.slot.state[name], tensor) for name, tensor in before.items()]
    if case.optim.proj_type != "dct":
        assert all(kept)
    monkeypatch.undo()
    assert sum(take(case, gradient) for gradient in gradients[GAP + 2 : 3 * GAP + 2]) == 0
    changed = [not torch.equal(case.slot.state[name], tensor) for name, tensor in before.items()]
    assert all(changed)
    assert is_finite(case)


@pytest.mark.parametrize("refresh", ["delayed", "two-pass", "summed", "first-micro-batch"])
@pytest.mark.parametrize("proj_type", ["svd", "randomized", "power", "dct"])
def test_a_gradient_of_zeros_finds_no_basis(proj_type: str, refresh: str) -> None:
    """As that of a layer behind a head which starts at zero: no direction leads, the first of the weight no more than
    others."""
    options = (f"optim.proj_type={proj_type}", f"optim.refresh={refresh}", f"optim.stagger={refresh != 'two-pass'}")
    try:
        case = Case("galore", "wide", *options)
    except ValueError:
        pytest.skip(f"no {refresh} with {proj_type}")
    assert isinstance(case.slot, ProjectedSlot)
    zeros = torch.zeros_like(case.weight)
    assert take(case, zeros) > 0
    if proj_type != "dct":  # whose vectors are r columns of one basis, whichever they are
        assert float(gram_error(case.slot.projector)) < 1e-5
        assert bool((case.slot.projector != 0).any(1).all())
    gradients = list(case.gradients())
    sum_of = [take(case, gradient) for gradient in gradients[: 2 * GAP]]
    assert sum(sum_of) == 0
    found = case.slot.projector.clone()
    assert sum(take(case, zeros) for _ in range(2 * GAP)) > 0
    assert torch.equal(case.slot.projector, found)


def test_a_shortage_of_memory_is_no_fault_of_a_decomposition() -> None:
    def no_memory() -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        first_finite(no_memory, lambda: torch.ones(3))


def test_a_random_basis_is_orthonormal_and_a_function_of_its_seed() -> None:
    cpu = torch.device("cpu")
    p = random_basis(300, 40, 1, cpu)
    assert float(gram_error(p)) < 1e-5
    assert torch.equal(p, random_basis(300, 40, 1, cpu))
    assert not torch.equal(p, random_basis(300, 40, 2, cpu))
    assert float((p.mean(0)).abs().max()) < 0.5 * 300**-0.5, "signs of rows leave no column constant"
