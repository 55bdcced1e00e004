"""How the methods of a comparison stand: held-out loss over the seeds, and the best learning rate of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from galore.trainer.recipe.schema.optim import OptimSection
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.sweep.options import Trial
from galore.trainer.sweep.outcome import OWN, Outcome, Standing, differing, grouped


@dataclass(frozen=True)
class Compared(Standing):
    """A method at one learning rate, over its seeds that are done."""

    @property
    def losses(self) -> list[float]:
        return [loss for run in self.done if (loss := final_loss(run)) is not None]

    @property
    def loss(self) -> float | None:
        """Mean over the seeds; None where none is done."""
        return mean(self.losses) if self.losses else None

    @property
    def error(self) -> float | None:
        """Standard error of that mean; None of one seed."""
        return stdev(self.losses) / len(self.losses) ** 0.5 if len(self.losses) > 1 else None


def final_loss(run: Outcome) -> float | None:
    """The last held-out loss of a run that is done, nats per token."""
    return run.held_out[-1][1] if run.done and run.held_out else None


def standings(outcomes: Sequence[Outcome]) -> list[Compared]:
    """Methods and learning rates, the lowest mean loss first, rates at which a seed failed, or was stopped early,
    behind the others; those without a result last."""
    found = [Compared(runs) for runs in grouped(outcomes, lambda trial: (trial.label, trial.learning_rate))]
    return sorted(found, key=_standing)


def _standing(each: Compared) -> tuple[bool, bool, float]:
    return each.loss is None, each.loss is not None and each.broken, each.loss or 0.0


def best_of_each(found: Sequence[Compared]) -> list[Compared]:
    """The best learning rate of every method, in the order of `standings`."""
    best: dict[str, Compared] = {}
    for each in found:
        if each.loss is not None:
            best.setdefault(each.label, each)
    return list(best.values())


def own_rates(optim: OptimSection) -> str:
    """The rates of embeddings and head as the recipe has them; "" where there is none."""
    given = {name: getattr(optim, name) for name in optim.peak_rates if name != "learning_rate"}
    return ", ".join(f"{name} {rate if isinstance(rate, str) else f'{rate:g}'}" for name, rate in given.items())


def without_result(outcomes: Sequence[Outcome]) -> list[str]:
    """The methods that failed: of all their runs that this call asked for some did, and none is done."""
    asked = grouped([each for each in outcomes if not each.earlier], lambda trial: trial.label)
    return [runs[0].trial.label for runs in asked if _failed(runs)]


def _failed(runs: Sequence[Outcome]) -> bool:
    return not any(run.done for run in runs) and any(run.status.startswith("failed") for run in runs)


def differences(base: Recipe, trial: Trial, among: Sequence[Trial]) -> list[str]:
    """What keeps `trial` from being compared: another model, other data or steps; in one method any other setting.

    Settings that a method carries, and which its folder names, are its own: all others are those of the recipe `base`.
    """
    same = next((each for each in among if each.label == trial.label), None)
    if same is not None:
        return differing(trial.recipe, same.recipe, OWN.__contains__)
    return differing(trial.recipe, base, lambda key: key in OWN or key.startswith("optim.") or key in trial.folder)
