"""Power cuts: what a verb leaves is on the disk before it bears its name, and a run cut off anywhere can be evaluated."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

from galore.trainer.record.metrics import read_rows
from prove.powercut import Disk, cut
from prove.runs import Runs, different, nothing_there, outcome
from prove.shim import Fault, How, Operation, operations
from prove.trials import Trials
from prove.verbs import Verb, verbs

HOWS = (How.KILL_BEFORE, How.KILL_HALF)


def prove(trials: Trials) -> None:
    runs = Runs(trials)
    runs.made("done")
    for verb in trials.some(verbs(runs), "verbs", least=8):
        _verb(trials, runs, verb)
    life = [operation.number for operation in runs.life(runs.trials.folder / "done")]
    cuts = [(number, how) for number in life for how in (*HOWS, How.KILL_AFTER)]
    for number, how in trials.some(cuts, "power cuts", sample=1, most=30, least=6):
        _cut(trials, runs, Fault(how, number))
    begun = _begun(trials, runs)
    for number, how in trials.some(begun, "kills of a resumption", sample=1, most=40, least=4):
        _killed_resumption(trials, runs, Fault(how, number))


def _verb(trials: Trials, runs: Runs, verb: Verb) -> None:
    """From the log of all file operations of a verb that ends well: nothing is left to the operating system."""
    here, log = verb.prepare(trials, runs), trials.folder / "log"
    before = set(here.rglob("*"))
    ended = runs.galore(verb.words(here), fault=Fault(), watch=[here], log=log)
    trials.check("verbs that end well", ended.code == 0, f"{verb.name}: {ended}")
    disk = Disk()
    torn = disk.torn(operations(log))
    lost = {"bytes, when they got their name": torn, "bytes": disk.lost_bytes(here, before), "names": disk.lost_names()}
    for what, paths in lost.items():
        names = _relative(here, paths)
        trials.check(f"synced {what}", not names, f"{verb.name}: never synced: {', '.join(names[:6])}")


def _relative(here: Path, paths: Iterable[object]) -> list[str]:
    """Names below `here`, without those of locks: nobody reads them after a power cut."""
    return [name for name in (str(path).removeprefix(f"{here}/") for path in paths) if not name.endswith(".lock")]


def _begun(trials: Trials, runs: Runs) -> list[tuple[int, How]]:
    """Every operation of a resumption until its first step."""
    run, log = trials.fresh("run", like=runs.half()), trials.folder / "log"
    trials.check("verbs that end well", runs.finished(run, fault=Fault(), watch=[run], log=log).code == 0, "resume")
    life: list[Operation] = operations(log)
    first = next(op.number for op in life if op.name == "write" and op.path.endswith("metrics.jsonl"))
    return list(itertools.product(range(1, first + 1), HOWS))


def _killed_resumption(trials: Trials, runs: Runs, fault: Fault) -> None:
    """Killed, or cut off from its power: what was there can be evaluated without --resume."""
    run, log = trials.fresh("run", like=runs.half()), trials.folder / "log"
    runs.finished(run, fault=fault, watch=[run], log=log)
    lost = cut(operations(log))
    ended = runs.galore(["eval", run, "--max-tokens", "64"])
    told = f"resumption, {fault}, took from {_relative(run, lost)}: {ended}"
    trials.check("eval after a resumption was cut off", ended.code == 0 and not ended.bug, told)


def _cut(trials: Trials, runs: Runs, fault: Fault) -> None:
    """A run whose power goes: with a checkpoint its rows are there, it can be evaluated, and it comes to the same bits."""
    run, log = trials.fresh("run"), trials.folder / "log"
    runs.galore(runs.words(run), fault=fault, watch=[run], log=log)
    lost = _relative(run, cut(operations(log)))
    if saved := sorted(run.glob("checkpoints/step-*")):
        steps = {row["step"] for row in read_rows(run / "metrics.jsonl") if row["kind"] == "train"}
        missing = set(range(1, int(saved[-1].name[5:]) + 1)) - steps
        told = f"steps {sorted(missing)} before {saved[-1].name} have no row; {fault}, took from {lost}"
        trials.check("rows of a checkpoint after a power cut", not missing, told)
        ended = runs.galore(["eval", run, "--max-tokens", "64"])
        trials.check("eval after a power cut", ended.code == 0 and not ended.bug, f"{fault}, took from {lost}: {ended}")
    ended = runs.finished(run)
    if nothing_there(ended):
        ended = runs.galore(runs.words(run))
    wrong = f"{ended}" if ended.code else different(outcome(trials.folder / "done"), outcome(run))
    trials.check("resumed after a power cut", wrong is None, f"{wrong}; {fault}, took from {lost}")
