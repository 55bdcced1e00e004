"""`kill -9` at a file operation of a run, once or twice, and `--resume`: the same bits, rows and names as without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from prove.runs import METHODS, Runs, different, nothing_there, outcome
from prove.shim import Fault, How, Operation, distinct, operations
from prove.trials import Trials

KILLS_A_METHOD = 4
TWICE = 1  # of them are killed again while they resume
SECOND = 120  # operations among which the second kill comes


class Kill(NamedTuple):
    method: str
    operation: Operation
    fault: Fault
    again: Fault | None

    def __str__(self) -> str:
        twice = f", and resumed {self.again}" if self.again else ""
        return f"{self.method}: {self.fault}, {self.operation.name} {Path(self.operation.path).name}{twice}"


def prove(trials: Trials) -> None:
    runs = Runs(trials)
    methods = ["galore"] if trials.sample else list(METHODS)
    for method in trials.some(methods, "methods", least=8):
        base = runs.galore(
            runs.words(trials.folder / method, method), fault=Fault(), watch=[trials.folder / method], log=_log(trials)
        )
        if not trials.check("a run left alone", base.code == 0, f"{method}: {base}"):
            continue
        expected, life = outcome(trials.folder / method), operations(_log(trials))
        for kill in trials.some(_kills(trials, method, life), f"kills of {method}", least=1):
            _try(trials, runs, kill, expected)
        if method == "galore":
            early = _early(life)
            for kill in trials.some(early, "kills before the first step", sample=1, least=5):
                _try(trials, runs, kill, expected)
        trials.fresh(method)


def _log(trials: Trials) -> Path:
    return trials.folder / "log"


def _kills(trials: Trials, method: str, life: list[Operation]) -> Iterator[Kill]:
    """Random moments of a run's life; the first of them has a checkpoint to go on from, and is followed by another kill."""
    places = distinct(life)
    saves = [op.number for op in places if op.name == "rename" and Path(op.path).name.startswith("step-")]
    between = [op for op in places if saves[0] < op.number < saves[-1]]
    for number in range(2 if trials.sample else KILLS_A_METHOD):
        operation = trials.rng.choice(between if number < TWICE else places)
        how = trials.rng.choice((How.KILL_BEFORE, How.KILL_HALF))
        again = Fault(trials.rng.choice((How.KILL_BEFORE, How.KILL_HALF)), trials.rng.randint(1, SECOND))
        yield Kill(method, operation, Fault(how, operation.number), again if number < TWICE else None)


def _early(life: list[Operation]) -> list[Kill]:
    """Every operation before the first row is written, killed before it and within it."""
    first = next(op.number for op in life if op.name == "write" and op.path.endswith("metrics.jsonl"))
    return [
        Kill("galore", operation, Fault(how, operation.number), None)
        for operation in life
        if operation.number <= first
        for how in (How.KILL_BEFORE, How.KILL_HALF)
        if how is How.KILL_BEFORE or operation.name == "write"
    ]


def _try(trials: Trials, runs: Runs, kill: Kill, expected: Any) -> None:
    run = trials.fresh("run")
    killed = runs.galore(runs.words(run, kill.method), fault=kill.fault, watch=[run])
    if not trials.check("is killed", killed.code == -9, f"{kill}: {killed}"):
        return
    if kill.again and (run / "recipe.yaml").exists():
        again = runs.finished(run, kill.method, fault=kill.again, watch=[run])
        trials.check("is killed again or ends", again.code in (0, -9), f"{kill}: {again}")
    resumed = runs.finished(run, kill.method)
    if nothing_there(resumed):  # it was killed before there was one
        resumed = runs.galore(runs.words(run, kill.method))
    wrong = f"{resumed}" if resumed.code else different(expected, outcome(run))
    trials.check("same bits, rows and names", wrong is None, f"{wrong}; {kill}")
