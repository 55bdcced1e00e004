"""A disk that refuses a file operation, once or from then on: one message, nothing older lost, and it can be gone on with."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import NamedTuple

from galore.trainer.checkpoint.checkpoint import newest_verified
from prove.child import Ended
from prove.runs import KEPT_ROWS, Runs, digests, nothing_there, outcome
from prove.shim import Fault, How, Operation, Which, distinct, operations
from prove.trials import Trials
from prove.verbs import VOLATILE, Verb, verbs

ERRORS = (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.ENOLCK, errno.ESTALE, errno.EACCES)
TOUCHED = Which.CHANGES | Which.LOCK | Which.OPEN
OPERATIONS = 4  # of each verb with each error
SAID_AND_LEFT = (0, 1, 2)


class Whole(NamedTuple):
    """What a verb comes to when nothing goes wrong."""

    files: dict[str, str]
    rows: object


class Case(NamedTuple):
    verb: Verb
    operation: Operation
    fault: Fault

    def __str__(self) -> str:
        return f"{self.verb.name}: {self.fault}, {self.operation.name} {'/'.join(Path(self.operation.path).parts[5:])}"


def prove(trials: Trials) -> None:
    runs = Runs(trials)
    runs.made("done")
    cases, wholes = [], {}
    for verb in trials.some(verbs(runs), "verbs", least=8):
        found = _life(trials, runs, verb)
        if found is not None:
            wholes[verb.name], life = found
            cases += _cases(trials, verb, life)
    for case in trials.some(cases, "refused operations", sample=3, least=30):
        _try(trials, runs, case, wholes[case.verb.name])


def _life(trials: Trials, runs: Runs, verb: Verb) -> tuple[Whole, list[Operation]] | None:
    here, log = verb.prepare(trials, runs), trials.folder / "log"
    ended = runs.galore(verb.words(here), fault=Fault(), watch=[here], which=TOUCHED, log=log)
    if not trials.check("verbs with a good disk", ended.code == 0, f"{verb.name}: {ended}"):
        return None
    return _whole(here, verb), distinct(operations(log))


def _cases(trials: Trials, verb: Verb, life: list[Operation]) -> list[Case]:
    found = []
    for error in ERRORS:
        for _ in range(OPERATIONS):
            locks = [operation for operation in life if operation.name == "lock"]
            operation = trials.rng.choice(locks if error == errno.ENOLCK and locks else life)
            how = trials.rng.choice((How.FAIL_ONCE, How.FAIL_ON))
            found.append(Case(verb, operation, Fault(how, operation.number, error)))
    return found


def _whole(here: Path, verb: Verb) -> Whole:
    """Of a run only its last checkpoint: one that the disk refused on the way is told, and made up for by the next."""
    files = digests(here)
    last = max((name for name in files if "/checkpoints/step-" in name), default="").split("/")[2:3]
    steady = {
        name: "" if any(part in name for part in VOLATILE) else found
        for name, found in files.items()
        if ("/checkpoints/step-" not in name or name.split("/")[2:3] == last) and KEPT_ROWS not in name
    }
    return Whole(steady, outcome(here / verb.run)[1] if verb.run else None)


def _try(trials: Trials, runs: Runs, case: Case, whole: Whole) -> None:
    verb = case.verb
    here = verb.prepare(trials, runs)
    before, newest = digests(here), _newest(here)
    ended = runs.galore(verb.words(here), fault=case.fault, watch=[here], which=TOUCHED)
    wrong = _ending(ended) or _lost(here, before, whole.files, newest)
    if wrong is None and verb.name == "export" and ended.code and (here / "out").exists():
        wrong = "the export is there, though it failed"
    if not trials.check(f"{verb.name}: told, nothing lost", wrong is None, f"{wrong}; {case} ({ended})"):
        return
    if ended.code == 0 and not verb.run:
        return
    again = runs.galore(verb.again(here))
    if nothing_there(again):  # it failed before there was one
        again = runs.galore(verb.words(here))
    wrong = f"{again}" if again.code or again.bug else _other(whole, _whole(here, verb))
    trials.check(f"{verb.name}: gone on with", wrong is None, f"{wrong}; {case}")


def _ending(ended: Ended) -> str | None:
    if ended.hung or ended.bug:
        return "hung" if ended.hung else "a traceback"
    return None if ended.code in SAID_AND_LEFT else f"exit code {ended.code}"


def _newest(here: Path) -> int:
    found, _ = newest_verified(here / "run/checkpoints")
    return found.step if found else 0


def _lost(here: Path, before: dict[str, str], whole: dict[str, str], newest: int) -> str | None:
    """The first file that was there before and is now neither what it was nor what it was to become."""
    if _newest(here) < newest:
        return f"the checkpoint of step {newest} is lost"
    after = digests(here)
    for name, content in before.items():
        rotated = "/checkpoints/" in name and _newest(here) > newest
        if any(part in name for part in (*VOLATILE, ".tmp")) or (name not in after and rotated):
            continue
        if after.get(name) not in (content, whole.get(name)):
            return f"{name} is {'another' if name in after else 'gone'}"
    return None


def _other(whole: Whole, got: Whole) -> str | None:
    names = sorted(name for name in whole.files.keys() | got.files if whole.files.get(name) != got.files.get(name))
    if names:
        return f"it comes to something else: {', '.join(names[:4])}"
    return None if whole.rows == got.rows else "it comes to other rows of metrics"
