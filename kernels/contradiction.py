"""Options of the optimizer that cannot be meant together, each declared once, and told in the words of whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from galore.kernels.family import (
    FROM_MOMENTUM,
    GIVING_MOMENTUM,
    INSIDE_ONLY,
    ON_SKETCHES,
    SKETCHABLE,
    WITH_MOMENTUM,
    WITHOUT_WHOLE,
    InnerRule,
    Options,
    StateDtype,
)


def lacks_momentum(
    state_dtype: StateDtype, inner: Iterable[InnerRule], write: Callable[[str, object], str]
) -> str | None:
    """What is wrong with 4 bits where none of the `inner` rules has a momentum; `write` as in `contradiction`."""
    if state_dtype != "4bit" or any(each in WITH_MOMENTUM for each in inner):
        return None
    rules = ", ".join(each for each in WITH_MOMENTUM if each != "scale-momentum")
    other = write("state_dtype", "8bit")
    return f"{write('state_dtype', state_dtype)} is for the momenta of {rules}, and there are none: set one of these as inner, or {other}"


@dataclass(frozen=True)
class Contradiction:
    """Options that cannot be meant together. In `says` one in braces stands for its name and its value, or for its name
    and the value to give it, {stagger:False}."""

    found: Callable[[Options], bool]
    says: str


ANYWHERE: tuple[Contradiction, ...] = (
    Contradiction(
        lambda o: o.inner != "adamw" and o.convention == "reference",
        "{convention} is that of the official AdamW, which {inner} is not: take inner adamw, or convention paper",
    ),
    Contradiction(
        lambda o: o.update == "immediate" and vars(o).get("max_grad_norm") is not None,
        "{update} steps before all gradients exist, so it cannot clip to {max_grad_norm}: set {max_grad_norm:None}, or "
        "{update:accumulate} (costs one r×n accumulator per layer)",
    ),
    Contradiction(
        lambda o: o.update == "immediate" and o.gradient_sums == "host",
        "{update} keeps no sums that could wait elsewhere: leave out {gradient_sums}, or set {update:accumulate}",
    ),
)
WITHOUT_ONE: tuple[Contradiction, ...] = (
    Contradiction(
        lambda o: o.inner == "sumo",
        "{inner} works in a subspace: take it for matrices with a rank, and adamw or muon here",
    ),
)
IN_A_SUBSPACE: tuple[Contradiction, ...] = (
    Contradiction(
        lambda o: o.transport in ("rotate", "complete") and o.proj_type == "random",
        "{transport} goes from one orthonormal basis to the next, and {proj_type} has none: take keep or reset",
    ),
    Contradiction(
        lambda o: o.transport == "complete" and o.residual in WITHOUT_WHOLE,
        "{transport} needs the whole gradient for what a basis had not, and {residual} keeps none: take rotate, or a "
        "residual such as columns",
    ),
    Contradiction(
        lambda o: o.inner in ("scale", "scale-momentum"),
        "{inner} is of whole gradients, every output of one norm: leave out the subspace, or take residual columns",
    ),
    Contradiction(
        lambda o: o.residual in GIVING_MOMENTUM and o.inner not in FROM_MOMENTUM,
        "{residual} orthogonalizes a momentum together with what is outside the subspace, and {inner} is another rule: "
        "set {inner:muon}, or normuon, or take residual orthogonal",
    ),
    Contradiction(
        lambda o: o.inner == "normuon" and o.residual not in GIVING_MOMENTUM,
        "{inner} brings the rows of a whole update to one size, and {residual} gives it a part: set {residual:joint-4bit}, or "
        "take {inner:muon}",
    ),
    Contradiction(
        lambda o: o.residual == "sampled" and o.inner != "muon",
        "{residual} orthogonalizes a momentum in the subspace and one of columns, and {inner} is another rule: set {inner:muon}",
    ),
    Contradiction(
        lambda o: o.residual == "joint-4bit" and o.proj_type == "random",
        "{residual} keeps what a basis leaves of a momentum, and {proj_type} draws another one: take a subspace that is "
        "found, or residual joint",
    ),
    Contradiction(
        lambda o: o.residual_scale not in (None, 1.0) and o.residual in INSIDE_ONLY,
        "{residual_scale} is a factor on what comes from outside the subspace, where {residual} takes nothing apart: "
        "set {residual_scale:None}",
    ),
    Contradiction(
        lambda o: o.switch is not None and o.proj_type not in ("svd", "randomized", "power"),
        "{switch} keeps the leading vectors of a basis that is found, and those of {proj_type} have no order: take svd, "
        "randomized or power",
    ),
    Contradiction(
        lambda o: o.update == "immediate" and o.refresh not in (None, "first-micro-batch"),
        "{update} refreshes from the gradient inside the hook, {refresh} cannot: take first-micro-batch, or accumulate",
    ),
    Contradiction(
        lambda o: o.refresh in ON_SKETCHES and o.proj_type not in (*SKETCHABLE, "random"),
        "{refresh} works on a linear sketch, which is enough for "
        + ", ".join(SKETCHABLE)
        + "; with {proj_type} take summed or first-micro-batch",
    ),
    Contradiction(
        lambda o: o.refresh in ON_SKETCHES and o.proj_type == "random",
        "{refresh} finds bases, and with {proj_type} they are drawn: set {refresh:None}",
    ),
    Contradiction(
        lambda o: o.refresh == "two-pass" and o.stagger,
        "{refresh} repeats the micro-batches of a refresh step, and with {stagger} nearly every step is one: set "
        "{stagger:False}, or {refresh:delayed}",
    ),
    Contradiction(
        lambda o: o.refresh_overlap is not None and o.proj_type == "random",
        "{refresh_overlap} compares bases that are found, and with {proj_type} they are drawn: set {refresh_overlap:None}",
    ),
    Contradiction(
        lambda o: o.convention == "reference" and (o.stagger or o.proj_type not in ("svd", "random")),
        "{convention} is that of the official code, which refreshes all layers in one step, and not by {proj_type} with "
        "{stagger}: set {stagger:False} and {proj_type:svd} (or random)",
    ),
    Contradiction(
        lambda o: o.residual not in WITHOUT_WHOLE and o.update == "accumulate" and o.refresh not in (None, "summed"),
        "{residual} keeps the whole summed gradient, and a refresh sees that, not what {refresh} says: set {refresh:None}",
    ),
)


def contradiction(options: Options, projected: bool, write: Callable[[str, object], str]) -> str | None:
    """The first one, its options put by `write` into the words of a recipe or of Python; None where all agree.

    Args:
        projected: whether there is a subspace at all.
    """
    for each in ANYWHERE + (IN_A_SUBSPACE if projected else WITHOUT_ONE):
        if each.found(options):
            return each.says.format(**{name: _Told(name, value, write) for name, value in vars(options).items()})
    return None


@dataclass(frozen=True)
class _Told:
    """An option as `says` names it."""

    name: str
    value: object
    write: Callable[[str, object], str]

    def __format__(self, other: str) -> str:
        return self.write(self.name, {"None": None, "False": False}.get(other, other) if other else self.value)
