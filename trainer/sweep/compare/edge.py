"""Where the best learning rate of a method lies among those that were tried, and what to try beyond an edge."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from galore.trainer.recipe.change import changed
from galore.trainer.sweep.compare.standing import Compared, best_of_each, standings
from galore.trainer.sweep.options import Trial
from galore.trainer.sweep.outcome import Sweep

Place = Literal["inside", "lowest", "highest", "only one"]
DIGITS = 3  # of a rate that is made here
RATE = re.compile(r"-lr[0-9.e+-]+(?=(-seed\d+)?$)")


def place(each: Compared, every: Sequence[Compared]) -> Place:
    """Where a rate lies among all that were tried with its method; a run that failed or was pruned was tried, too."""
    tried = _tried(each.label, every)
    if len(tried) < 2:
        return "only one"
    return {tried[0]: "lowest", tried[-1]: "highest"}.get(each.learning_rate, "inside")  # type: ignore[return-value]


def beyond(trials: Sequence[Trial], found: Sweep, tell: Callable[[str], None]) -> list[Trial]:
    """The next rate, with every seed, for each method of `trials` whose best is the lowest or highest of theirs: as far
    from it as its neighbour is; none where another call has been beyond.

    What other calls did decides nothing else, so that the same call goes on with the rates that it had found.
    """
    keys = {trial.key for trial in trials}
    own = standings([run for run in found.compared if run.trial.key in keys])
    every, more = standings(found.compared), list[Trial]()
    for best in best_of_each(own):
        if (where := place(best, own)) not in ("lowest", "highest"):
            continue
        tried, here = _tried(best.label, own), best.learning_rate
        rate = float(f"{here**2 / tried[1 if where == 'lowest' else -2]:.{DIGITS}g}")
        further = {each for each in _tried(best.label, every) if (each < here if where == "lowest" else each > here)}
        if rate not in tried and (not further or rate in further):
            tell(f"{best.label}: best at {here:g}, the {where} rate tried; {rate:g} is tried, too")
            mine = [trial for trial in trials if trial.label == best.label]
            more += [_at(trial, rate) for trial in mine if trial.learning_rate == mine[0].learning_rate]
    return more


def _tried(label: str, every: Sequence[Compared]) -> list[float]:
    return sorted(each.learning_rate for each in every if each.label == label and each.tried)


def _at(trial: Trial, rate: float) -> Trial:
    loaded = changed(trial.loaded, {"optim.learning_rate": rate})
    assert loaded is not None
    return replace(trial, loaded=loaded, folder=RATE.sub(f"-lr{rate:g}", trial.folder))
