"""Every verb that writes: its words, what is there before, and how it is gone on with after something went wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prove.runs import Runs
from prove.trials import Trials

Words = list[object]
MINE = "# my own work\n" + "x: 1\n" * 50  # a file of the user's
VOLATILE = (".lock", "run.json", "report.md", "metrics.jsonl", "compare.")  # of which a clock has a part


@dataclass(frozen=True)
class Verb:
    """`words(here)` is what is typed, `again(here)` what goes on with it.

    `like`: what is copied to `here` before: a run by that name of `Runs`, or the user's file.
    """

    name: str
    words: Callable[[Path], Words]
    again: Callable[[Path], Words]
    like: str = ""
    run: str = ""  # the folder of a run that comes of it

    def prepare(self, trials: Trials, runs: Runs) -> Path:
        """A folder with what is there before."""
        here = trials.fresh("here")
        here.mkdir()
        if self.like == "mine":
            (here / "my.yaml").write_text(MINE)
        elif self.like == "half":
            shutil.copytree(runs.half(), here / "run", symlinks=True)
        elif self.like:
            shutil.copytree(runs.made(self.like), here / "run", symlinks=True)
        return here


def verbs(runs: Runs) -> list[Verb]:
    def train(
        method: str = "galore", cached: bool = True, resume: bool = False, **own: object
    ) -> Callable[[Path], Words]:
        def words(here: Path) -> Words:
            place = {} if cached else {"data__cache_dir": here / "cache"}
            return [*runs.words(here / "run", method, resume, **own, **place)]

        return words

    def copy(here: Path) -> Words:
        return ["recipes", "copy", "demo", here / "my.yaml", "--force"]

    def schema(here: Path) -> Words:
        return ["recipes", "schema", "--output", here / "my.yaml"]

    def export(here: Path) -> Words:
        return ["export", here / "run", here / "out"]

    def compare(here: Path) -> Words:
        methods = ["--methods", "galore,full", "--learning-rates", "0.01"]
        tiny = runs.overrides(train__max_steps=2, eval__eval_steps="null")
        return ["compare", "demo", *tiny, *methods, "--output-dir", here / "compare"]

    def profile(here: Path) -> Words:
        tiny = runs.overrides()
        return ["profile-memory", "demo", *tiny, "--timeline", here / "t.html", "--fit", here / "my.yaml"]

    one = {"train__max_steps": 1, "eval__eval_steps": "null"}
    resumed = train(resume=True)
    return [
        Verb("train", train(), resumed, run="run"),
        Verb("resume", resumed, resumed, "half", run="run"),
        Verb("export", export, export, "done"),
        Verb("recipes copy", lambda here: copy(here)[:-1], copy),
        Verb("recipes copy --force", copy, copy, "mine"),
        Verb("recipes schema", schema, schema, "mine"),
        Verb("tokenize", train(cached=False, **one), train(cached=False, resume=True, **one), run="run"),
        Verb("instruct", train("instruct", False, **one), train("instruct", False, True, **one), run="run"),
        Verb("stream", train("stream", False, **one), train("stream", False, True, **one), run="run"),
        Verb("compare", compare, compare),
        Verb("profile-memory", profile, profile),
        Verb("resume a finished run", resumed, resumed, "done", run="run"),
    ]
