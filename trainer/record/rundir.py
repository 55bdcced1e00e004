"""The directory of one run: what lies where in it, who may use it, and when it may be created."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_args

from galore.trainer.checkpoint.rotation import step_directories
from galore.trainer.common.durable import leftovers, make_directory, refuse_undecodable, remove, replace_file
from galore.trainer.common.errors import Ended, Taken, UserError
from galore.trainer.common.lock import exclusive, is_lost, is_same_folder, present_name, retake
from galore.trainer.common.reading import NotReadable, read_bounded
from galore.trainer.machine.process import starter
from galore.trainer.recipe.schema.train import Tracker
from galore.trainer.recipe.shipped import is_shipped
from galore.trainer.record.metrics import finite

LOCK = ".lock"


@dataclass(frozen=True)
class RunDir:
    """Paths of a run. `fresh` is true for a run that starts, false for one that is resumed or only read.

    `made` are the directories that had to be made for it, the innermost first.
    """

    root: Path
    fresh: bool = False
    made: tuple[Path, ...] = ()

    @property
    def recipe(self) -> Path:
        """The resolved recipe, YAML. It is what makes a directory a run."""
        return self.root / "recipe.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON line per step, evaluation and event."""
        return self.root / "metrics.jsonl"

    @property
    def facts(self) -> Path:
        """What is known of the run beside its metrics: versions, hardware, data, parameters. JSON."""
        return self.root / "run.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def snapshots(self) -> Path:
        """Values of chosen parameters after chosen steps."""
        return self.root / "snapshots"

    @property
    def profile(self) -> Path:
        """Traces of profiled steps."""
        return self.root / "profile"

    @property
    def model(self) -> Path:
        """What the model needs beside its weights: configuration, generation defaults."""
        return self.root / "model"

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokenizer"

    @property
    def report(self) -> Path:
        return self.root / "report.md"

    @property
    def plots(self) -> Path:
        return self.root / "plots"

    def tracker(self, name: str) -> Path:
        """Identity of the run at the tracker `name`, so that a resumed run goes on there. JSON."""
        return self.root / f"{name}.json"

    def tracker_folder(self, name: str) -> Path:
        """Where the tracker `name` keeps what it writes here, if it writes any."""
        return self.root / name

    @property
    def traceback(self) -> Path:
        """Where in the code a run broke off that no message for a user explains. Text."""
        return self.root / "error.txt"

    @property
    def lock(self) -> Path:
        return self.root / LOCK

    @classmethod
    def create(cls, path: Path, resume: bool) -> Self:
        """Prepare `path` for a run that starts; with `resume` take the run that it holds, if it holds one.

        Raises:
            UserError: holds a run, without `resume`; holds something else; is a file, or not writable.
        """
        refuse_undecodable(path.absolute(), "choose another --output-dir, or rename the folder")
        _refuse_file(path)
        if resume and cls(path).recipe.is_file():
            cls(path)._refuse_misplaced()
            return cls(path)
        try:
            made = make_directory(path)
        except OSError as error:
            raise _unwritable(path, error) from error
        run_dir = cls(path, fresh=True, made=made)
        run_dir._refuse_used()
        return run_dir

    @classmethod
    def open(cls, path: Path) -> Self:
        """A directory that holds a run, to read.

        Raises:
            UserError: it does not.
        """
        run_dir = cls(path)
        _refuse_file(path, "name the directory of a run")
        if not path.is_dir():
            raise UserError("there is no such directory", where=str(path), fix="check the path of the run")
        refuse_without_recipe(path)
        if not run_dir.recipe.is_file():
            what = f"holds no run (no {run_dir.recipe.name})"
            raise UserError(what, where=str(path), fix="check the path of the run")
        return run_dir

    @contextmanager
    def locked(self) -> Iterator[Self]:
        """Keep every other process from running here. A crash of any kind releases it.

        A run that ends before it wrote anything leaves nothing behind, the directory included if it was made for it.

        Raises:
            UserError: another run is in it (with its pid), or was started and finished here since `create`.
        """
        with exclusive(self.lock):
            if self.fresh:
                self._refuse_used()
            for leftover in self._leftovers():
                remove(leftover)
            try:
                yield self
            finally:
                if self.fresh:
                    self._leave_no_trace()

    @property
    def is_lost(self) -> bool:
        """Whether the directory was renamed or replaced since this process locked it: its name is another's by now."""
        return is_lost(self.lock)

    def require_own(self) -> None:
        """Check, before anything is written by name, that it is this run's: hours may have passed since it was locked.

        Raises:
            Ended: the name is no longer that of the directory this run began in; what is saved, and where.
        """
        if not self.is_lost or retake(self.lock):
            return
        now = present_name(self.lock)
        if now is None:
            saved, fix = "it was deleted", "start anew in another --output-dir"
            if is_same_folder(self.lock):
                saved, fix = "its lock was deleted, and cannot be taken anew", self.go_on()
        else:
            steps = step_directories(now.parent / self.checkpoints.name)
            what = f"with {steps[0][1].name}" if steps else "without a checkpoint"
            saved, fix = f"it lies in {now.parent}, {what}", "start anew in another --output-dir"
            if steps:
                fix = RunDir(now.parent).go_on()
        raise Ended(
            f"the directory of this run was renamed or replaced while it went on: {saved}",
            where=str(self.root),
            fix=fix,
        )

    def take_back(self) -> None:
        """Delete what a run that is refused has begun here, so that another may."""
        folders = map(self.tracker_folder, get_args(Tracker))
        for path in (self.recipe, *self._trackers(), *folders) if self.fresh and not self.is_lost else ():
            remove(path)

    @property
    def typed(self) -> str:
        """The directory as an argument that is neither an option nor the name of a recipe."""
        name = str(self.root)
        return f"./{name}" if name.startswith("-") or is_shipped(name) else name

    def go_on(self, *settings: str) -> str:
        """The command that goes on with the run, with other `settings` if given, such as `train.micro_batch_size=2`."""
        return f"{starter()} {shlex.join(['train', self.typed, *settings, '--resume'])}"

    def replace(self, path: Path, content: bytes | str) -> None:
        """Give the file `path` of this run new content, atomically.

        Raises:
            Ended: the directory is another run's by now. OSError: nothing was changed.
        """
        self.require_own()
        replace_file(path, content)

    def keep_trace(self, name: str, content: bytes) -> Path:
        """Write the trace of a profiled step.

        Raises:
            Ended, OSError: as `replace`.
        """
        self.require_own()
        self.profile.mkdir(exist_ok=True)
        self.replace(self.profile / name, content)
        return self.profile / name

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Replace run.json atomically; numbers that are not finite as in a row of metrics.jsonl."""
        text = json.dumps(finite(facts), indent=2, allow_nan=False, ensure_ascii=False)
        self.replace(self.facts, f"{text}\n")

    def read_facts(self) -> dict[str, Any]:
        """What run.json says; empty if there is none, or it is no JSON."""
        try:
            facts = json.loads(read_bounded(self.facts))
        except (FileNotFoundError, NotADirectoryError, NotReadable, ValueError, RecursionError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def _leave_no_trace(self) -> None:
        """Remove the directories that were made, unless there is something: one that is not empty cannot be removed."""
        with suppress(OSError):
            if not self._contents() and not self.is_lost:
                self.lock.unlink()
                for directory in self.made:
                    directory.rmdir()

    def _contents(self) -> list[str]:
        own = {LOCK, *(path.name for path in self._leftovers())}
        return sorted(path.name for path in self.root.iterdir() if path.name not in own)

    def _leftovers(self) -> list[Path]:
        """What a run that was killed while it wrote leaves beside the old content, or where there was none."""
        parts = [self.recipe, self.metrics, self.facts, self.model, self.tokenizer, self.report, *self._trackers()]
        return [path for part in parts for path in leftovers(part)]

    def _trackers(self) -> list[Path]:
        return [self.tracker(name) for name in get_args(Tracker)]

    def _refuse_misplaced(self) -> None:
        """Raise UserError where a folder has the name of a file that the run goes on with, a file a folder's, or a link
        leads nowhere."""
        files = (self.metrics, self.facts, self.report, self.traceback, *self._trackers())
        folders = (self.model, self.tokenizer, self.checkpoints, self.snapshots, self.plots, self.profile)
        for link in (each for each in (*files, *folders) if each.is_symlink() and not each.exists()):
            if link in folders or not Path(os.path.realpath(link)).parent.is_dir():
                what, fix = f"is a link to {link.readlink()}, which is not there", "bring that back, or remove the link"
                raise UserError(what, where=str(link), fix=fix)
        for file in files:
            if file.is_dir():
                raise UserError("is a folder, where the run has a file", where=str(file), fix="move it away")
        for folder in (self.model, self.tokenizer):
            if folder.exists() and not folder.is_dir():
                raise UserError("is no folder, where the run has one", where=str(folder), fix="move it away")

    def _refuse_used(self) -> None:
        try:
            used = self._contents()
        except OSError as error:
            raise _unwritable(self.root, error) from error
        if not used:
            return
        refuse_without_recipe(self.root)
        if self.recipe.is_file():
            fix = "add --resume to go on with it, or choose another --output-dir"
            raise Taken("already holds a run", where=str(self.root), fix=fix)
        what = f"is not empty (it holds {used[0]})"
        raise UserError(what, where=str(self.root), fix="choose another --output-dir")


def _refuse_file(path: Path, fix: str = "choose another --output-dir") -> None:
    if path.exists() and not path.is_dir():
        raise UserError("is a file, not a directory", where=str(path), fix=fix)


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot be used: {error.strerror}", where=str(path), fix="choose an --output-dir you may write to"
    )


def refuse_without_recipe(folder: Path) -> None:
    """Raise UserError if `folder` is that of a run whose recipe is not there, or is no file."""
    run = RunDir(folder)
    if run.recipe.is_file() or not (run.facts.is_file() or step_directories(run.checkpoints)):
        return
    how = "is no file" if os.path.lexists(run.recipe) else "is missing"
    raise UserError(
        f"holds a run whose {run.recipe.name} {how}",
        where=str(folder),
        fix=f"write the recipe that it was trained with to {run.recipe}; its checkpoints know whether it is the same",
    )
