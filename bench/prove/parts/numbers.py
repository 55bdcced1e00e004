"""NaN, infinity and 1e30 in every method: told and counted, never a reason to lose a finite checkpoint."""

from __future__ import annotations

import itertools
import json
import math
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file

from prove import poison
from prove.child import Ended, run, verb
from prove.runs import METHODS, SAVE, Runs, calm
from prove.trials import Trials

CLEARED = ("immediate", "full")  # of a sample, an evaluation, poisoned tensors: what does not depend on the method


class Case(NamedTuple):
    name: str
    poison: poison.Poison
    counted: bool = False  # the step must be skipped
    ends: tuple[int, ...] = (0,)


STEPS_SPOILT = (
    Case("NaN in the loss", poison.in_loss(math.nan), counted=True),
    Case("infinity in the loss", poison.in_loss(math.inf), counted=True),
    Case("1e30 in the loss", poison.in_loss(1e30), ends=(0, 1)),
    Case("NaN in a gradient", poison.in_gradient(math.nan), counted=True),
    Case("infinity in a gradient", poison.in_gradient(math.inf), counted=True),
    Case("1e30 in a gradient", poison.in_gradient(1e30), ends=(0, 1)),
)
TENSORS_SPOILT = (
    Case("NaN in a weight", poison.in_tensor(poison.a_weight), ends=(1,)),
    Case("NaN in a state", poison.in_tensor(poison.a_state), ends=(0, 1)),
)
SCORES_SPOILT = (
    Case("NaN in a sample's logits", poison.in_sample),
    Case("5,000 nats", poison.in_evaluation),
)


def prove(trials: Trials) -> None:
    runs = Runs(trials)
    cases = [(case, method) for case in STEPS_SPOILT for method in METHODS]
    cases += [(case, method) for case in TENSORS_SPOILT for method in ("galore", "galore-8bit", *CLEARED)]
    few = [(case, "galore") for case in (*SCORES_SPOILT, TENSORS_SPOILT[0])]
    for case, method in itertools.chain(few, trials.some(cases, "spoilt steps", sample=2, least=30)):
        path, name = trials.fresh("run"), f"{case.name}, {method}"
        ended = run(partial(_spoilt, case, runs.words(path, method)), trials.said)
        wrong = _ending(case, ended) or _rows(case, path) or _checkpoints(path)
        trials.check(case.name, wrong is None, f"{wrong}; {name}: {ended}")
        if case in TENSORS_SPOILT and wrong is None and ended.code:
            again = runs.finished(path, method)
            trials.check("gone on with", again.code == 0 and not again.bug, f"{name}: {again}")


def _spoilt(case: Case, words: list[str]) -> None:
    calm()
    case.poison()
    verb(*words)()


def _ending(case: Case, ended: Ended) -> str | None:
    if ended.hung or ended.bug:
        return "hung" if ended.hung else "a traceback"
    return None if ended.code in case.ends else f"exit code {ended.code}"


def _rows(case: Case, path: Path) -> str | None:
    """Whether the step counts as skipped where it must, and no other does."""
    if not case.counted:
        return None
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    skipped = [row["step"] for row in rows if row["kind"] == "train" and row["skipped"]]
    return None if skipped == [poison.STEP] else f"steps that count as skipped: {skipped}"


def _checkpoints(path: Path) -> str | None:
    """Whether there are checkpoints, and every number in them is one."""
    found = sorted(path.glob("checkpoints/step-*"))
    if not found or int(found[-1].name[5:]) < SAVE:
        return f"checkpoints: {[each.name for each in found]}"
    for file in (file for each in found for file in each.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
                return f"{file.parent.name} holds {name} that is not finite"
    return None
