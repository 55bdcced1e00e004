"""Which settings of the optimizer contradict each other, and what to write instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from galore.trainer.recipe.schema.optim import OptimSection

ON_SKETCHES = ("delayed", "two-pass")
SKETCHABLE = ("randomized", "power", "dct")  # kinds of subspace that a linear sketch is enough for


def check_optimizer(optim: OptimSection) -> None:
    """Raise ValueError for the first contradiction."""
    if optim.proj_type not in SKETCHABLE and optim.effective_refresh in ON_SKETCHES:
        raise ValueError(
            f"refresh: {optim.refresh} works on a linear sketch and needs proj_type: {', '.join(SKETCHABLE)}; with {optim.proj_type} choose summed or first-micro-batch"
        )
    if optim.refresh == "two-pass" and optim.stagger:
        raise ValueError(
            "refresh: two-pass repeats the micro-batches of a refresh step; with stagger: true nearly every step is one; set stagger: false, or refresh: delayed"
        )
    if optim.method == "galore":
        _check_subspace(optim)
    else:
        _check_without_subspace(optim)
    as_published = not optim.stagger and optim.proj_type in ("svd", "random")
    if optim.convention == "reference" and optim.method == "galore" and not as_published:
        raise ValueError("convention: reference means stagger: false and proj_type: svd (or random)")
    if optim.residual != "none":
        _check_residual(optim)
    if optim.update == "immediate":
        _check_immediate(optim)
    _check_adapter(optim)


def _check_subspace(optim: OptimSection) -> None:
    if optim.transport == "rotate" and optim.proj_type == "random":
        raise ValueError(
            "transport: rotate goes from one orthonormal basis to the next; with proj_type: random write keep or reset"
        )
    if optim.weight_dtype == "int8" and optim.weight_rounding == "compensated":
        raise ValueError(
            "weight_rounding: compensated is for bfloat16 weights: with weight_dtype: int8 write stochastic"
        )
    if optim.refresh_overlap is not None and optim.proj_type == "random":
        raise ValueError("refresh_overlap compares bases that are found; with proj_type: random leave it out")
    if optim.inner != "adamw" and optim.convention == "reference":
        raise ValueError("convention: reference is that of the official AdamW: write inner: adamw")


def _check_without_subspace(optim: OptimSection) -> None:
    if optim.inner == "sumo" or (optim.inner != "adamw" and optim.method == "lora"):
        raise ValueError(
            f"inner: {optim.inner} is not for method: {optim.method}; sumo works in a subspace, adapters take adamw"
        )
    if optim.weight_dtype is not None:
        raise ValueError(
            "weight_dtype: int8 is trained through projected gradients: write weight_dtype: null, or method: galore"
        )
    if optim.method == "lora" and optim.rank < 1:
        raise ValueError("rank as a share of min(m, n) is for method: galore; adapters take a whole number")


def _check_residual(optim: OptimSection) -> None:
    if optim.method != "galore":
        raise ValueError(f"residual: {optim.residual} exists for method: galore only")
    if optim.update == "accumulate" and optim.refresh not in (None, "summed"):
        raise ValueError(
            f"residual: {optim.residual} keeps the whole summed gradient, and a refresh sees that: leave out refresh"
        )


def _check_immediate(optim: OptimSection) -> None:
    if optim.method != "galore":
        raise ValueError("update: immediate exists for method: galore only")
    if optim.max_grad_norm is not None:
        raise ValueError(
            "update: immediate steps before all gradients exist, so it cannot clip: set max_grad_norm: null, or update: accumulate (costs one r×n accumulator per layer)"
        )
    if optim.effective_refresh != "first-micro-batch":
        raise ValueError(
            "update: immediate refreshes inside the hook: set refresh: first-micro-batch, or update: accumulate"
        )


def _check_adapter(optim: OptimSection) -> None:
    if optim.adapter is not None and optim.method != "lora":
        raise ValueError(f"adapter: {optim.adapter} exists for method: lora only")
    gap, warmup = optim.relora_gap, optim.relora_warmup_steps
    if optim.adapter != "relora" and (gap is not None or warmup is not None):
        name = "relora_warmup_steps" if gap is None else "relora_gap"
        raise ValueError(f"{name} says when adapters restart: set method: lora and adapter: relora, or leave it out")
    if gap is not None and warmup is not None and warmup >= gap:
        raise ValueError(
            f"relora_warmup_steps: {warmup} would end after the next restart: set it below relora_gap: {gap}"
        )
    if optim.adapter == "factors" and optim.lora_dropout > 0:
        raise ValueError("lora_dropout is of adapters: set it to 0 with adapter: factors")
