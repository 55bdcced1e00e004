"""What the runs of a sweep came to, from their directories: those a call asks for, and those beside them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from galore.trainer.common.errors import UserError
from galore.trainer.common.printable import masked, shortened
from galore.trainer.recipe.load import LoadedRecipe, recipe_of_run
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.recipe.schema.resume import mathematics
from galore.trainer.record.history import History, most
from galore.trainer.record.row import not_finite
from galore.trainer.record.rundir import RunDir
from galore.trainer.record.shown.plots import smooth
from galore.trainer.sweep.options import Trial
from galore.trainer.tasks.metrics import flat

Curve = tuple[tuple[int, float], ...]  # (tokens, loss)
Scores = Mapping[str, float]  # by metric; of a second split `metric_split`, such as accuracy_mismatched
POINTS = 300  # of a curve of training, at most
LONGEST_WHY = 300  # letters
OWN = ("optim.learning_rate", "train.seed")  # of a trial among those of one label


@dataclass(frozen=True)
class Outcome:
    """One run. `status`: "done", "failed: <why>", "pruned <where and why>", or "not finished". One that came to its end
    failed if its last held-out loss is no number: what it had before is not what it came to.

    `optimizer_bytes`: states and projectors, at most; `peak_bytes`: of the process on a CPU, of the allocator
    on a GPU; `seconds`: in optimizer steps; `training`: the loss, smoothed; `held_out`: that of every evaluation;
    `epochs`: the scores of every evaluation of a task; `differs`: what keeps it from standing beside the others;
    `earlier`: it lay in the folder, and this call did not ask for it; `stopped_early`: after which step, if it was.
    """

    trial: Trial
    status: str
    tokens: int
    optimizer_bytes: int
    peak_bytes: int
    seconds: float
    training: Curve = ()
    held_out: Curve = ()
    epochs: tuple[Scores, ...] = ()
    collapsed: str | None = None
    baseline: Scores = field(default_factory=dict)
    differs: tuple[str, ...] = ()
    earlier: bool = False
    stopped_early: int | None = None

    @property
    def done(self) -> bool:
        return self.status == "done"


@dataclass(frozen=True)
class Beside:
    """A run that lies in the folder: a trial with what it has otherwise, or why it cannot be read."""

    folder: str
    trial: Trial | None
    differs: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Sweep:
    """All runs of a folder: `compared` with each other, each seed once; those that are not, for `other` settings or
    since another run has their seed; and `unread`, folder → why."""

    compared: list[Outcome]
    other: list[Outcome]
    unread: dict[str, str]

    @property
    def undone(self) -> dict[str, str]:
        """What is missing from a table, and why."""
        return {run.trial.folder: run.status for run in self.compared if not run.done} | self.unread

    @property
    def apart(self) -> dict[str, str]:
        """The runs that are not compared, and why."""
        return {run.trial.folder: f"{_came_to(run)}; {', '.join(run.differs)}" for run in self.other}


def _came_to(run: Outcome) -> str:
    """`done, held-out loss 3.2100`, or with the scores of a task."""
    if run.epochs:
        return ", ".join([run.status, *(f"{metric} {100 * value:.2f}" for metric, value in run.epochs[-1].items())])
    return run.status + (f", held-out loss {run.held_out[-1][1]:.4f}" if run.done and run.held_out else "")


def outcome(trial: Trial, root: Path, note: str = "", differs: Sequence[str] = (), *, earlier: bool = False) -> Outcome:
    """The run of `trial` under `root` as it is now; `note`: its status where it is not done."""
    history = History.read(RunDir(root / trial.folder))
    scored = [row for row in history.evaluations if isinstance(row.get("scores"), dict)]
    losses = [(_tokens_at(history, row["step"]), row.get("loss_nats")) for row in history.evaluations]
    diverged = not_finite(history.evaluations[-1]) if history.evaluations else ""
    if "finished" not in history.facts or not (scored or trial.recipe.data.task is None):
        status = note or _broke_off(history)
    else:
        status = failed(f"the last held-out loss is {diverged}") if diverged else "done"
    return Outcome(
        trial,
        status,
        _tokens_at(history, history.last_step),
        history.optimizer_bytes,
        most(history.train["memory_peak_bytes"]),
        history.total("step_seconds"),
        _training(history),
        tuple((tokens, loss) for tokens, loss in losses if loss is not None),
        tuple(flat(row["scores"]) for row in scored),
        scored[-1].get("collapsed") if scored else None,
        flat(history.facts.get("baseline") or {}),
        tuple(differs),
        earlier,
        history.stopped_early,
    )


def _broke_off(history: History) -> str:
    """How a run without an end stands: pruned, failed the last time that it was carried out, or not finished."""
    if "pruned" in history.facts:
        return f"pruned {history.facts['pruned']}"
    ended = history.facts.get("ended")
    if not isinstance(ended, dict) or ended.get("as") != "failed":
        return "not finished"
    last = history.events[-1]["message"] if history.events else "it is not known why"
    return failed(str(ended.get("why") or last))  # earlier versions wrote no reason


def failed(why: str) -> str:
    """The status of a run that failed, in one line."""
    return f"failed: {shortened(masked(' '.join(why.split())), LONGEST_WHY)}"


def _tokens_at(history: History, step: int) -> int:
    """Tokens up to `step`, by the last row that tells them."""
    rows = history.train["tokens"][history.train["step"] <= step]
    known = rows[np.isfinite(rows)]
    return int(known[-1]) if len(known) else 0


def _training(history: History) -> Curve:
    tokens, losses = history.train["tokens"], history.train["loss_nats"]
    every = -(-len(losses) // POINTS) or 1
    losses = smooth(losses, every) if every > 1 else losses
    known = np.isfinite(losses) & np.isfinite(tokens)
    pairs = zip(tokens[known][::every], losses[known][::every], strict=True)
    return tuple((int(at), float(loss)) for at, loss in pairs)


def beside(
    root: Path,
    trials: Sequence[Trial],
    levels: int,
    read: Callable[[str, LoadedRecipe], Trial],
    differences: Callable[[Trial, Sequence[Trial]], Sequence[str]],
) -> list[Beside]:
    """The runs under `root`, those of `trials` too where they began, in the order of their names.

    Args:
        levels: of folders, down to a run.
        read: the trial that a folder is, by its recipe.
        differences: what a trial has otherwise than those that it would stand beside.
    """
    among, found = [*trials], list[Beside]()
    for file in sorted(root.glob("*/" * levels + RunDir(Path()).recipe.name)):
        folder = file.parent.relative_to(root).as_posix()
        try:
            trial = read(folder, LoadedRecipe(recipe_of_run(file), str(file), Path.cwd(), ""))
        except (UserError, OSError) as error:
            why = shortened(" ".join(str(error).split()), LONGEST_WHY)
            found.append(Beside(folder, None, why=f"its recipe cannot be read: {why}"))
            continue
        differs = tuple(differences(trial, among))
        among += [] if differs else [trial]
        found.append(Beside(folder, trial, differs))
    return found


def differing(recipe: Recipe, other: Recipe, ignored: Callable[[str], bool]) -> list[str]:
    """What `recipe` computes otherwise than `other`, apart from keys that are `ignored`: "train.max_steps is 30, not
    20".
    """
    own, others = mathematics(recipe), mathematics(other)
    return [
        f"{key} is {own[key]}, not {others[key]}"
        for key in own
        if key in others and own[key] != others[key] and not ignored(key)
    ]


def sweep(trials: Sequence[Trial], more: Sequence[Beside], root: Path, notes: Mapping[str, str]) -> Sweep:
    """What all of them came to; `notes`: the status of those that are not done, by folder.

    Of several runs of one seed that was asked for is compared, or one that is done.
    """
    own = [outcome(trial, root, notes.get(trial.folder, "")) for trial in trials]
    others = [outcome(each.trial, root, differs=each.differs, earlier=True) for each in more if each.trial is not None]
    alike = [*own, *(each for each in others if not each.differs)]
    counted: dict[Any, Outcome] = {}
    for each in sorted(alike, key=lambda each: (each.earlier, not each.done)):
        counted.setdefault(each.trial.key, each)
    again = [each for each in alike if counted[each.trial.key] is not each]
    return Sweep(
        [each for each in alike if counted[each.trial.key] is each],
        [*(_again(each, counted[each.trial.key]) for each in again), *(each for each in others if each.differs)],
        {each.folder: each.why for each in more if each.trial is None},
    )


def _again(run: Outcome, counted: Outcome) -> Outcome:
    return replace(run, differs=(f"its method, rate and seed are those of {counted.trial.folder}",))


@dataclass(frozen=True)
class Standing:
    """A method at one learning rate, over its seeds."""

    runs: tuple[Outcome, ...]

    @property
    def trial(self) -> Trial:
        return self.runs[0].trial

    @property
    def label(self) -> str:
        return self.trial.label

    @property
    def learning_rate(self) -> float:
        return self.trial.learning_rate

    @property
    def done(self) -> tuple[Outcome, ...]:
        return tuple(run for run in self.runs if run.done)

    @property
    def earlier(self) -> bool:
        """Whether this call asked for none of its runs."""
        return all(run.earlier for run in self.runs)

    @property
    def tried(self) -> bool:
        """Whether any of its runs came to its end, good or bad."""
        return any(run.status != "not finished" for run in self.runs)

    @property
    def broken(self) -> bool:
        """Whether any of them failed, or was stopped early."""
        return any(run.status not in ("done", "not finished") for run in self.runs)

    @property
    def count(self) -> str:
        """How many of its runs are done: `2 of 3`."""
        return f"{len(self.done)} of {len(self.runs)}"


def grouped(outcomes: Sequence[Outcome], key: Callable[[Trial], Hashable]) -> list[tuple[Outcome, ...]]:
    """The runs of each value of `key`, in the order of the first of each."""
    groups: dict[Any, list[Outcome]] = {}
    for each in outcomes:
        groups.setdefault(key(each.trial), []).append(each)
    return [tuple(runs) for runs in groups.values()]
