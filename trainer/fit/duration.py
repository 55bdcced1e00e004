"""How long a recipe's steps will take on a card: its traced operations, on the card's published figures."""

from __future__ import annotations

from galore.trainer.fit.predict import MICRO_BATCHES
from galore.trainer.fit.rehearsal import ORDINARY, REFRESH
from galore.trainer.machine.cards import Card
from galore.trainer.memory.trace.trace import Trace
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.time.estimate import Estimate, Rates, step_of
from galore.trainer.time.rates import card_rates

PUBLISHED = "the traced operations on the card's published figures, predicted, not measured"


def duration_on(loaded: LoadedRecipe, trace: Trace, card: Card, flops_per_token: int | None) -> Estimate | None:
    """The steps of `trace`, which is of `loaded` on `card`; None where the card's figures are not known."""
    rates = card_rates(card)
    if rates is None:
        return None
    return estimated(loaded, trace, rates, flops_per_token, rates[0].gpu.tensor, PUBLISHED)


def estimated(
    loaded: LoadedRecipe,
    trace: Trace,
    rates: tuple[Rates, Rates],
    flops_per_token: int | None,
    peak: float | None,
    basis: str,
) -> Estimate:
    """The steps of `trace` at (the slowest, the fastest) rates."""
    train = loaded.recipe.train
    accumulation = train.accumulation
    traced = min(MICRO_BATCHES, accumulation)
    phases = {phase for operation in trace.operations for phase, _ in operation.counts}
    kinds = {
        phase: tuple(step_of(trace.operations, phase, traced, accumulation, each) for each in rates)
        for phase in (ORDINARY, REFRESH)
        if phase in phases
    }
    tokens = train.global_batch_size * loaded.recipe.data.max_length
    return Estimate(
        ordinary=kinds.get(ORDINARY) or kinds[REFRESH],
        refresh=kinds.get(REFRESH),
        refreshes=trace.refreshes,
        tokens=tokens,
        flops=None if flops_per_token is None else float(flops_per_token) * tokens,
        peak=peak,
        basis=basis,
    )
