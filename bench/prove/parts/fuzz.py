"""Mutated recipes, overrides and data files, and all inputs that ever failed: loaded or refused, in bounded time and memory."""

from __future__ import annotations

import gzip
import json
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from prove import mutate
from prove.child import start
from prove.runs import Runs, make_data
from prove.trials import Trials

FAILED = Path(__file__).parents[1] / "failed"  # *.yaml: recipes; overrides.jsonl: [recipe, override …] a line
RECIPES, OVERRIDES, FILES = 500, 500, 60
MEMORY = 4 * 2**30
SECONDS, SECONDS_DATA = 5.0, 20.0  # of one input, on a busy machine
LONGEST_MESSAGE = 20_000  # letters
AT_ONCE = 25  # inputs that one child reads
OK = "ok"
MARK = "verdict: "  # begins the line of each input


class Input(NamedTuple):
    kind: str
    shown: str
    read: Callable[[], str]
    seconds: float = SECONDS


class Slow(BaseException):
    """Past `except Exception`."""


def prove(trials: Trials) -> None:
    inputs = [*_failed(), *_recipes(trials), *_overrides(trials)]
    known = [each for each in inputs if each.kind.startswith("once")]
    _judge(trials, known)
    _judge(trials, trials.some([each for each in inputs if each not in known], "mutated recipes", sample=30))
    _judge(trials, trials.some(_files(trials), "mutated data files", sample=4, least=20))


def _judge(trials: Trials, inputs: Iterator[Input] | Sequence[Input]) -> None:
    waiting = list(inputs)
    while waiting:
        batch = waiting[:AT_ONCE]
        ended = start(partial(_read_all, batch), trials.said, memory=MEMORY).wait(len(batch) * batch[-1].seconds)
        verdicts = [json.loads(line[len(MARK) :]) for line in ended.said.split("\n") if line.startswith(MARK)]
        if len(verdicts) < len(batch):
            verdicts.append(f"ends the process: {ended}")
        for each, verdict in zip(batch, verdicts, strict=False):
            trials.check(each.kind, verdict == OK, f"{verdict}: {each.shown}")
        waiting = waiting[len(verdicts) :]


def _read_all(batch: Sequence[Input]) -> None:
    """In the child: a line for each input."""

    def slow(*_: object) -> None:
        raise Slow

    signal.signal(signal.SIGALRM, slow)
    for each in batch:
        print(f"\n{MARK}{json.dumps(_verdict(each))}", flush=True)


def _verdict(each: Input) -> str:
    from galore.trainer.common.errors import UserError

    signal.setitimer(signal.ITIMER_REAL, each.seconds)
    try:
        return each.read()
    except UserError as refusal:
        length = len(str(refusal))
        return OK if length <= LONGEST_MESSAGE else f"a message of {length:,} letters"
    except Slow:
        return f"takes more than {each.seconds:.0f} s"
    except BaseException as error:
        frames = traceback.walk_tb(error.__traceback__)
        places = [
            (frame.f_code.co_filename, line)
            for frame, line in frames
            if frame.f_globals["__name__"].startswith("galore.")
        ]
        where = f"{Path(places[-1][0]).name}:{places[-1][1]}" if places else "?"
        return f"{type(error).__name__} at {where}: {str(error)[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _loads(source: str, overrides: Sequence[str] = ()) -> str:
    """A recipe that loads, resolves to a text that means the same."""
    from galore.trainer.recipe.load import load_recipe, recipe_from_resolved

    loaded = load_recipe(source, list(overrides))
    same = recipe_from_resolved(loaded.text, "resolved") == loaded.recipe
    return OK if same else "loads, but its resolved text means something else"


def _failed() -> Iterator[Input]:
    for path in sorted(FAILED.glob("*.yaml")):
        yield Input("once failed", path.name, partial(_loads, str(path)))
    for line in (FAILED / "overrides.jsonl").read_text().splitlines():
        base, *overrides = json.loads(line)
        yield Input("once failed", line, partial(_loads, base, overrides))


def _recipes(trials: Trials) -> Iterator[Input]:
    from galore.trainer.recipe.load import load_recipe
    from galore.trainer.recipe.shipped import FOLDER

    texts = [path.read_text() for path in sorted(FOLDER.glob("*.yaml"))]
    texts += [load_recipe(path.stem).text for path in sorted(FOLDER.glob("*.yaml"))]
    for number in range(RECIPES):
        text = mutate.recipe(trials.rng.choice(texts), _names(), trials.rng)
        yield Input("recipe", repr(text[-1500:]), partial(_of_text, trials.folder / f"r{number}.yaml", text))


def _of_text(file: Path, text: str) -> str:
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        return _loads(str(file))
    finally:
        file.unlink()


def _overrides(trials: Trials) -> Iterator[Input]:
    from galore.trainer.recipe.shipped import shipped_names

    for _ in range(OVERRIDES):
        base, made = trials.rng.choice(shipped_names()), mutate.overrides(_names(), trials.rng)
        yield Input("overrides", repr((base, made))[:1500], partial(_loads, base, made))


def _names() -> list[str]:
    from galore.trainer.recipe.explain.fields import fields

    return list(fields())


def _files(trials: Trials) -> Iterator[Input]:
    """Data of every format, damaged."""
    make_data(trials.folder / "data")
    runs, lines = Runs(trials), mutate.jsonl()
    text = "\n\n".join(str(row["text"]) for row in mutate.rows()).encode()
    parquet = trials.folder / "whole.parquet"
    trials.check("a parquet file", start(partial(_write_parquet, parquet), trials.said).wait().code == 0, "not written")
    sources = {"d.jsonl": lines, "d.txt": text, "d.parquet": parquet.read_bytes(), "m.jsonl": lines}
    sources |= {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in list(sources.items())[:3]}
    instruct = {"data.prompt_field": "instruction", "data.response_field": "output"}
    for number in range(FILES):
        name = trials.rng.choice(list(sources))
        how: dict[str, object] = {"data.messages_field": "messages"} if name == "m.jsonl" else {}
        if not how and "txt" not in name:
            how = trials.rng.choice(({}, instruct, {"data.on_bad_rows": "error"}, {"data.packing": "paper"}))
        folder = trials.folder / f"f{number}"
        content = mutate.data(sources[name], name.endswith("jsonl"), trials.rng)
        own = {"data.path": folder / name, "data.cache_dir": folder / "cache"} | how
        overrides = [*runs.overrides(), *(f"{key}={value}" for key, value in own.items())]
        read = partial(_of_data, folder / name, content, overrides)
        yield Input("data", f"{name} {how}, number {number} of seed", read, SECONDS_DATA)


def _write_parquet(path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({name: [row[name] for row in mutate.rows()] for name in ("text", "instruction", "output")})
    parquet.write_table(table, path, row_group_size=64)


def _of_data(file: Path, content: bytes, overrides: Sequence[str]) -> str:
    from galore.trainer.data.prepare import read_data
    from galore.trainer.recipe.load import load_recipe

    file.parent.mkdir()
    file.write_bytes(content)
    loaded = load_recipe("demo", list(overrides))
    read_data(loaded.recipe, loaded.base_dir).global_batch(0)
    return OK
