"""The parts, in order of value: what each shows, and the seconds after which it is stopped."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from prove.trials import Trials


@dataclass(frozen=True)
class Part:
    name: str
    shows: str
    cap: int

    def run(self, trials: Trials) -> None:
        """Carry it out in this process, which may fork."""
        importlib.import_module(f"prove.parts.{self.name}").prove(trials)


PARTS = (
    Part("save", "a save that is killed, refused, halved or cut off at any file operation loses nothing", 120),
    Part("crash", "runs of every method, killed once or twice, end at the same bits and leave the same names", 240),
    Part("corrupt", "no file of a run, the cache or an export is taken for good when it is damaged", 100),
    Part("disk", "every verb on a disk that refuses: one message, older files as they were, and it goes on", 120),
    Part("durable", "what a verb leaves is synced before it bears its name; a power cut anywhere can be resumed", 80),
    Part("numbers", "NaN, infinity and 1e30 in every method are counted, and leave finite checkpoints", 70),
    Part("hostile", "pipes, devices, numbers without end and code that asks to run are refused in bounded time", 80),
    Part("fuzz", "mutated recipes, overrides and data are read or refused; what is resolved means the same", 60),
    Part("together", "renamed folders, two in one folder or cache, signals, a disk that fails during --resume", 80),
)
NAMES = tuple(part.name for part in PARTS)
