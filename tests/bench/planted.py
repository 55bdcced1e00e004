"""`python planted.py RECORDS FOLDER [PART …]`: each part of the proof in a galore that has the one fault which this part is there to find.

A part ends where it has told of its fault; one that does not fails at its end. Exit code 1 where one did not tell.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from prove.parts import Part
from prove.records import END, Records
from prove.runner import Plan, carry_out, with_shim
from prove.trials import Trials

SECONDS = 120.0  # of a part


def save() -> None:
    """A checkpoint's files bear their names before their bytes are on the disk."""
    from galore.trainer.checkpoint import checkpoint
    from galore.trainer.checkpoint.parts import files
    from galore.trainer.common import durable

    def write_file(path: Path, parts: Iterable[bytes]) -> Any:
        honest, durable.os.fsync = durable.os.fsync, lambda _: None
        try:
            return durable.write_file(path, parts)
        finally:
            durable.os.fsync = honest

    checkpoint.write_file = files.write_file = write_file


def crash() -> None:
    """A resumed run begins with one weight that is another."""
    from galore.trainer import build

    honest = build.restore

    def restore(checkpoint: Any, model: Any, optimizer: Any) -> None:
        honest(checkpoint, model, optimizer)
        next(weight for weight in model.parameters() if weight.requires_grad).data.view(-1)[0] += 1

    build.restore = restore


def corrupt() -> None:
    """What a manifest says of the content of files is not compared."""
    from galore.trainer.checkpoint import manifest

    manifest._check_hash = lambda *_: None


def disk() -> None:
    """A file is emptied before it is written anew."""
    from galore.trainer.recipe import change

    _only("disk", "recipes copy --force")

    def replace_file(path: Path, content: str) -> None:
        path.write_text("")
        path.write_text(content)

    change.replace_file = replace_file


def durable() -> None:
    """A file is never synced."""
    from galore.trainer.recipe import change

    _only("durable", "recipes copy")
    change.replace_file = lambda path, content: path.write_text(content)


def numbers() -> None:
    """Nobody looks whether what is saved is finite."""
    from galore.trainer import saving

    saving.not_finite = lambda _: []


def hostile() -> None:
    """A tokenizer's own code is trusted."""
    from prove.parts import hostile as part
    from transformers import AutoTokenizer

    honest = AutoTokenizer.from_pretrained
    AutoTokenizer.from_pretrained = lambda *a, **words: honest(*a, **{**words, "trust_remote_code": True})
    part._numbers = part._given = lambda *_: []


def fuzz() -> None:
    """A recipe that is none raises something else."""
    from galore.trainer.common.errors import UserError
    from galore.trainer.recipe import load

    honest = load.load_recipe

    def load_recipe(*arguments: Any) -> Any:
        try:
            return honest(*arguments)
        except UserError as error:
            raise KeyError(str(error)) from error

    load.load_recipe = load_recipe


def together() -> None:
    """A run writes to whatever bears the name of its folder."""
    from galore.trainer.record.rundir import RunDir

    RunDir.is_lost = property(lambda _: False)


def _only(part: str, verb: str) -> None:
    from importlib import import_module

    module = import_module(f"prove.parts.{part}")
    honest = module.verbs
    module.verbs = lambda runs: [each for each in honest(runs) if each.name == verb]


PLANTS: dict[Callable[[], None], str] = {
    save: "the newest good one is",
    crash: "other checkpoints",
    corrupt: "silently taken",
    disk: "my.yaml is another",
    durable: "never synced: my.yaml",
    numbers: "that is not finite",
    hostile: "its code ran",
    fuzz: "KeyError",
    together: "run",
}


class Told(BaseException):
    """The part has told of its fault; past `except Exception`."""


class Planted(Part):
    """A part whose own process begins with the fault of its name."""

    def run(self, trials: Trials) -> None:
        plant = next(plant for plant in PLANTS if plant.__name__ == self.name)
        honest = trials.check

        def check(kind: str, ok: bool, told: object = "") -> bool:
            if not honest(kind, ok, told) and PLANTS[plant] in f"{kind}: {told}":
                raise Told
            return ok

        trials.check = check  # type: ignore[method-assign]
        plant()
        with suppress(Told):
            super().run(trials)
            raise RuntimeError(f"has not told of its fault: {plant.__doc__}")


def main() -> None:
    records, folder, names = Records(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3:]
    with_shim()
    from prove.child import preload

    preload()
    for plant in [each for each in PLANTS if not names or each.__name__ in names]:
        part = Planted(plant.__name__, str(plant.__doc__), int(SECONDS))
        carry_out(part, Plan(folder, seed=1, budget=SECONDS, sample=True), records, SECONDS)
    sys.exit(any(record.kind == END and not record.ok for record in records))


if __name__ == "__main__":
    main()
