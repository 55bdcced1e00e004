"""GLUE with a small encoder: GaLore against LoRA against full fine-tuning, and our loop against transformers' Trainer.

    python bench/minilm.py MODEL                         the encoder
    python bench/glue.py quality MODEL DATA OUT [NAMES]  every method at POINTS on seed 1, then its best on seeds 2 and 3
    python bench/glue.py table OUT                       Markdown of that
    python bench/glue.py time MODEL DATA                 wall time, the two by turns in one process

NAMES are those of tasks, of methods, or of both; all where none is given. Settings go behind a task's, as in
`cola:data.max_train_samples=null:train.num_train_epochs=3`, or a method's; the grid of rates stays that of the name.

DATA is a folder of GLUE. OUT gets one JSON line per run, and what is in it is not run again. Every run has one thread; length 64;
SST-2 and STS-B their first 3,000 examples and one epoch, CoLA as many and two epochs of 32 rows a step, MRPC all and two.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from galore.trainer.machine.process import prepare_process

os.environ.setdefault("OMP_NUM_THREADS", "1")
prepare_process()  # before torch is imported

from galore.trainer.common.format import duration, size  # noqa: E402
from galore.trainer.common.markdown import table  # noqa: E402
from galore.trainer.sweep.glue.grid import grid  # noqa: E402
from galore.trainer.sweep.glue.standing import best, last  # noqa: E402
from galore.trainer.sweep.options import Trial  # noqa: E402
from galore.trainer.sweep.outcome import outcome  # noqa: E402
from galore.trainer.tasks.glue import TASKS  # noqa: E402

SAME = ["data.max_length=64", "train.num_threads=1", "log.logging_steps=1000000"]
OF_TASK = {
    "sst2": ["data.max_train_samples=3000", "train.num_train_epochs=1"],
    "stsb": ["data.max_train_samples=3000", "train.num_train_epochs=1"],
    "mrpc": ["train.num_train_epochs=2"],
    "cola": ["data.max_train_samples=3000", "train.num_train_epochs=2"],
}
# A run of 188 steps sees no second subspace at the recipes' T of 500. With 5 in place of 20 SST-2 gains 1 to 2 points.
IN_SUBSPACE = ["optim.update_proj_gap=5"]
RECIPES = {
    "galore-r4": ("roberta-glue-galore-r4", IN_SUBSPACE),
    "galore-r8": ("roberta-glue-galore-r8", IN_SUBSPACE),
    "galore-r4-head": ("roberta-glue-galore-r4", IN_SUBSPACE),
    "galore-r8-head": ("roberta-glue-galore-r8", IN_SUBSPACE),
    "frugal-r4": ("roberta-glue-frugal-r4", IN_SUBSPACE),
    "lora-r8": ("roberta-glue-lora-r8", []),
    "full": ("roberta-glue-full", []),
    "full-head": ("roberta-glue-full", []),
}
Point = dict[str, float]  # learning rates by key


def at(*rates: float) -> list[Point]:
    """Points of one rate for all parameters."""
    return [{"learning_rate": rate} for rate in rates]


def with_head(*pairs: tuple[float, float]) -> list[Point]:
    """Points of a rate, and one of the head."""
    return [{"learning_rate": rate, "head_learning_rate": head} for rate, head in pairs]


POINTS = {
    "galore-r4": at(2e-4, 3e-4, 5e-4),
    "galore-r8": at(2e-4, 3e-4, 5e-4),
    "galore-r4-head": with_head((2e-4, 1e-3), (2e-4, 3e-3), (4e-4, 3e-3)),
    "galore-r8-head": with_head((3e-4, 1e-3), (3e-4, 3e-3), (6e-4, 3e-3)),
    "frugal-r4": at(5e-4, 1e-3, 2e-3),
    "lora-r8": at(5e-4, 1e-3, 2e-3),
    "full": at(5e-5, 1e-4, 2e-4),
    "full-head": with_head((5e-5, 5e-4), (5e-5, 2e-3), (1e-4, 1e-3)),
}
SEEDS = (1, 2, 3)
Row = dict[str, Any]


class Silent:
    """A console that shows nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


def quality(model: Path, data: Path, out: Path, names: list[str]) -> None:
    """Every method at every point on the first seed, then the best point of each on the others."""
    methods = [name for name in names if _name(name) in POINTS] or list(POINTS)
    for task in [name for name in names if _name(name) in OF_TASK] or list(OF_TASK):
        for method in methods:
            for point in POINTS[_name(method)]:
                _once(out, model, data, task, method, point, SEEDS[0])
        for method in methods:
            for seed in SEEDS[1:]:
                _once(out, model, data, task, method, _best_point(_rows(out), task, method), seed)


def _once(out: Path, model: Path, data: Path, task: str, method: str, point: Point, seed: int) -> None:
    key: Row = {"task": task, "method": method, **point, "seed": seed}
    if any(key.items() <= row.items() for row in _rows(out)):
        return
    row = key | _run(cell(model, data, task, method, point, seed))
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def cell(model: Path, data: Path, task: str, method: str, point: Point, seed: int) -> Trial:
    """One run of the grid, as the command line would make it."""
    recipe, own = RECIPES[_name(method)]
    where = [f"model.name_or_path={model.absolute()}", f"data.path={data.absolute()}", f"train.seed={seed}"]
    rates = [f"optim.{key}={rate!r}" for key, rate in point.items()]
    of_task = [*OF_TASK[_name(task)], *_settings(task)]
    (found,) = grid(recipe, [*SAME, *of_task, *own, *_settings(method), *where, *rates], _name(task), None)
    return found


def _run(one: Trial) -> Row:
    from galore.trainer.run import run_training

    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run_training(one.loaded, Path(folder) / one.folder, False, Silent())
        found = outcome(one, Path(folder))
        return {
            "last": last(found),
            "best": best(found),
            "baseline": found.baseline,
            "optimizer_bytes": found.optimizer_bytes,
            "peak_bytes": found.peak_bytes,
            "step_seconds": found.seconds,
            "wall_seconds": time.perf_counter() - began,
        }


def _rows(out: Path) -> list[Row]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] if out.exists() else []


def _name(given: str) -> str:
    return given.partition(":")[0]


def _settings(given: str) -> list[str]:
    return given.split(":")[1:]


def _metric(task: str) -> str:
    return "spearman" if _name(task) == "stsb" else TASKS[_name(task)].headline


def _point_of(row: Row) -> tuple[tuple[str, float], ...]:
    return tuple((key, rate) for key, rate in row.items() if key.endswith("learning_rate"))


def _best_point(rows: list[Row], task: str, method: str) -> Point:
    """The one with most seeds, and of those with the best median, as `galore finetune-glue` chooses."""
    scores = defaultdict[tuple[tuple[str, float], ...], list[float]](list)
    for row in rows:
        if (row["task"], row["method"]) == (task, method):
            scores[_point_of(row)].append(row["last"][_metric(task)])
    return dict(max(scores, key=lambda point: (len(scores[point]), median(scores[point]))))


def show_table(out: Path) -> None:
    """One row per task and method at the rate with the best median of most seeds, then one per rate."""
    rows, cells = _rows(out), defaultdict(list)
    for row in rows:
        cells[row["task"], row["method"], _point_of(row)].append(row)
    head = ["task", "metric", "method", "learning rate", "median", "seeds", "optimizer", "peak memory", "steps"]
    best = [
        _line(task, method, point, cells[task, method, point])
        for task, method in dict.fromkeys((row["task"], row["method"]) for row in rows)
        for point in [tuple(_best_point(rows, task, method).items())]
    ]
    print(table(head, best, "lllrrrrrr"))
    tried = [[*key[:2], _told(key[2]), f"{100 * runs[0]['last'][_metric(key[0])]:.2f}"] for key, runs in cells.items()]
    print(table(["task", "method", "learning rate", "seed 1"], tried, "llrr"))


def _folder(task: str) -> str:
    """The task as GLUE's folders call it, and what it was given."""
    return ":".join([TASKS[_name(task)].folder, *_settings(task)])


def _told(point: tuple[tuple[str, float], ...]) -> str:
    return ", head ".join(f"{rate:g}" for _, rate in point)


def _line(task: str, method: str, point: tuple[tuple[str, float], ...], runs: list[Row]) -> list[str]:
    scores = [100 * run["last"][_metric(task)] for run in runs]
    return [
        _folder(task),
        _metric(task),
        method,
        _told(point),
        f"{median(scores):.2f}",
        ", ".join(f"{score:.2f}" for score in scores),
        size(runs[0]["optimizer_bytes"]),
        size(max(run["peak_bytes"] for run in runs)),
        duration(median(run["step_seconds"] for run in runs)),
    ]


ROUNDS, EXAMPLES, RATE = 5, 640, 1e-4


def wall_time(model: Path, data: Path) -> None:
    """Seconds of 40 steps with AdamW, one checkpoint included: ours, then transformers', by turns."""
    ours, theirs = [], []
    for turn in range(ROUNDS + 1):  # the first of each warms up
        ours.append(_ours(model, data))
        theirs.append(_theirs(model, data))
        print(f"{'warm-up' if turn == 0 else turn}: ours {ours[-1]:.2f} s, Trainer {theirs[-1]:.2f} s", flush=True)
    ratios = [a / b for a, b in zip(ours[1:], theirs[1:], strict=True)]
    print(f"median: ours {median(ours[1:]):.2f} s, Trainer {median(theirs[1:]):.2f} s, ", end="")
    print(f"ratio {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


def _timed_cell(model: Path, data: Path) -> Trial:
    where = [f"model.name_or_path={model.absolute()}", f"data.path={data.absolute()}"]
    rest = [f"data.max_train_samples={EXAMPLES}", "train.num_train_epochs=1", "train.save_steps=null"]
    (found,) = grid("roberta-glue-full", [*SAME, *where, *rest], "sst2", None, repr(RATE))
    return found


def _ours(model: Path, data: Path) -> float:
    """The whole loop, recording and checkpoint included; nothing is held out, so nothing is evaluated."""
    from dataclasses import replace

    from galore.trainer.build import build
    from galore.trainer.loop import train
    from galore.trainer.machine.signals import StopOnSignal
    from galore.trainer.record.metrics import Metrics
    from galore.trainer.record.rundir import RunDir
    from galore.trainer.recorder import Meter, Recorder
    from galore.trainer.trained.runmodel import save_model_files

    with tempfile.TemporaryDirectory() as folder:
        directory = RunDir.create(Path(folder) / "run", resume=False)
        run = build(_timed_cell(model, data).loaded, directory, Silent())
        run = replace(run, data=replace(run.data, held_out={}))
        save_model_files(run.model, run.data.tokenizer, directory)
        meter = Meter.of(run.model, run.device, next(run.model.parameters()).dtype)
        recorder = Recorder(Metrics.open(directory.metrics, None), Silent(), meter, run.device, 0)
        began = time.perf_counter()
        with StopOnSignal(lambda text: None) as stop:
            train(run, recorder, stop)
        seconds = time.perf_counter() - began
        recorder.metrics.close()
        run.optimizer.release()
        return seconds


def _theirs(model: Path, data: Path) -> float:
    """transformers' Trainer, its own AdamW (fused), collator and checkpoint."""
    import datasets
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    from galore.trainer.data.glue.readers import read_split

    torch.set_num_threads(1)
    rows, tokenizer = read_split(TASKS["sst2"], "train", data)[:EXAMPLES], AutoTokenizer.from_pretrained(model)
    encoded = tokenizer([row.text_a for row in rows], truncation=True, max_length=64)
    examples = datasets.Dataset.from_dict({**encoded, "labels": [row.label for row in rows]})
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=16,
            num_train_epochs=1,
            learning_rate=RATE,
            max_grad_norm=0.0,
            save_strategy="epoch",
            logging_strategy="steps",
            logging_steps=50,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            seed=1,
        )
        trainer = Trainer(
            AutoModelForSequenceClassification.from_pretrained(model),
            arguments,
            train_dataset=examples,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        began = time.perf_counter()
        trainer.train()
        return time.perf_counter() - began


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["quality", model, data, out, *names]:
            quality(Path(model), Path(data), Path(out), names)
        case ["table", out]:
            show_table(Path(out))
        case ["time", model, data]:
            wall_time(Path(model), Path(data))
        case _:
            sys.exit(__doc__)
