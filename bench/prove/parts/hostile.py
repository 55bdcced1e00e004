"""Inputs that mean harm: pipes, devices, code that asks to run, numbers without end. Refused in seconds and little memory."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from prove.child import Ended
from prove.runs import Runs, must
from prove.shim import Fault, Which, operations
from prove.trials import Trials

MEMORY = 4 * 2**30  # bytes beyond what the imports take
LIMIT = 20.0  # seconds, on a busy machine
YES = "y\n" * 50
CODE = "from pathlib import Path\nPath({canary!r}).touch()\n"

NUMBERS = (
    "train.num_threads=1e9",
    "train.num_threads=1000000000",
    "data.tokenizer_vocab_size=1000000000000000",
    "train.seed=1180591620717411303424",
    "optim.learning_rate=1e300",
    "optim.adam_epsilon=1e-320",
    "model.initializer_range=1e30",
    "model.intermediate_size=1000000000000000000000000000000",
    "model.num_hidden_layers=1000000000",
    "train.global_batch_size=4000000000000",
    "optim.rank=99999999999999999999",
    "data.max_length=9999999999999",
)


class Case(NamedTuple):
    """What is typed; `refused`: it must be, with exit code 2."""

    name: str
    words: list[object]
    refused: bool = True


def prove(trials: Trials) -> None:
    runs = Runs(trials)
    run, exported = runs.made("run"), trials.folder / "export"
    must(runs.galore(["export", run, exported]), 0)
    canary = trials.folder / "canary"
    given = [
        *_numbers(runs),
        *_given(trials, runs),
        *_asking(trials, runs, exported, canary),
    ]
    for case in trials.some(given, "hostile inputs", sample=6, least=40):
        ended = runs.galore(case.words, limit=LIMIT, memory=MEMORY, stdin=YES)
        wrong = _wrong(ended, case.refused) or ("its code ran" if canary.exists() else None)
        trials.check(case.name.partition(":")[0], wrong is None, f"{wrong}; {case.name}: {ended}")
        canary.unlink(missing_ok=True)
    readers = {
        "eval": (run, ["eval", run, "--max-tokens", "64"]),
        "resume": (run, runs.words(run, resume=True)),
        "generate": (exported, ["generate", exported, "--prompt", "the", "--max-new-tokens", "2"]),
        "start from": (exported, _start_from(trials, runs, exported)),
    }
    opened = [
        (name, file, what)
        for name, (root, words) in readers.items()
        for file, what in itertools.product(_opened(trials, runs, root, words), LEADS)
    ]
    wholes = {root: trials.fresh(f"{root.name}-whole", like=root) for root in (run, exported)}
    for name, file, what in trials.some(opened, "files that are replaced", sample=4, least=20):
        root, words = readers[name]
        shutil.rmtree(root)
        shutil.copytree(wholes[root], root)
        if name == "start from":
            shutil.rmtree(trials.folder / "started", ignore_errors=True)
        _replace(root / file, what)
        ended = runs.galore(words, limit=LIMIT, memory=MEMORY)
        wrong = _wrong(ended, refused=False)
        trials.check("a file that is no file", wrong is None, f"{wrong}; {name}: {file} is {what}: {ended}")


LEADS = ("a pipe", "/dev/zero")


def _replace(path: Path, what: str) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if what == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(what)


def _wrong(ended: Ended, refused: bool) -> str | None:
    if ended.hung or ended.bug:
        return "over its time" if ended.hung else "a traceback"
    allowed = (2,) if refused else (0, 1, 2)
    return None if ended.code in allowed else f"exit code {ended.code}"


def _numbers(runs: Runs) -> Iterator[Case]:
    for text in NUMBERS:
        yield Case(f"a number: {text}", ["train", "demo", *runs.overrides(), text, "--dry-run"])


def _given(trials: Trials, runs: Runs) -> Iterator[Case]:
    """Everything that a user names, where a pipe, a device or a folder lies."""
    out = ["--output-dir", trials.folder / "started"]
    pipe, folder, huge = (trials.folder / name for name in ("pipe.yaml", "folder.yaml", "huge.yaml"))
    os.mkfifo(pipe)
    folder.mkdir()
    with huge.open("wb") as file:
        file.truncate(2**40)
    for path in (pipe, Path("/dev/zero"), Path("/dev/urandom"), huge, folder):
        yield Case(f"a recipe: {path}", ["recipes", "validate", path])
        yield Case(f"a recipe: train {path}", ["train", path, *out])
        child = trials.folder / f"extends-{path.name}.yaml"
        child.write_text(f"extends: {path}\n")
        yield Case(f"a parent: {path}", ["recipes", "validate", child])
        yield Case(f"a run: eval {path}", ["eval", path])
        yield Case(f"a model: {path}", ["generate", path, "--prompt", "the"])
        for key in ("data.path", "data.tokenizer", "model.name_or_path"):
            if (path, key) != (folder, "data.path"):
                yield Case(f"a path: {key}={path}", ["train", "demo", *runs.overrides(), f"{key}={path}", *out])


def _asking(trials: Trials, runs: Runs, exported: Path, canary: Path) -> Iterator[Case]:
    """Folders whose configuration names code of their own, to somebody who answers every question with yes."""
    maps: dict[str, tuple[str, dict[str, object]]] = {
        "tokenizer": ("tokenizer_config.json", {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}),
        "model": ("config.json", {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}),
    }
    for what, (name, classes) in maps.items():
        folder = trials.fresh(f"evil-{what}", like=exported)
        config = json.loads((folder / name).read_text())
        kind = {"tokenizer_class": "Evil"} if what == "tokenizer" else {"model_type": "evil"}
        (folder / name).write_text(json.dumps(config | kind | {"auto_map": classes}))
        (folder / "galore-manifest.json").unlink(missing_ok=True)
        (folder / "evil.py").write_text(CODE.format(canary=str(canary)))
        out = ["--output-dir", trials.folder / "started"]
        for key in ("data.tokenizer", "model.name_or_path"):
            words = ["train", "demo", *runs.overrides(train__max_steps=1), f"{key}={folder}", *out]
            yield Case(f"code of a {what}: {key}", words, refused=False)
        for verb in (["generate", folder, "--prompt", "the"], ["export", folder, trials.folder / "sent"]):
            yield Case(f"code of a {what}: {verb[0]}", verb, refused=False)


def _start_from(trials: Trials, runs: Runs, exported: Path) -> list[object]:
    own = [f"model.name_or_path={exported}", f"data.tokenizer={exported}", "train.max_steps=1", "eval.eval_steps=null"]
    dimensions = [text for text in runs.overrides() if not text.startswith("model.")]
    return ["train", "demo", *dimensions, *own, "--output-dir", trials.folder / "started"]


def _opened(trials: Trials, runs: Runs, root: Path, words: list[object]) -> list[str]:
    """Names below `root` of the files that the verb opens to read."""
    log = trials.folder / "log"
    trials.fresh("started")
    ended = runs.galore(words, fault=Fault(), watch=[root], which=Which.OPEN, log=log)
    trials.check("verbs that end well", ended.code == 0, f"{words}: {ended}")
    paths = {Path(operation.path) for operation in operations(log) if operation.done}
    return sorted(path.relative_to(root).as_posix() for path in paths if path.is_file())
