"""Run a comparison: every trial that is not done, one after the other, and what the folder holds after each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from galore.trainer.common.durable import replace_file
from galore.trainer.common.errors import RunFailed
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.recipe.schema.resume import changed_mathematics
from galore.trainer.sweep.compare import table
from galore.trainer.sweep.compare.edge import beyond
from galore.trainer.sweep.compare.grid import labels_of, trial_of
from galore.trainer.sweep.compare.plot import draw
from galore.trainer.sweep.compare.standing import differences, own_rates
from galore.trainer.sweep.jobs import Show, is_done, run_trials
from galore.trainer.sweep.options import Trial
from galore.trainer.sweep.outcome import OWN, Beside, Sweep, beside
from galore.trainer.sweep.table import write

MOST_MORE = 2  # learning rates beyond a grid, for each method


def compare(
    base: LoadedRecipe, trials: Sequence[Trial], root: Path, show: Show, extend: int = MOST_MORE, prune: bool = True
) -> Sweep:
    """Run what of `trials` is not done under `root`; write compare.md, .json, .csv, .tex and .png there after each.

    A run that fails is told in the table, and the others go on. Runs that are there, whatever an earlier call named
    their folders, go on or are passed over; those of earlier calls stand beside them.

    Args:
        extend: learning rates at most that are tried beyond the grid of a method whose best lies at its edge.
        prune: whether runs are stopped early that cannot become their method's best.

    Raises:
        UserError: a run that is there was another one. Interrupted: by a signal, all saved.
    """
    firsts = {trial.label: trial for trial in reversed(trials)}
    for label in dict.fromkeys(trial.label for trial in trials):
        rates = own_rates(firsts[label].recipe.optim)
        beside_it = f"; rates of their own: {rates}" if rates else ""
        show.tell(f"{label}: {_changes(base, firsts[label]) or f'{base.name} as it is'}{beside_it}")
    labels, title = labels_of(root / "compare.json"), f"{base.name}: methods compared"
    how = (lambda folder, loaded: trial_of(folder, loaded, labels), partial(differences, base.recipe))
    more = beside(root, trials, 1, *how)

    def written(found: Sweep) -> None:
        plot = partial(draw, found.compared, title)
        write(root, "compare", table.markdown(title, found), table.as_object(found), plot)
        for suffix, text in table.to_publish(found).items():
            replace_file(root / f"compare.{suffix}", text)

    rounds, asked = iter(range(extend)), [*trials]

    def further(_: Sequence[Trial], found: Sweep) -> Sequence[Trial]:
        new = beyond(asked, found, show.tell) if next(rounds, None) is not None else []
        asked.extend(new)
        return placed(new, more, root)

    trials = placed(trials, more, root)
    return run_trials(trials, more, root, show, written, "the same command goes on", RunFailed, further, prune)[0]


def placed(trials: Sequence[Trial], more: Sequence[Beside], root: Path) -> list[Trial]:
    """`trials`, each in the folder under `root` that has its run: an earlier call may have named seed or rate, or not.

    Of several it is one that is done, then its own.
    """
    return [replace(trial, folder=_folder(trial, more, root)) for trial in trials]


def _folder(trial: Trial, more: Sequence[Beside], root: Path) -> str:
    there = [
        each.folder
        for each in more
        if each.trial is not None
        and each.trial.label == trial.label
        and not changed_mathematics(each.trial.recipe, trial.recipe)
    ]
    return min(there, key=lambda folder: (not is_done(root / folder), folder != trial.folder), default=trial.folder)


def _changes(base: LoadedRecipe, trial: Trial) -> str:
    """What a method changes in the recipe; its rates and seeds stand in the table, multiples beside them."""
    rate = base.recipe.optim.learning_rate
    same = trial.recipe.optim.model_copy(update={"learning_rate": rate})
    changes = changed_mathematics(base.recipe, trial.recipe.model_copy(update={"optim": same}))
    return ", ".join(each for each in changes if not each.startswith(tuple(f"{key}:" for key in OWN)))
