"""How long a recipe's steps will take on a card: its traced operations, on the card's published figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import torch

from galore.kernels.rules.soap import FREQUENCY
from galore.trainer.common.errors import UserError
from galore.trainer.fit.measure import MICRO_BATCHES as STEP_MICRO_BATCHES
from galore.trainer.fit.measure import step_seconds
from galore.trainer.fit.predict import MICRO_BATCHES, Sample, Sampled, predict
from galore.trainer.fit.rehearsal import FIRST, ORDINARY, REFRESH
from galore.trainer.machine.cards import Card, attached
from galore.trainer.memory.trace.trace import Call, Operation, Trace
from galore.trainer.recipe.change import changed
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.time.estimate import Estimate, Rates, combined, step_of
from galore.trainer.time.rates import card_rates
from galore.trainer.time.replay import Replayed
from galore.trainer.time.work import multiplies_in_eight_bits, tensors

PUBLISHED = "the traced operations on the card's published figures, predicted, not measured"


def duration_on(loaded: LoadedRecipe, trace: Trace, card: Card, flops_per_token: int | None) -> Estimate | None:
    """The steps of `trace`, which is of `loaded` on `card`; None where the card's figures are not known."""
    rates = card_rates(card)
    if rates is None:
        return None
    return estimated(loaded, trace, rates, flops_per_token, rates[0].gpu.tensor, PUBLISHED)


@dataclass(frozen=True)
class Pace:
    """Seconds of an ordinary step of so many micro-batches: its operations one by one, added up, and all together.

    Neither has a move of SOAP's axes in it.
    """

    micro_batches: int
    predicted: float
    measured: float

    def as_json(self) -> dict[str, object]:
        error = (self.predicted - self.measured) / self.measured
        return {**asdict(self), "error_fraction": error}


def pace(loaded: LoadedRecipe, device: torch.device) -> Pace:
    """Time each distinct operation of a step alone on `device`, and whole steps.

    Raises:
        UserError: the model cannot be built or traced. RuntimeError: the device has too little memory.
    """
    trace = predict(loaded, attached() if device.type == "cuda" else None)
    rates = Replayed(device)
    rates.time(trace.operations)
    micro_batches = min(STEP_MICRO_BATCHES, loaded.recipe.train.accumulation)
    traced = min(MICRO_BATCHES, loaded.recipe.train.accumulation)
    predicted = step_of(trace.operations, ORDINARY, traced, micro_batches, rates).seconds
    return Pace(micro_batches, predicted, step_seconds(loaded, device))


def few_blocks(loaded: LoadedRecipe, card: Card, flops_per_token: int | None) -> Estimate | None:
    """`duration_on` from traces of the same model with few blocks; of the whole one where a file has their number.

    None where it cannot be traced, or the card's figures are not known.
    """
    recipe = loaded.recipe
    if card_rates(card) is None:
        return None
    if not recipe.model.has_own_dimensions:
        return _traced(loaded, card, flops_per_token)
    blocks, again = recipe.model.num_hidden_layers, recipe.train.gradient_checkpointing
    redone = blocks if again is True else int(again)
    sampled = Sampled.of(recipe, redone)
    found: list[tuple[float, Estimate]] = []
    for sample, times in (sampled.times(redone) if sampled else {Sample(blocks, redone): 1.0}).items():
        other = changed(loaded, sample.settings)
        if other is None:
            return None
        step = _traced(other, card, flops_per_token)
        if step is None:
            return None
        found.append((times, step))
    return combined(found)


def _traced(loaded: LoadedRecipe, card: Card, flops_per_token: int | None) -> Estimate | None:
    try:
        return duration_on(loaded, predict(loaded, card), card, flops_per_token)
    except UserError:
        return None


def with_axes(loaded: LoadedRecipe, trace: Trace) -> list[Operation]:
    """The operations of `trace`, and what moving SOAP's axes takes, spread over the steps, none of which is traced."""
    optim = loaded.recipe.optim
    soap = "soap" in (optim.inner, optim.head_inner)
    return [*trace.operations, *(_moved_axes(trace.operations) if soap else ())]


def _moved_axes(operations: Iterable[Operation]) -> Iterator[Operation]:
    """A power step with QR for each of the axes that the first step alone finds."""
    for each in operations:
        if getattr(each.call.function, "_overloadpacket", None) is not torch.ops.aten._linalg_eigh:
            continue
        gram = next(tensors(each.call))
        found = {
            stage: count - each.counts.get((ORDINARY, stage), 0)
            for (phase, stage), count in each.counts.items()
            if phase == FIRST
        }
        for function, given, made in (
            (torch.ops.aten.mm.default, (gram, gram), (gram,)),
            (torch.ops.aten.linalg_qr.default, (gram,), (gram, gram)),
        ):
            counts = {
                (phase, stage): count / FREQUENCY for stage, count in found.items() for phase in (ORDINARY, REFRESH)
            }
            yield Operation(Call(function, given, ()), made, None, counts)


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
    operations = with_axes(loaded, trace)
    kinds = {
        phase: tuple(step_of(operations, phase, traced, accumulation, each) for each in rates)
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
        peak_of="bf16" if multiplies_in_eight_bits(trace.operations) else "",
    )
