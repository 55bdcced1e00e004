"""Which settings of the optimizer contradict each other, and what to write instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from galore.trainer.recipe.optim_section import OptimSection

ON_SKETCHES = ("delayed", "two-pass")


def check_optimizer(optim: OptimSection) -> None:
    """Raise ValueError for the first contradiction."""
    if optim.proj_type == "svd" and optim.effective_refresh in ON_SKETCHES:
        raise ValueError(
            f"refresh: {optim.refresh} works on a linear sketch and needs proj_type: randomized; with svd choose summed or first-micro-batch"
        )
    if optim.refresh == "two-pass" and optim.stagger:
        raise ValueError(
            "refresh: two-pass repeats the micro-batches of a refresh step; with stagger: true nearly every step is one; set stagger: false, or refresh: delayed"
        )
    as_published = not optim.stagger and optim.proj_type != "randomized"
    if optim.convention == "reference" and optim.method == "galore" and not as_published:
        raise ValueError("convention: reference means stagger: false and proj_type: svd (or random)")
    if optim.residual != "none":
        _check_residual(optim)
    if optim.update == "immediate":
        _check_immediate(optim)


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
