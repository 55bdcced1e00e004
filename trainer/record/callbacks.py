"""Code of a user's that is told of a run while it goes on, may ask it to stop, and cannot break it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from galore.trainer.common.errors import UserError
from galore.trainer.common.suggest import nearest
from galore.trainer.record.row import EvalRow, EventRow, TrainRow


class StopTraining(Exception):  # noqa: N818 - it asks for something, nothing is wrong
    """Raised in a callback: the run saves its state after the step it is in, or the next one, and ends."""


class Callback:
    """What a run tells of itself; a subclass has those of its methods that it wants. Rows are those of metrics.jsonl.

    An exception is recorded as an event of the run, once for each method, and the run goes on; `StopTraining` stops it.
    """

    def on_start(self, header: dict[str, Any], total_steps: int) -> None:
        """The run is about to take its first step, or to go on."""

    def on_step(self, row: TrainRow) -> None:
        """An optimizer step was taken."""

    def on_evaluate(self, row: EvalRow) -> None:
        """What is held out was scored."""

    def on_event(self, row: EventRow) -> None:
        """Something happened once."""

    def on_save(self, step: int, folder: Path) -> None:
        """A checkpoint is on the disk."""

    def on_end(self, facts: dict[str, Any]) -> None:
        """The run is over; `facts` is run.json, with `finished`, or `ended` where its last step was not reached."""


HOOKS = tuple(name for name in vars(Callback) if name.startswith("on_"))


class Callbacks:
    """All callbacks of a run. `asked`: who asked it to stop, and why; empty where nobody did.

    Raises:
        UserError: they are no list, or one of them has none of the methods, or one that is never called.
    """

    def __init__(self, members: Any = ()) -> None:
        if not isinstance(members, Iterable):
            what = f"are of type {type(members).__name__}, no list"
            raise UserError(what, where="callbacks", fix="write callbacks=[…], be it of one")
        self._members = tuple(members)
        self._told = set[str]()
        self.asked = ""
        self._stop: Callable[[str], object] = str
        for number, member in enumerate(self._members):
            _require_hooks(member, f"callbacks[{number}]")

    def add(self, member: Callback) -> None:
        """One more, told after the others."""
        self._members += (member,)

    def stop_by(self, stop: Callable[[str], object]) -> None:
        """Give what `stop` makes of a wish to stop; one that came before is passed on at once."""
        self._stop = stop
        if self.asked:
            stop(self.asked)

    def tell(self, hook: str, *what: Any) -> list[str]:
        """Call `hook` of each; returns what is to be recorded of those that raised."""
        complaints = []
        for member in self._members:
            name = f"{type(member).__name__}.{hook}"
            try:
                getattr(member, hook, _idle)(*what)
            except StopTraining as asked:
                if not self.asked:
                    self.asked = ": ".join(part for part in (name, str(asked)) if part)
                    complaints.append(f"asked to stop by {self.asked}")
                self._stop(self.asked)
            except Exception as error:
                if name not in self._told:
                    why = f"{type(error).__name__}: {' '.join(str(error).split())}"
                    complaints.append(f"{name} raised {why}; the run goes on, and this is told once")
                self._told.add(name)
        return complaints


def _idle(*_: Any) -> None:
    """What a member does that lacks a method."""


def _require_hooks(member: Any, where: str) -> None:
    named = [name for name in dir(member) if name.startswith("on_")]
    for name in named:
        if name not in HOOKS:
            close = nearest(name, HOOKS)
            fix = f"did you mean {close[0]}?" if close else f"there are {', '.join(HOOKS)}"
            raise UserError(f"{type(member).__name__} has {name}, which no run calls", where=where, fix=fix)
    if not named or isinstance(member, type):
        kind = "a class" if isinstance(member, type) else f"of type {type(member).__name__}"
        raise UserError(f"is {kind}, no callback", where=where, fix="give an object of a class made of galore.Callback")
