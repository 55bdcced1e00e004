"""The methods that verbs know by name: what each is, the settings that make a recipe it, and the line that names it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from galore.trainer.common.format import counted

if TYPE_CHECKING:
    from galore.trainer.recipe.schema.optim import OptimSection

GLUE = "roberta-glue"
GLUE_DEFAULT = f"{GLUE}-galore-r4"


@dataclass(frozen=True)
class Method:
    """One method. `settings`: overrides that make a recipe it; `glue`: its own shipped recipe for GLUE; `rate`: at
    which its target matrices usually move best, in units of that of full-rank AdamW: the middle of its own grid."""

    name: str
    help: str
    settings: tuple[str, ...]
    glue: str | None = None
    rate: float = 1.0


IN_SUBSPACE, OF_COLUMNS, ORTHOGONAL, ADAPTED = 2.5, 5.0, 8.0, 10.0


def _galore(name: str, help: str, *settings: str, glue: str | None = None, rate: float | None = None) -> Method:
    rate = rate or (1.0 if any(each.startswith("optim.residual=") for each in settings) else IN_SUBSPACE)
    return Method(name, help, ("optim.method=galore", *settings), glue, rate)


_ALL = (
    Method("full", "AdamW, the control", ("optim.method=full",), f"{GLUE}-full"),
    Method("full-8bit", "AdamW with 8-bit states", ("optim.method=full", "optim.state_dtype=8bit")),
    Method("adafactor", "at full rank", ("optim.method=full", "optim.inner=adafactor")),
    Method("muon", "at full rank", ("optim.method=full", "optim.inner=muon"), rate=ORTHOGONAL),
    Method("normuon", "Muon, rows of one size", ("optim.method=full", "optim.inner=normuon"), rate=ORTHOGONAL),
    Method(
        "normuon-4bit",
        "its momentum in 4 bits, AdamW's in 8",
        ("optim.method=full", "optim.inner=normuon", "optim.state_dtype=4bit"),
        rate=ORTHOGONAL,
    ),
    Method("racs", "rows and columns scaled, at full rank", ("optim.method=full", "optim.inner=racs")),
    Method("scale", "outputs of one norm, momentum at the head", ("optim.method=full", "optim.inner=scale")),
    _galore("galore", "moments rotate with the subspace", glue=GLUE_DEFAULT),
    _galore("galore-8bit", "with 8-bit states", "optim.state_dtype=8bit"),
    _galore("galore-keep", "moments stay as they are, as in the paper", "optim.transport=keep"),
    _galore("galore-svd", "the same, by exact SVD", "optim.proj_type=svd", "optim.transport=keep"),
    _galore("ldadam", "rotating moments, said explicitly", "optim.transport=rotate"),
    _galore("fira", "the rest of the gradient, scaled", "optim.residual=fira", "optim.transport=keep"),
    _galore("fira-rotate", "with rotating moments", "optim.residual=fira", "optim.transport=rotate"),
    _galore("apollo", "scales channels, random subspace", "optim.residual=apollo", "optim.proj_type=random"),
    _galore(
        "apollo-mini",
        "scales matrices, rank 1",
        "optim.residual=apollo-mini",
        "optim.proj_type=random",
        "optim.rank=1",
    ),
    _galore(
        "q-galore",
        "INT4 projectors, lazy refresh, 8-bit states",
        "optim.state_dtype=8bit",
        "optim.projector_dtype=int4",
        "optim.refresh_overlap=0.4",
        "optim.transport=keep",
    ),
    _galore("dct", "subspace of cosines", "optim.proj_type=dct", "optim.transport=rotate"),
    _galore("sumo", "exact orthogonalization in the subspace", "optim.inner=sumo", "optim.transport=rotate"),
    _galore("galore-muon", "Newton-Schulz in the subspace", "optim.inner=muon", "optim.transport=rotate"),
    _galore(
        "muon-low-rank",
        "momentum in the subspace, the rest beside it",
        "optim.inner=muon",
        "optim.residual=joint",
        "optim.transport=rotate",
        rate=ORTHOGONAL,
    ),
    _galore(
        "normuon-low-rank",
        "the same, rows of one size",
        "optim.inner=normuon",
        "optim.residual=joint",
        rate=ORTHOGONAL,
    ),
    _galore(
        "normuon-joint-4bit",
        "its momentum outside the subspace in 4 bits",
        "optim.inner=normuon",
        "optim.residual=joint-4bit",
        rate=ORTHOGONAL,
    ),
    _galore("galore-soap", "AdamW along the axes of past gradients in the subspace", "optim.inner=soap"),
    _galore(
        "muon-sampled",
        "Newton-Schulz in the subspace, and at full rank in a fifth of the columns by turns",
        "optim.inner=muon",
        "optim.residual=sampled",
        rate=ORTHOGONAL,
    ),
    _galore("galore-adafactor", "Adafactor in the subspace", "optim.inner=adafactor", "optim.transport=rotate"),
    _galore("frugal", "signs of the rest", "optim.residual=frugal", "optim.transport=reset"),
    _galore(
        "frugal-rotate",
        "with rotating moments",
        "optim.residual=frugal",
        "optim.transport=rotate",
        glue=f"{GLUE}-frugal-r4",
    ),
    _galore(
        "frugal-columns",
        "columns of the rest of one norm, times 0.4, rotating moments",
        "optim.residual=columns",
        "optim.residual_scale=0.4",
        rate=OF_COLUMNS,
    ),
    _galore("frugal-orthogonal", "the rest orthogonalized, rotating moments", "optim.residual=orthogonal"),
    _galore(
        "alice",
        "the rest compensated, a basis switched in part",
        "optim.residual=alice",
        "optim.switch=0.7",
        "optim.transport=keep",
    ),
    Method("lora", "adapters", ("optim.method=lora",), f"{GLUE}-lora-r8", ADAPTED),
    Method("relora", "adapters, merged and restarted", ("optim.method=lora", "optim.adapter=relora"), None, ADAPTED),
    Method(
        "low-rank",
        "W = B·A",
        ("optim.method=lora", "optim.adapter=factors", "optim.lora_dropout=0"),
        None,
        ADAPTED,
    ),
)
METHODS = {each.name: each for each in _ALL}


def named(optim: OptimSection) -> Method:
    """The method that a recipe is: of those whose settings it has, the one with most of them."""
    return max((each for each in _ALL if _has(optim, each)), key=lambda each: len(each.settings))


def _has(optim: OptimSection, method: Method) -> bool:
    pairs = (each.removeprefix("optim.").split("=") for each in method.settings)
    return all(value == _written(getattr(optim, key)) for key, value in pairs)


def _written(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def listed() -> str:
    """Every method with what it is, for the help of a verb."""
    return "; ".join(f"{each.name} ({each.help})" for each in _ALL)


RULES = {
    "adamw": "AdamW",
    "adafactor": "Adafactor",
    "muon": "Muon, AdamW beside the target matrices",
    "normuon": "NorMuon, AdamW beside the target matrices",
    "racs": "RACS, AdamW beside the target matrices",
    "soap": "SOAP, AdamW beside the target matrices",
    "scale": "SCALE, momentum at the head, AdamW beside",
    "scale-momentum": "SCALE with momentum, AdamW beside",
}  # what full rank offers


def described(optim: OptimSection) -> str:
    """The method of a recipe in one line, as the header of a run has it."""
    states = f"{optim.state_dtype} states"
    if optim.method == "galore":
        refresh = "" if optim.proj_type == "random" else f", refresh {optim.effective_refresh}"
        refresh += "" if optim.refresh_overlap is None else f", lazy from an overlap of {optim.refresh_overlap}"
        inner = "" if optim.inner == "adamw" else f", {optim.inner}"
        residual = "" if optim.residual == "none" else f", residual {optim.residual}"
        residual += "" if optim.residual_scale is None else f" × {optim.residual_scale}"
        residual += f", {optim.sampled_share:.0%} of the columns sampled" if optim.residual == "sampled" else ""
        residual += "" if optim.switch is None else f", {optim.switch:.0%} of a basis switched"
        transport = f", moments {optim.effective_transport}"
        weights = "" if optim.weight_dtype is None else f", {optim.weight_dtype} weights"
        return (
            f"GaLore r={optim.rank}, α={optim.effective_scale}, T={optim.update_proj_gap}, {optim.proj_type}{refresh}"
            f"{', staggered' if optim.stagger else ''}, update {optim.update}{inner}{residual}{transport}{weights}, {states}"
        )
    if optim.method == "lora":
        return f"{_adapter(optim)}, {states}"
    return f"full-rank {RULES[optim.inner]}, factor {optim.effective_scale} on the target matrices, {states}"


def _adapter(optim: OptimSection) -> str:
    if optim.adapter == "factors":
        return f"products of rank {optim.rank} in place of the target matrices, factor {optim.effective_scale} on them"
    adapter = f"LoRA r={optim.rank}, α={optim.lora_alpha}"
    if optim.adapter != "relora":
        return adapter
    every = "quarter of the run" if optim.relora_gap is None else counted(optim.relora_gap, "step")
    return f"Re{adapter}, merged every {every}"
