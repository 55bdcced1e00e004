"""Every optimizer of the family on every shape of weight: against the specification, to the byte and across a resume.

A new optimizer is one line of PRESETS, unless `compare` has it already; a new kind of weight is one line of PROBLEMS.
"""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor

from galore.kernels.reference.operations import gram_error
from galore.kernels.storage import rounding
from galore.trainer.optim.projected import ProjectedSlot
from galore.trainer.optim.slot import ON_HOST
from galore.trainer.recipe.schema.optim import OptimSection

from .cases import GAP, PRESETS, PROBLEMS, STEPS, Case


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a weight is several blocks, and the states of small ones take 8 bits."""
    monkeypatch.setitem(rounding.BLOCK, "cpu", 256)
    monkeypatch.setattr("galore.trainer.optim.parts.storage.SMALLEST_QUANTIZED", 16)


ALL = pytest.mark.parametrize(("preset", "problem"), [(preset, problem) for preset in PRESETS for problem in PROBLEMS])


@ALL
def test_twenty_steps_across_refreshes_equal_the_papers_equations(preset: str, problem: str) -> None:
    case = Case(preset, problem)
    reference, start = case.reference(), case.oriented(case.weight).double()
    changes, last = [], None
    for step, gradient in enumerate(case.gradients()):
        basis = case.take(gradient)
        turned = basis is not None and last is not None and not torch.equal(basis, last)
        changes += [step] if turned else []
        reference.step(case.oriented(gradient), basis, turned)
        last = basis
    moved = (reference.w - start).norm()
    error = float((reference.w - case.oriented(case.weight).double()).norm() / moved)
    assert error < tolerance(case.optim)
    assert changes_are_due(case, changes), changes


def tolerance(optim: OptimSection) -> float:
    """Adam divides small entries of R, with their fp32 rounding, by their own size; and rounding may tip a code."""
    four = optim.residual == "joint-4bit"
    return {"8bit": 5e-3, "4bit": 2e-2}.get(optim.state_dtype, 2e-2 if four else 5e-5)


def changes_are_due(case: Case, changes: list[int]) -> bool:
    """Every GAP steps; one later where the step that finds a basis still uses the old one; not all where laziness may wait
    or the columns of a fixed basis may be chosen again."""
    optim = case.optim
    delayed = (
        optim.effective_refresh == "delayed" and optim.residual in ("none", "sampled") and optim.proj_type != "random"
    )
    turns = [turn + delayed for turn in range(GAP, STEPS, GAP)] if case.projected else []
    if optim.refresh_overlap is not None:
        return set(changes) <= set(turns) and len(changes) >= 2
    return set(changes) <= set(turns) if optim.proj_type == "dct" else changes == turns


@ALL
def test_side_rank_basis_dtypes_and_bytes_are_what_they_should_be(preset: str, problem: str) -> None:
    case = Case(preset, problem)
    for gradient in itertools.islice(case.gradients(), GAP + 2):
        case.take(gradient)
    slot, optim = case.slot, case.optim
    counters = {name: tensor for name, tensor in slot.state.items() if name in ON_HOST}
    kept = {name: tensor for name, tensor in slot.state.items() if name not in ON_HOST}
    assert all(tensor.dtype == torch.int64 for tensor in counters.values())
    assert {name: tensor.dtype for name, tensor in kept.items()} == dtypes_by_hand(case)
    planned = {name: (tensor.shape, tensor.dtype) for name, tensor in slot.planned_state().items()}
    assert {name: (t.shape, t.dtype) for name, t in slot.state.items() if name != "refresh"} == planned
    of_projector = sum(tensor.nbytes for name, tensor in kept.items() if name.startswith("projector"))
    of_state = sum(tensor.nbytes for tensor in kept.values()) - of_projector
    assert (of_state, of_projector) == slot.planned_bytes() == bytes_by_hand(case)
    held = case.optimizer.memory_by_category()
    # the steps taken; until when a layer waits, and how long, or of which draw its state is; the turn of its columns
    drawn = (optim.proj_type, optim.transport) == ("random", "reset")
    counted = 8 + 16 * (optim.refresh_overlap is not None or drawn) + 8 * samples(case)
    assert held["optimizer_states"] == of_state + counted
    assert held["gradients"] == held["accumulators"] == 0
    if isinstance(slot, ProjectedSlot):
        assert (slot.transposed, slot.rank, slot.projector.shape) == (
            case.turned,
            case.rank,
            (case.sides[0], case.rank),
        )
        assert basis_is_sound(slot.projector, optim)


def dtypes_by_hand(case: Case) -> dict[str, torch.dtype]:
    optim, stateless = case.optim, ("racs", "scale")
    both = ("exp_avg", "exp_avg_sq")
    moments = {"adamw": both, "soap": both, **dict.fromkeys(stateless, ())}.get(optim.inner, ("exp_avg",))
    if optim.inner == "adafactor":
        moments = ("exp_avg",) if optim.adam_beta1 > 0 else ()
    expected = dict.fromkeys(moments, torch.float32)
    if bits(case) == 8:
        expected = dict.fromkeys(moments, torch.uint8) | {f"{name}_absmax": torch.float32 for name in moments}
    if bits(case) == 4:
        (name,) = moments
        expected = {name: torch.uint8, f"{name}_rows": torch.float32, f"{name}_columns": torch.float32}
    if keeps_outside(case):
        expected |= {"outside": torch.uint8, "outside_rows": torch.float32, "outside_columns": torch.float32}
    if samples(case):
        expected |= {name.replace("exp_avg", "outside"): dtype for name, dtype in expected.items()}
        if (
            optim.state_dtype == "4bit" and case.sides[1] % 2
        ):  # of which the columns that are sampled are an even number
            expected |= {"outside_rows": torch.float32, "outside_columns": torch.float32}
            del expected["outside_absmax"]
    if optim.inner == "adafactor":
        expected |= {"row": torch.float32, "column": torch.float32}
    if optim.inner == "racs":
        expected |= dict.fromkeys(("row", "column", "norm"), torch.float32)
    if optim.inner == "soap":
        expected |= dict.fromkeys(("gram", "axes"), torch.float32)
    if optim.inner == "normuon":
        expected["row_squares"] = torch.float32
    if optim.residual in ("fira", "apollo", "apollo-mini") or compensates(case):
        expected["residual_norm"] = torch.float32
    if compensates(case):
        expected["residual_squares"] = torch.float32
    if case.projected and optim.proj_type != "random":
        codes = {"int4": torch.uint8, "int8": torch.int8, "bfloat16": torch.bfloat16, None: torch.float32}
        expected["projector"] = torch.int16 if optim.proj_type == "dct" else codes[optim.projector_dtype]
        expected |= {"projector_absmax": torch.float16} if optim.projector_dtype in ("int4", "int8") else {}
    return expected


def bits(case: Case) -> int:
    """Of a number of a moment; two of 4 bits are a byte of one row."""
    odd = case.sides[1] % 2
    return {"8bit": 8, "4bit": 8 if odd else 4}.get(case.optim.state_dtype, 32)


def keeps_outside(case: Case) -> bool:
    """Whether there is a momentum outside the subspace."""
    return case.optim.residual == "joint-4bit" and case.rank < case.sides[0]


def samples(case: Case) -> bool:
    """Whether columns are sampled, whose momentum outside the subspace is kept."""
    return case.optim.residual == "sampled" and case.rank < case.sides[0]


def compensates(case: Case) -> bool:
    """Whether there is something outside the subspace, and Alice's averages of it."""
    return case.optim.residual == "alice" and case.rank < case.sides[0]


def bytes_by_hand(case: Case) -> tuple[int, int]:
    """State and projector: r·b numbers per moment, a·r for P."""
    optim, (a, b), r = case.optim, case.sides, case.rank
    scales = {8: 4 * math.ceil(r * b / 256), 4: 4 * (r + b)}.get(bits(case), 0)
    moment = r * b * bits(case) // 8 + scales
    first = moment * (optim.adam_beta1 > 0)
    rows = 4 * case.problem.matrix[0]
    of_rule = {
        "adamw": 2 * moment,
        "normuon": moment + rows,
        "adafactor": first + 4 * (r + b),
        "racs": 4 * (r + b + 1),
        "soap": 2 * moment + 8 * min(r, b) ** 2,
        "scale": 0,
    }
    state = of_rule.get(optim.inner, moment)
    if keeps_outside(case):
        state += a * b // 2 + 4 * (a + b)
    if samples(case):
        numbers = a * min(b, 2 * math.ceil(optim.sampled_share * b / 2))
        state += {
            "float32": 4 * numbers,
            "8bit": numbers + 4 * math.ceil(numbers / 256),
            "4bit": numbers // 2 + 4 * (a + numbers // a),
        }[optim.state_dtype]
    state += 4 * (optim.residual in ("fira", "apollo", "apollo-mini")) + 4 * (b + 1) * compensates(case)
    scales = 2 * math.ceil(a * r / 128)
    as_it_is = {None: 4 * a * r, "bfloat16": 2 * a * r, "int8": a * r + scales, "int4": math.ceil(a * r / 2) + scales}
    projector = {"random": 0, "dct": 2 * r}.get(optim.proj_type, as_it_is[optim.projector_dtype])
    return state, projector * case.projected


def basis_is_sound(p: Tensor, optim: OptimSection) -> bool:
    """Orthonormal up to the rounding of what it is kept in; a Gaussian's PᵀP is a/r I up to √(a r)/r."""
    if optim.proj_type == "random":
        a, r = p.shape
        return float(gram_error(p * (r / a) ** 0.5)) < 2 * ((r + 1) / a) ** 0.5
    kept = None if optim.proj_type == "dct" else optim.projector_dtype
    return float(gram_error(p)) < {None: 1e-6, "bfloat16": 5e-3, "int8": 1e-2, "int4": 0.2}[kept]


@pytest.mark.parametrize("through", ["tensors", "state_dict"])
@pytest.mark.parametrize("problem", ["tall", "convolution"])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(preset: str, problem: str, through: str) -> None:
    """Broken in the step before the third basis."""
    unbroken, resumed = Case(preset, problem), Case(preset, problem)
    gradients = list(unbroken.gradients())
    for gradient in gradients[: 2 * GAP]:
        unbroken.take(gradient)
    with torch.no_grad():
        resumed.weight.copy_(unbroken.weight)
    if through == "tensors":
        saved = {name: tensor.clone() for name, tensor in unbroken.optimizer.state_tensors().items()}
        resumed.optimizer.load_state_tensors(saved, clock=unbroken.optimizer.clock)
    else:
        resumed.optimizer.load_state_dict(copy.deepcopy(unbroken.optimizer.state_dict()))
    for gradient in gradients[2 * GAP : 3 * GAP + 2]:
        unbroken.take(gradient)
        resumed.take(gradient)
        assert torch.equal(unbroken.weight, resumed.weight)
    ours, theirs = (case.optimizer.state_tensors() for case in (unbroken, resumed))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)
