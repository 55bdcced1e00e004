"""The optimizer family in words: its options, each declared once, and defaults that depend on others.

Torch-free: of these declarations the keywords of `GaLoreAdamW`, its param groups, the section `optim` of a recipe and
the texts of help are made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

ProjType = Literal["svd", "randomized", "power", "dct", "random"]
Side = Literal["auto", "left", "right"]
InnerRule = Literal["adamw", "adafactor", "muon", "normuon", "sumo", "racs", "soap", "scale", "scale-momentum"]
Transport = Literal["keep", "reset", "rotate", "complete"]
Residual = Literal[
    "none",
    "sampled",
    "fira",
    "apollo",
    "apollo-mini",
    "frugal",
    "columns",
    "alice",
    "orthogonal",
    "joint",
    "joint-4bit",
]
ProjectorDtype = Literal["float32", "bfloat16", "int8", "int4"]
RefreshMode = Literal["delayed", "two-pass", "summed", "first-micro-batch"]
GradientSums = Literal["device", "host"]
UpdateMode = Literal["accumulate", "immediate"]
Convention = Literal["paper", "reference"]
StateDtype = Literal["float32", "8bit", "fp8", "4bit"]
WeightRounding = Literal["stochastic", "nearest", "compensated"]

SKETCHABLE = ("randomized", "power", "dct")  # kinds of subspace that a linear sketch is enough for
ON_SKETCHES = ("delayed", "two-pass")
GALORE_SCALE = 0.25  # α of the paper
ALICE_SCALE = 0.4  # α_c of the paper
WITHOUT_WHOLE = ("none", "sampled")  # residuals that need no whole gradient
INSIDE_ONLY = ("none", "apollo", "apollo-mini")  # residuals that add nothing to P N
FROM_MOMENTUM = ("muon", "normuon")  # inner rules that a residual can give a momentum
GIVING_MOMENTUM = ("joint", "joint-4bit")  # residuals that do
MOMENTA = (*FROM_MOMENTUM, "sumo", "scale-momentum")  # inner rules whose state is a momentum, which bears 4 bits
WITH_MOMENTUM = (*MOMENTA, "scale")  # and one that has a momentum at the head
MOST_STEPS = 2**31 - 1
SMALLEST, LARGEST = 1.1754943508222875e-38, 3.4028234663852886e38  # what float32 can say with all its digits


def option(default: Any, description: str, execution: bool = False, **limits: float) -> Any:
    """A field of a dataclass with its meaning and the ends of its numbers: gt, ge, lt, le as pydantic calls them.

    One of `execution` alters how a step is carried out, not what it computes.

    A description says `null` for None, as a recipe does.
    """
    marked = {"json_schema_extra": {"execution": True}} if execution else {}
    return field(default=default, metadata={"description": description, **limits, **marked})


@dataclass(frozen=True, kw_only=True)
class GroupSettings:
    """The options that each param group may have for itself."""

    scale: float | None = option(
        None,
        "α: factor on the update of the target matrices; null is 0.25 for galore and fira, 1 for the others",
        gt=0,
        ge=SMALLEST,
        le=LARGEST,
    )
    update_proj_gap: int = option(
        200, "T: optimizer steps between two refreshes of one layer's subspace", gt=0, le=MOST_STEPS
    )
    proj_type: ProjType = option(
        "randomized",
        "How the subspace is found: full SVD, randomized range finder, one warm power step, columns of a DCT, or drawn from the seed and never stored",
    )
    side: Side = option(
        "auto", "Which side of a weight (m, n) is projected: left is m, right is n, auto the smaller one"
    )
    refresh_overlap: float | None = option(
        None,
        "Lazy refresh: a layer whose subspace kept this share of itself waits twice as long for its next refresh; null never waits",
        gt=0,
        le=1,
    )
    inner: InnerRule = option(
        "adamw",
        "Rule of the update (docs/optimizer.md): AdamW, Adafactor, orthogonalized momentum by Newton-Schulz (muon), its rows of one size (normuon), or exactly (sumo), rows and columns scaled (racs), AdamW along the axes of past gradients (soap), outputs of one norm (scale)",
    )
    momentum: float = option(
        0.95,
        "muon, normuon, sumo, scale-momentum: decay of the momentum, and of the squares of normuon's rows",
        ge=0,
        lt=1,
    )
    transport: Transport | None = option(
        None,
        "What the moments do when a layer's subspace changes: keep (GaLore's paper), start at 0, rotate into the new one, or rotate and complete new directions; null rotates, and keeps with a random subspace or convention: reference",
    )
    residual: Residual = option(
        "none",
        "What is added from outside the subspace (docs/optimizer.md); all but none and sampled keep the whole gradient until the step",
    )
    sampled_share: float = option(
        0.2, "sampled: share of a matrix's columns at full rank, by turns of update_proj_gap steps", gt=0, le=1
    )
    residual_scale: float | None = option(
        None,
        "Factor on what the residual adds to the update within the subspace; null is 0.4 for alice, 1 for the others",
        gt=0,
        ge=SMALLEST,
        le=LARGEST,
    )
    switch: float | None = option(
        None,
        "Share of a new basis that is drawn at random from the complement of its leading vectors; null draws none",
        gt=0,
        lt=1,
    )
    projector_dtype: ProjectorDtype | None = option(
        None, "How the projectors are kept; null is the type of the weights, int4 is Q-GaLore's"
    )
    convention: Convention = option(
        "paper",
        "reference: arithmetic order of the official code (epsilon before bias correction, decay after the update, synchronous refresh)",
    )


@dataclass(frozen=True, kw_only=True)
class Options(GroupSettings):
    """All options: those of a group, and those that the groups of one optimizer share."""

    refresh: RefreshMode | None = option(
        None,
        "Which gradient a refresh sees (docs/optimizer.md); null is delayed, and summed for svd and with a residual",
    )
    stagger: bool = option(
        True,
        "Spread the refreshes of the layers over the gap; false refreshes all in one step, as the official code does",
    )
    update: UpdateMode = option(
        "accumulate",
        "accumulate: step after the backward; immediate: inside the hook, no accumulation and no clipping",
    )
    gradient_sums: GradientSums = option(
        "device",
        "Where sums of whole gradients (m, n) wait between micro-batches: those of a residual, of full-rank matrices and embeddings; host is slower",
        execution=True,
    )
    state_dtype: StateDtype = option(
        "float32",
        "Storage of the moments; 8bit is the blockwise dynamic format of bitsandbytes, fp8 e4m3 with the same blocks, 4bit sixteen values by the sizes of rows and columns for the momenta of muon, normuon, sumo and scale-momentum, with 8bit for all else",
    )
    weight_rounding: WeightRounding = option(
        "stochastic",
        "How bfloat16 weights take an fp32 update: rounded, or exactly, the rest kept in 16 more bits; float32 ones need none",
    )


def scale_of(options: GroupSettings, projected: bool) -> float:
    """α in force."""
    if options.scale is not None:
        return options.scale
    return GALORE_SCALE if projected and options.residual in ("none", "fira") else 1.0


def residual_scale_of(options: GroupSettings) -> float:
    """Factor in force on what comes from outside the subspace."""
    return options.residual_scale or (ALICE_SCALE if options.residual == "alice" else 1.0)


def transport_of(options: GroupSettings) -> Transport:
    """What the moments do: a random subspace has no basis to rotate from, and the official code keeps them."""
    found = options.proj_type != "random" and options.convention == "paper"
    return options.transport or ("rotate" if found else "keep")


def refresh_of(options: Options) -> RefreshMode:
    """Which gradient a refresh sees; a random subspace comes from the seed and never asks for one."""
    if options.update == "immediate" or options.proj_type == "random":
        return "first-micro-batch"
    within = options.proj_type in SKETCHABLE and options.residual in WITHOUT_WHOLE
    return options.refresh or ("delayed" if within else "summed")
