"""A save that goes wrong at any of its file operations: the newest good checkpoint is the old or the new one, whole."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from galore.trainer.checkpoint import rotation
from galore.trainer.checkpoint.checkpoint import Checkpoint, CheckpointFailed, newest_verified, save
from prove.child import Ended, run
from prove.powercut import cut
from prove.shim import KILLS, Fault, How, Operation, operations
from prove.trials import Trials

STEP, KEEP = 9, 2
DAMAGED = "step-00000008"  # stays beside good ones, whoever damaged it
OTHER = 99  # seed of another checkpoint of the same step
REFUSED, RAISED = 3, 4  # exit codes of the child: CheckpointFailed, anything else
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
CUT = "power cut"
WHOLE = Fault(How.COUNT)  # the save ends well, and then the power goes


def tensors(seed: int) -> dict[str, dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    weights = {"a": torch.randn(50, generator=draw), "b": torch.randn(3, 4, generator=draw).bfloat16()}
    return {"model": weights, "optimizer": {"m": torch.randn(70, generator=draw)}}


def written(root: Path, step: int, seed: int | None = None, keep: int = KEEP) -> Path:
    seed = step if seed is None else seed
    return save(root, step, tensors(seed), {"seed": seed}, keep)


def _steps(*steps: int) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        for step in steps:
            written(root, step, keep=5)

    return build


def _damaged(root: Path) -> None:
    _steps(3, 6, 8)(root)
    file = root / DAMAGED / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def _left_over(root: Path) -> None:
    _steps(3, 6)(root)
    for name in (".tmp-step-00000009", ".tmp-gone-step-00000003"):
        (root / name).mkdir()
        (root / name / "model.safetensors").write_bytes(b"x")


def _same_step(seed: int) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        _steps(3, 6)(root)
        written(root, STEP, seed, keep=5)

    return build


def _same_step_damaged(root: Path) -> None:
    _same_step(OTHER)(root)
    (root / "step-00000009/state.json").write_text("{")


def _set_aside(root: Path) -> None:
    _same_step(OTHER)(root)
    (root / "step-00000009").rename(root / ".old-step-00000009")


# what the folder holds before the save → how it comes about, and the seeds of the good checkpoints in it
SITUATIONS: dict[str, tuple[Callable[[Path], None], tuple[int, ...]]] = {
    "no folder": (lambda root: None, ()),
    "empty": (lambda root: root.mkdir(parents=True), ()),
    "one": (_steps(3), (3,)),
    "two": (_steps(3, 6), (3, 6)),
    "three": (_steps(3, 6, 8), (3, 6, 8)),
    "newest damaged": (_damaged, (3, 6)),
    "left over from a kill": (_left_over, (3, 6)),
    "the same there": (_same_step(STEP), (3, 6, STEP)),
    "another of this step": (_same_step(OTHER), (3, 6, OTHER)),
    "a damaged one of this step": (_same_step_damaged, (3, 6)),
    "set aside by a kill": (_set_aside, (3, 6, OTHER)),
}


class Case(NamedTuple):
    situation: str
    operation: Operation
    fault: Fault
    kind: str

    def __str__(self) -> str:
        place = self.operation.path.partition("checkpoints")[2]
        return f"folder: {self.situation}; {self.kind}: {self.fault}, {self.operation.name} {place}"


def prove(trials: Trials) -> None:
    cases = [case for situation in SITUATIONS for case in _cases(trials, situation)]
    whole = [case for case in cases if case.fault == WHOLE]
    others = trials.some([case for case in cases if case.fault != WHOLE], "faults of a save", sample=60)
    for case in itertools.chain(whole, others):
        root, log = _prepare(trials, case.situation), trials.folder / "log"
        ended = run(lambda root=root: _save(root), trials.said, 20, fault=case.fault, watch=[root.parent], log=log)
        if case.kind == CUT:
            cut(operations(log))
        wrong = _judge(root, SITUATIONS[case.situation][1], ended, case.fault.how)
        trials.check(case.kind, wrong is None, f"{wrong}; {case} ({ended})")


def _cases(trials: Trials, situation: str) -> Iterator[Case]:
    """Every operation of a save in this situation, with everything that may happen to it."""
    root, log = _prepare(trials, situation), trials.folder / "log"
    ended = run(lambda: _save(root), trials.said, 20, fault=Fault(), watch=[root.parent], log=log)
    trials.check("no fault", ended.code == 0, f"{situation}: {ended}")
    life = operations(log)
    yield Case(situation, life[-1], WHOLE, CUT)
    for operation in life:
        at = operation.number
        for how in KILLS:
            if how is not How.KILL_HALF or operation.name == "write":
                yield Case(situation, operation, Fault(how, at), "kill")
        yield Case(situation, operation, Fault(How.KILL_AFTER, at), CUT)
        if operation.name == "write":
            yield Case(situation, operation, Fault(How.SHORT, at), "short write")
        for how, error in itertools.product((How.FAIL_ONCE, How.FAIL_ON), ERRORS):
            yield Case(situation, operation, Fault(how, at, error), "error")


def _prepare(trials: Trials, situation: str) -> Path:
    template, parent = trials.folder / situation.replace(" ", "-"), trials.folder / "root"
    if not template.exists():
        template.mkdir()
        SITUATIONS[situation][0](template / "checkpoints")
    trials.fresh(parent.name, like=template)
    rotation._trusted.clear()
    return parent / "checkpoints"


def _save(root: Path) -> int:
    try:
        written(root, STEP)
    except CheckpointFailed:
        return REFUSED
    except Exception as error:
        print(repr(error))
        return RAISED
    return 0


def _judge(root: Path, good: tuple[int, ...], ended: Ended, how: How) -> str | None:
    """What is wrong afterwards: with what is there, or with the next save."""
    allowed = {0, REFUSED} if how in (How.FAIL_ONCE, How.FAIL_ON) else {0} if how is How.SHORT else {0, -9}
    if ended.code not in allowed:
        return "hung" if ended.hung else "raises another error"
    found, _ = newest_verified(root)
    newest = max((OTHER if seed == OTHER else seed for seed in good), default=None, key=_step_of)
    seeds = {STEP} if ended.code == 0 else {STEP, newest}
    if (None if found is None else _seed_of(found)) not in seeds:
        return f"the newest good one is {found and found.path.name}"
    with suppress(CheckpointFailed):
        written(root, STEP)
    found, skipped = newest_verified(root)
    names = sorted(path.name for path in root.iterdir() if 8 in good or path.name != DAMAGED)
    if found is None or _seed_of(found) != STEP or skipped:
        return f"the next save does not mend it: {names}"
    if len(names) != min(KEEP, 1 + sum(seed < STEP for seed in good)) or names[-1] != "step-00000009":
        return f"the next save leaves {names}"
    return None


def _step_of(seed: int) -> int:
    return min(seed, STEP)


def _seed_of(found: Checkpoint) -> int | None:
    """The seed of a checkpoint whose every tensor is the one that was saved; None of any other."""
    seed = int(found.state["seed"])
    wanted = tensors(seed)
    whole = found.groups and all(
        torch.equal(tensor, found.load(group)[name]) for group in wanted for name, tensor in wanted[group].items()
    )
    return seed if whole and found.step == _step_of(seed) else None
