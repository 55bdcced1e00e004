"""Any file of a run, the cache or an export, corrupted: it is noticed, or it does not matter. Never is other content taken."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from prove import readers
from prove.child import Ended
from prove.child import run as child
from prove.runs import Runs, different, must, outcome
from prove.trials import Trials

LIMIT = 30.0
SAME, REFUSED_OR_SAME, TOLD, ENDS = "the same", "refused or the same", "told", "a message or none"


class Kind(NamedTuple):
    """Files whose path matches `pattern`: which reader they are for, and what it must answer when they are damaged."""

    pattern: str
    reader: str
    answer: str


# What lies in a checkpoint as a link: damage replaces the link, for what it leads to is tried itself, in the run.
# No checkpoint of a run is skipped for it; who takes the checkpoint as the folder of a model must notice.
LINKED = r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map)\.json|chat_template\.jinja"

# Of a file that matches none of these nobody has decided what must happen: that is a failure, too.
KINDS = (
    Kind(r"run/checkpoints/step-\d+/(\w+\.safetensors|state\.json|manifest\.json)", "checkpoints", TOLD),
    Kind(r"run/checkpoints/step-\d+/model\.safetensors\.index\.json", "checkpoints", TOLD),
    Kind(rf"run/checkpoints/step-\d+/({LINKED})", "folders", REFUSED_OR_SAME),
    Kind(r"run/(model|tokenizer)/[^/]+", "run", REFUSED_OR_SAME),
    Kind(r"run/recipe\.yaml", "run", REFUSED_OR_SAME),
    Kind(r"run/(metrics\.jsonl|run\.json)", "report", ENDS),
    Kind(r"run/(report\.md|plots/[^/]+|\.lock)", "run", SAME),
    Kind(r"cache/.*\.lock", "data", REFUSED_OR_SAME),
    Kind(r"cache/(tokens|tokenizers)/[0-9a-f]+/[^/]+", "data", SAME),
    Kind(r"cache/digests/[0-9a-f]+", "data", SAME),
    Kind(r"export/(README\.md)", "export", SAME),
    Kind(r"export/(galore-manifest\.json)", "export", REFUSED_OR_SAME),
    Kind(r"export/[^/]+\.(safetensors|json|jinja)", "export", REFUSED_OR_SAME),
)


def kind_of(name: str) -> Kind | None:
    return next((kind for kind in KINDS if re.fullmatch(kind.pattern, name)), None)


def prove(trials: Trials) -> None:
    whole, asks, runs = _prepare(trials)
    names = sorted(path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file())
    kinds = {name: kind_of(name) for name in names}
    for name in [name for name, kind in kinds.items() if kind is None]:
        trials.check("somebody has decided", False, f"what must happen when {name} is damaged? → KINDS of corrupt.py")
    known = {name: kind for name, kind in kinds.items() if kind is not None}
    expected = {reader: _ask(trials, reader, asks) for reader in asks}
    for reader, ended in expected.items():
        trials.check("whole files are read", ended.code == 0, f"{reader}: {ended}")
    draws = [(name, number) for name in known for number in range(2 if trials.sample else 40)]
    for name, _ in trials.some(draws, "damaged files", sample=12, most=1000, least=100):
        _damage_one(trials, whole, name, known[name], asks, expected)
    for _ in trials.some(range(12), "damaged files before --resume", sample=1, least=2):
        _resume_one(trials, runs)


def _prepare(trials: Trials) -> tuple[Path, dict[str, Callable[[], str]], Runs]:
    """A run, its cache and its export, whole; and for each reader what it reads of the copy that is damaged."""
    runs = Runs(trials)
    whole, here, other = trials.fresh("whole"), trials.fresh("here"), trials.fresh("other")
    runs.cache = here / "cache"
    must(runs.galore(runs.words(other, "instruct", train__max_steps=1)), 0)  # for its part of the cache
    must(runs.galore(runs.words(here / "run")), 0)
    must(runs.galore(["export", here / "run", here / "export"]), 0)
    here.rename(whole)
    asks = {
        "checkpoints": partial(readers.of_checkpoints, here / "run/checkpoints"),
        "folders": partial(readers.of_folders, here / "run/checkpoints"),
        "run": partial(readers.of_model, here / "run"),
        "report": partial(readers.of_report, here / "run"),
        "export": partial(readers.of_model, here / "export"),
        "data": lambda: f"{readers.of_data(runs.overrides())} {readers.of_data(runs.overrides('instruct'))}",
    }
    trials.fresh("here", like=whole)
    return whole, asks, runs


def _ask(trials: Trials, reader: str, asks: dict[str, Callable[[], str]]) -> Ended:
    return child(readers.asking(asks[reader]), trials.said, LIMIT)


def _damage_one(
    trials: Trials, whole: Path, name: str, kind: Kind, asks: dict[str, Callable[[], str]], expected: dict[str, Ended]
) -> None:
    file = trials.fresh("here", like=whole) / name
    how = damage(file, trials.rng, exchange=kind.answer != SAME)
    got = _ask(trials, kind.reader, asks)
    wrong = judge(kind.answer, expected[kind.reader], got)
    trials.check(f"damaged {_place(name)}", wrong is None, f"{wrong}: {name}, {how}: {got}")


def judge(answer: str, expected: Ended, got: Ended) -> str | None:
    """What is wrong with what a reader said of damaged files."""
    if got.hung or got.bug:
        return "hung" if got.hung else "a traceback"
    if got.code == readers.REFUSED:
        return "refused, though it does not matter" if answer == SAME else None
    if got.code != 0:
        return "neither an answer nor a refusal"
    if answer == ENDS or _last(got) == _last(expected):
        return None
    return None if answer == TOLD and "nothing said" not in _last(got) else "silently taken"


def _last(ended: Ended) -> str:
    return ended.said.strip().rpartition("\n")[2]


def _place(name: str) -> str:
    """The file without what differs between runs."""
    return re.sub(r"[0-9a-f]{32}|\d{8}", "…", name)


def damage(path: Path, rng: random.Random, exchange: bool = True) -> str:
    """Do something to the file, `exchange` it with its neighbour perhaps; returns what. A link makes way for a file."""
    data = bytearray(path.read_bytes())
    others = sorted(each for each in path.parent.iterdir() if each.is_file() and each != path)
    if not path.is_symlink():
        others = [each for each in others if not each.is_symlink()]
    kinds = ["flip"] * 8 + ["flip in the head", "truncated", "truncated", "empty", "longer", "a hole"]
    how = rng.choice(
        [*kinds, "deleted", "a link", "a folder", "a pipe", *(["exchanged"] * (exchange and bool(others)))]
    )
    if how in ("deleted", "a link", "a folder", "a pipe"):
        path.unlink()
        if how == "a link":
            path.symlink_to("/etc/passwd")
        elif how != "deleted":
            (Path.mkdir if how == "a folder" else os.mkfifo)(path)
        return how
    at = rng.randrange(min(len(data), 512) if how == "flip in the head" else len(data)) if data else 0
    if how == "exchanged":
        other = rng.choice(others)
        _put(path, other.read_bytes())
        _put(other, data)
        return f"exchanged with {other.name}"
    if how == "longer" or not data:
        data += rng.randbytes(rng.randint(1, 64))
    elif how.startswith("flip"):
        data[at] ^= 1 << rng.randrange(8)
    elif how == "a hole":
        data[at : at + 4096] = bytes(len(data[at : at + 4096]))
    else:
        del data[0 if how == "empty" else at :]
    _put(path, data)
    return f"{how} at {at}"


def _put(path: Path, data: bytes | bytearray) -> None:
    """Give the file this content, and not what it leads to."""
    if path.is_symlink():
        path.unlink()
    path.write_bytes(data)


def _resume_one(trials: Trials, runs: Runs) -> None:
    """A run that was killed, and a file of it damaged: --resume ends at the same bits, or refuses and changes nothing."""
    runs.cache = trials.folder / "cache"
    half = runs.half()
    run = trials.fresh("run", like=half)
    # Links, which no resumption reads or mends, lead to files that are drawn themselves.
    real = sorted(path for path in run.rglob("*") if path.is_file() and not path.is_symlink())
    files = [path for path in real if path.name not in ("metrics.jsonl", "run.json")]
    file = trials.rng.choice(files)
    how = f"{file.relative_to(run)}, {damage(file, trials.rng)}"
    ended = runs.finished(run)
    if ended.code == readers.REFUSED and not ended.bug:
        trials.check("--resume with damage", True)
        return
    wrong = f"{ended}" if ended.code else different(outcome(trials.folder / "half-whole"), outcome(run))
    trials.check("--resume with damage", wrong is None, f"{wrong}; {how}")
