"""More than one at work: renamed folders, two in one folder or cache, signals, and a disk that fails while a run is resumed."""

from __future__ import annotations

import errno
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from galore.trainer.checkpoint.checkpoint import newest_verified
from prove.child import Child, start, verb
from prove.poison import STEP
from prove.runs import Runs, calm, different, outcome
from prove.shim import Fault, How, Which
from prove.trials import Trials

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
ENDED_BY_SIGNAL = (0, 75, 130)
WAIT = 20.0  # seconds that one waits for another
REFUSED, FAILED = 2, 1


def prove(trials: Trials) -> None:
    runs = Runs(trials)
    runs.half()
    runs.made("done")
    kinds: dict[Callable[..., None], list[object]] = {
        _renamed: [True, False],
        _two_runs: [1, 2],
        _two_resumptions: [1, 2],
        _two_caches: list(range(4)),
        _signalled: [(number, after) for number in SIGNALS for after in range(5)],
        _unreadable: [errno.EIO, errno.ESTALE, errno.EMFILE, errno.EACCES],
    }
    cases = [(kind, value) for kind, values in kinds.items() for value in (values[:1] if trials.sample else values)]
    for kind, value in trials.some(cases, "of several at work", sample=len(kinds), least=12):
        kind(trials, runs, value)


def _begin(trials: Trials, words: list[str], name: str, halt: Path | None = None, fault: Fault | None = None) -> Child:
    """A run in a child; with `halt`, it stands before a step until that file is there."""

    def work() -> None:
        calm()
        if halt is not None:
            _halt(halt)
        verb(*words)()

    watch = [trials.folder / "cache"] if fault else []
    return start(work, trials.folder / f"{name}.txt", fault=fault, watch=watch)


def _halt(go: Path) -> None:
    from galore.trainer import loop

    honest = loop.attempt_step

    def attempt(run: object, batch: object, number: int) -> object:
        if number == STEP:
            go.with_suffix(".there").touch()
            _until(go.exists)
        return honest(run, batch, number)

    loop.attempt_step = attempt


def _until(there: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + WAIT
    while not there() and time.monotonic() < deadline:
        time.sleep(0.01)
    return there()


def _same(trials: Trials, path: Path) -> str | None:
    return different(outcome(trials.folder / "done"), outcome(path))


def _renamed(trials: Trials, runs: Runs, another: bool) -> None:
    """The folder of a run is renamed, and another may take its name: neither writes into the other's."""
    here, moved, go = trials.fresh("run"), trials.fresh("moved"), trials.fresh("go.txt")
    trials.fresh("go.there")
    first = _begin(trials, runs.words(here), "first", go)
    stands = _until(go.with_suffix(".there").exists)
    trials.check("a run that stands", stands, "it does not come to its step")
    here.rename(moved)
    second = runs.galore(runs.words(here)) if another else None
    go.touch()
    ended = first.wait()
    told = f"{ended}; {'another run' if another else 'nothing'} under its name"
    trials.check("renamed: told", ended.code == FAILED and not ended.bug, told)
    if second is None:
        trials.check("renamed: nothing made anew", not here.exists(), f"{sorted(here.rglob('*'))[:4]}")
    else:
        wrong = f"{second}" if second.code else _same(trials, here)
        trials.check("renamed: the other one is whole", wrong is None, f"{wrong}; {told}")
    resumed = runs.finished(moved)
    wrong = f"{resumed}" if resumed.code else _same(trials, moved)
    trials.check("renamed: gone on with", wrong is None, f"{wrong}; {told}")


def _two_runs(trials: Trials, runs: Runs, number: int) -> None:
    here = trials.fresh("run")
    both = [_begin(trials, runs.words(here), name) for name in ("first", "second")]
    ends = [each.wait() for each in both]
    codes = sorted(end.code if end.code is not None else -1 for end in ends)
    wrong = None if codes == [0, REFUSED] and not any(end.bug for end in ends) else "; ".join(map(str, ends))
    trials.check("two runs in one folder", wrong is None, wrong)
    wrong = _same(trials, here)
    trials.check("two runs: the same bits", wrong is None, wrong)


def _two_resumptions(trials: Trials, runs: Runs, number: int) -> None:
    here = trials.fresh("run", like=trials.folder / "half")
    both = [_begin(trials, runs.words(here, resume=True), name) for name in ("first", "second")]
    ends = [each.wait() for each in both]
    fine = all(end.code in (0, REFUSED) and not end.bug for end in ends) and any(end.code == 0 for end in ends)
    wrong = _same(trials, here) if fine else "; ".join(map(str, ends))
    trials.check("two resumptions of one run", wrong is None, wrong)


def _two_caches(trials: Trials, runs: Runs, number: int) -> None:
    """Two runs make one cache, and one of them is killed over it: the other makes it to its end."""
    trials.fresh("cache")
    one, other = trials.fresh("run"), trials.fresh("moved")
    fault = Fault(How.KILL_BEFORE, trials.rng.randint(1, 40))
    killed, lives = _begin(trials, runs.words(one), "first", fault=fault), _begin(trials, runs.words(other), "second")
    killed.wait()
    ended = lives.wait()
    wrong = f"{ended}" if ended.code else _same(trials, other)
    trials.check("two makers of one cache", wrong is None, f"{wrong}; the other one: {fault}")


def _signalled(trials: Trials, runs: Runs, case: tuple[signal.Signals, int]) -> None:
    """A signal while steps are taken: what was done is saved. Earlier, there may be nothing to save."""
    number, after = case
    here = trials.fresh("run")
    child = _begin(trials, runs.words(here), "first")
    steps = partial(_steps, here)
    if after:
        _until(lambda: steps() >= after)
    else:
        time.sleep(trials.rng.uniform(0.1, 1.0))
    done = steps()
    child.send(number)
    ended = child.wait()
    told = f"{number.name} after {done} steps: {ended}"
    early = not after and ended.code == -number  # before anything was begun
    trials.check("signal: told", not ended.bug and (ended.code in ENDED_BY_SIGNAL or early), told)
    found, _ = newest_verified(here / "checkpoints")
    trials.check("signal: saved", (found.step if found else 0) >= done, f"{told}; saved: {found and found.step}")
    ended = runs.galore(runs.words(here, resume=(here / "recipe.yaml").exists()))
    wrong = f"{ended}" if ended.code else _same(trials, here)
    trials.check("signal: gone on with", wrong is None, f"{wrong}; {told}")


def _steps(here: Path) -> int:
    metrics = here / "metrics.jsonl"
    return metrics.read_bytes().count(b'"kind": "train"') if metrics.exists() else 0


def _unreadable(trials: Trials, runs: Runs, error: int) -> None:
    """Checkpoints that cannot be opened just now are not damaged: nothing begins anew over them."""
    here = trials.fresh("run", like=trials.folder / "half")
    rows = (here / "metrics.jsonl").read_bytes()
    fault = Fault(How.FAIL_ON, 1, error)
    ended = runs.finished(here, fault=fault, watch=[here / "checkpoints"], which=Which.OPEN)
    told = f"{errno.errorcode[error]} for all under checkpoints/: {ended}"
    trials.check("unreadable: refused", ended.code in (FAILED, REFUSED) and not ended.bug, told)
    trials.check("unreadable: rows as they were", (here / "metrics.jsonl").read_bytes() == rows, told)
    ended = runs.finished(here)
    wrong = f"{ended}" if ended.code else _same(trials, here)
    trials.check("unreadable: gone on with", wrong is None, f"{wrong}; {told}")
