"""The runs below a folder, each in a few facts, from small files and the ends of long ones, whatever is broken."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from galore.trainer.checkpoint.rotation import step_directories
from galore.trainer.common.lock import is_held
from galore.trainer.common.reading import open_regular, read_bounded
from galore.trainer.record.metrics import whole
from galore.trainer.record.row import loss_of
from galore.trainer.record.rundir import RunDir

DEEPEST = 5  # folders below the first; a sweep keeps its runs three down
PARTS = {"recipe.yaml", "run.json", "metrics.jsonl", "checkpoints"}  # of a run; other tools leave one of them
TAIL_BYTES = (2**15, 2**21)  # of metrics.jsonl; the second where no step is in the first
METHOD = re.compile(r"^optim:$.*?^  method: (\w+)$", re.MULTILINE | re.DOTALL)  # in a recipe as runs write it


@dataclass(frozen=True)
class Listed:
    """One run; None is what is not known. `state`: finished, running, failed, interrupted or damaged.

    `loss` is of the last step, `held_out_loss` of the last evaluation near the end. `resumes_after` is the step
    of the newest checkpoint of a run that can go on; `written` when anything of its metrics last was, in seconds of
    the epoch; `stopped_early`: finished before its last step, for the held-out loss fell no more; `problem` says what
    is damaged.
    """

    folder: Path
    state: str
    method: str | None = None
    parameters: int | None = None
    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    held_out_loss: float | None = None
    bytes: int = 0
    resumes_after: int | None = None
    written: float | None = None
    stopped_early: bool = False
    problem: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"folder": str(self.folder)}


def list_runs(folder: Path) -> list[Listed]:
    """Every run at or below `folder`, sorted by path. What is inside of a run is not searched."""
    return [_listed(RunDir(path)) for path in sorted(_runs_below(folder))]


def _runs_below(folder: Path, depth: int = DEEPEST, seen: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """Hidden folders apart, and those that cannot be looked into; a link that leads back up is not followed."""
    try:
        with os.scandir(folder) as entries:
            found = {entry.name: _is_folder(entry) for entry in entries}
        stat = folder.stat()
    except OSError:
        return
    if found.keys() & {"recipe.yaml", "run.json"} and len(found.keys() & PARTS) > 1:
        yield folder
    elif depth and (place := (stat.st_dev, stat.st_ino)) not in seen:
        for name in (name for name, is_folder in found.items() if is_folder and not name.startswith(".")):
            yield from _runs_below(folder / name, depth - 1, seen | {place})


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _listed(run: RunDir) -> Listed:
    try:
        return _of_files(run)
    except (OSError, ValueError, RecursionError) as error:
        told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Listed(run.root, "damaged", bytes=_size(run.root), problem=told)


def _of_files(run: RunDir) -> Listed:
    if not run.recipe.is_file():
        raise ValueError(f"{run.recipe.name} is missing, or no file")
    facts = _facts(run)
    steps, evaluations = _last_rows(run.metrics)
    parts = facts.get("parameters")
    counts = (
        [_whole(part.get("count")) or 0 for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    )
    listed = Listed(
        run.root,
        _state(run, facts),
        _method(run, facts),
        sum(counts) or None,
        _whole(steps.get("step")),
        _whole(facts.get("total_steps")),
        _number(loss_of(steps)),
        _number(loss_of(evaluations)),
        _size(run.root),
        written=_written(run),
        stopped_early="finished" in facts and "stopped_early" in facts,
    )
    final = facts.get("final") if "finished" in facts else None
    if isinstance(final, dict) and (listed.step or 0) < (_whole(final.get("step")) or 0):
        problem = f"{run.metrics.name} tells of fewer steps than {run.facts.name}"
        return replace(listed, state="damaged", problem=problem)
    saved = step_directories(run.checkpoints)
    return replace(listed, resumes_after=saved[0][0]) if saved and listed.state in ("failed", "interrupted") else listed


def _state(run: RunDir, facts: dict[str, Any]) -> str:
    """A run that was killed could not say so: it is interrupted, as one that a signal stopped."""
    if "finished" in facts:
        return "finished"
    if is_held(run.lock):
        return "running"
    ended = facts.get("ended")
    failed = isinstance(ended, dict) and ended.get("as") == "failed"
    return "failed" if failed or run.traceback.exists() else "interrupted"


def _facts(run: RunDir) -> dict[str, Any]:
    """What run.json says; empty where a run was killed before it said anything.

    Raises:
        OSError, ValueError: it is there, and does not say it.
    """
    try:
        facts = json.loads(read_bounded(run.facts))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        raise ValueError(f"{run.facts.name} is no JSON") from None
    if not isinstance(facts, dict):
        raise ValueError(f"{run.facts.name} holds no facts")
    return facts


def _method(run: RunDir, facts: dict[str, Any]) -> str | None:
    """`GaLore r=64`; of a run that did not write it down, what its recipe calls it."""
    known = facts.get("method")
    if isinstance(known, str):
        return known.partition(",")[0]
    found = METHOD.search(read_bounded(run.recipe).decode(errors="replace"))
    return found[1] if found else None


def _last_rows(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The last step and the last evaluation of a metrics file, from as little of its end as holds a step; {} for none.

    Raises:
        OSError: it cannot be read. ValueError: it holds something, and nothing that is a row.
    """
    rows: list[dict[str, Any]] = []
    for limit in TAIL_BYTES:
        lines, whole = _tail(path, limit)
        rows = [row for row in map(_row, lines) if row]
        steps = [row for row in rows if row.get("kind") == "train"]
        if steps or whole:
            break
    if not rows and any(line.strip() for line in lines):
        raise ValueError(f"{path.name} holds no row")
    return _last(rows, "train"), _last(rows, "eval")


def _tail(path: Path, limit: int) -> tuple[list[bytes], bool]:
    """The lines of the last `limit` bytes, and whether these are all."""
    try:
        with open_regular(path) as file:
            start = max(file.seek(0, os.SEEK_END) - limit, 0)
            file.seek(start)
            return file.read(limit).split(b"\n"), start == 0
    except FileNotFoundError:
        return [], True


def _row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line, parse_int=whole)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _last(rows: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next((row for row in reversed(rows) if row.get("kind") == kind), {})


def _written(run: RunDir) -> float | None:
    """The metrics grow until the last step; of a run without a step it is when it began."""
    for file in (run.metrics, run.recipe):
        try:
            return file.stat().st_mtime
        except OSError:
            continue
    return None


def _size(folder: Path) -> int:
    """Bytes of everything in it; what vanishes meanwhile does not count."""
    total, waiting = 0, [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total


def _whole(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
