"""Held-out loss of the optimizer family at one token budget on real text.

    python bench/quality.py sweep DATA OUT METHODS     a fifth of the tokens for each of POINTS: one JSON line per run
    python bench/quality.py ablate DATA OUT METHODS    the same at the best point of what is before the colon: galore:optim.rank=32
    python bench/quality.py rates DATA OUT METHODS     the same with each of RATES for the head, then for the embeddings
    python bench/quality.py final DATA OUT METHODS     the whole budget at each method's best point of the sweep
    python bench/quality.py table OUT                  Markdown of all of them
    python bench/quality.py edge OUT                   methods whose best point of the sweep is at an edge; ends with 1 if any

METHODS as `galore compare` takes them; `:order=bf16` adds updates of int8 weights in bf16 before they are rounded, as
Q-GaLore's code does; `:head=0.01` and `:embedding=0.01` are learning rates of their own. DATA holds one text, as
NAME.train.jsonl.gz and NAME.validation.jsonl.gz (`bench/codetext.py` writes one). What is in OUT is not run again;
QUALITY_SEEDS=1,2,3 are those of `final` (1) and of `ablate` (0).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from galore.kernels.ops import int8, projection
from galore.trainer.build import build
from galore.trainer.loop import train
from galore.trainer.machine.signals import StopOnSignal
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.methods import METHODS
from galore.trainer.record.metrics import Metrics
from galore.trainer.record.rundir import RunDir
from galore.trainer.recorder import Meter, Recorder
from galore.trainer.trained.runmodel import save_model_files

RECIPE = str(Path(__file__).with_name("quality.yaml"))
STEPS = 733  # × 4,096 tokens = 3.0 M
SWEEP_STEPS = STEPS // 5
IN_FULL = "optim.train_modules=[embed_tokens,lm_head,norm]"
EXTRA = {method: ["optim.lora_alpha=64", IN_FULL] for method in ("lora", "relora")}
ADAM_LIKE = [
    (0.02, 0.0125),
    (0.02, 0.025),
    (0.02, 0.05),
]  # (learning rate, factor on the matrices): every method may split
IN_SUBSPACE = [(0.02, 0.03), (0.02, 0.06), (0.02, 0.12)]
ORTHOGONAL = [(0.02, 0.1), (0.02, 0.2), (0.02, 0.4)]
NORMED = [*ORTHOGONAL, (0.02, 0.8)]
SHARED_WITH_HEAD = [(0.005, 0.05), (0.005, 0.1), (0.005, 0.2)]  # whose updates of a head have a root mean square of 1
LORA = [(0.001, 1.0), (0.003, 1.0), (0.01, 1.0)]
POINTS = {
    "full": ADAM_LIKE,
    "full-8bit": ADAM_LIKE,
    "adafactor": [(0.02, 0.006), *ADAM_LIKE],
    "muon": [(0.02, 0.05), *ORTHOGONAL],
    "muon-low-rank": ORTHOGONAL,
    "muon-sampled": ORTHOGONAL,
    "normuon": NORMED,
    "normuon-low-rank": NORMED,
    "normuon-4bit": NORMED,
    "normuon-joint-4bit": NORMED,
    "q-galore": IN_SUBSPACE,
    "dct": IN_SUBSPACE,
    "sumo": IN_SUBSPACE,
    "galore-muon": IN_SUBSPACE,
    "galore-adafactor": IN_SUBSPACE,
    "galore-soap": IN_SUBSPACE,
    "galore": IN_SUBSPACE,
    "galore-keep": IN_SUBSPACE,
    "galore-8bit": IN_SUBSPACE,
    "galore-svd": IN_SUBSPACE,
    "ldadam": IN_SUBSPACE,
    "fira": [*ADAM_LIKE, (0.02, 0.1)],
    "apollo": [*IN_SUBSPACE, (0.02, 0.24)],
    "apollo-mini": [(0.02, 0.0075), (0.02, 0.015), (0.02, 0.03), (0.02, 0.06)],
    "frugal-rotate": ADAM_LIKE,
    "frugal": ADAM_LIKE,
    "frugal-columns": [*IN_SUBSPACE, (0.02, 0.24)],
    "frugal-orthogonal": IN_SUBSPACE,
    "alice": IN_SUBSPACE,
    "racs": [(0.02, 0.006), *ADAM_LIKE],
    "scale": SHARED_WITH_HEAD,
    "lora": LORA,
    "relora": LORA,
    "low-rank": LORA,
    "frugal-rotate:optim.residual_scale=0.4": IN_SUBSPACE,  # the factor of Alice's paper
}


RATES = (0.005, 0.01, 0.04, 0.08)  # of head or embeddings, beside 0.02 for all

ORDER_OF_Q_GALORE = "order=bf16"


class Silent:
    """A console that shows nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


def add_update_in_bf16_(
    codes: Tensor, scales: Tensor, update: Tensor, *, alpha: float, decay: float, **how: Any
) -> None:
    """`add_update_int8_`, but W + alpha·U is a bf16 sum; only the codes are rounded stochastically."""
    weight = int8.dequantize(codes, scales, torch.bfloat16)
    added = weight * decay + (alpha * update.view_as(weight)).bfloat16()
    moved = added.float() - int8.dequantize(codes, scales, torch.float32)
    EXACT(codes, scales, moved, alpha=1.0, decay=1.0, noise=how["noise"])


EXACT = int8.add_update_int8_


def run(data: Path, method: str, lr: float, scale: float, steps: int, seed: int) -> dict[str, Any]:
    """One training run; returns its held-out loss and what it cost."""
    name, *settings = method.split(":")
    projection.add_update_int8_ = add_update_in_bf16_ if ORDER_OF_Q_GALORE in settings else EXACT  # type: ignore[attr-defined]
    settings = [_in_full(setting) for setting in settings if setting != ORDER_OF_Q_GALORE]
    overrides = [
        *METHODS[name].settings,
        *EXTRA.get(name, ()),
        *settings,
        f"optim.learning_rate={lr}",
        f"optim.scale={scale}",
        f"train.max_steps={steps}",
        f"train.seed={seed}",
        f"data.path={_one(data, 'train')}",
        f"data.validation_path={_one(data, 'validation')}",
        "train.num_threads=1",
    ]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        parts = build(load_recipe(RECIPE, overrides), RunDir.create(Path(folder) / "run", resume=False), Silent())
        save_model_files(parts.model, parts.data.tokenizer, parts.directory)
        recorder = Recorder(
            Metrics.open(parts.directory.metrics, None),
            Silent(),
            Meter.of(parts.model, parts.device, torch.bfloat16),
            parts.device,
            0,
        )
        result = train(parts, recorder, StopOnSignal())
    assert result is not None
    held = parts.optimizer.memory_by_category()
    return {
        "method": method,
        "lr": lr,
        "scale": scale,
        "steps": steps,
        "seed": seed,
        "loss_nats": result.loss_nats,
        "perplexity": result.perplexity,
        "state_bytes": held["optimizer_states"] + held["projectors"],
        "seconds": time.perf_counter() - started,
    }


def _one(data: Path, part: str) -> Path:
    """The file of that part of the text."""
    found = [*data.glob(f"*.{part}.jsonl.gz")]
    if len(found) != 1:
        sys.exit(f"{data}: {len(found)} files *.{part}.jsonl.gz, and one is needed")
    return found[0]


def _in_full(setting: str) -> str:
    """`head=0.01` as a recipe has it."""
    name, _, value = setting.partition("=")
    return f"optim.{name}_learning_rate={value}" if name in ("head", "embedding") else setting


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def measure(data: Path, out: Path, plan: list[tuple[str, float, float, int, int]]) -> None:
    """Run what of `plan` is not in `out` yet."""
    for method, lr, scale, steps, seed in plan:
        point = {"method": method, "lr": lr, "scale": scale, "steps": steps, "seed": seed}
        if any(all(line[key] == value for key, value in point.items()) for line in lines(out)):
            continue
        row = run(data, method, lr, scale, steps, seed)
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)


def best(out: Path) -> dict[str, tuple[float, float]]:
    """Each method's point of lowest held-out loss in the sweep."""
    swept = sorted((line for line in lines(out) if line["steps"] < STEPS), key=lambda line: -line["loss_nats"])
    return {line["method"]: (line["lr"], line["scale"]) for line in swept}


def edges(out: Path) -> list[str]:
    """A line for each method whose best point has no worse neighbour on some side: what is extreme, and what was tried."""
    swept: dict[str, dict[tuple[float, float], list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in lines(out):
        if line["steps"] < STEPS:
            swept[line["method"]][line["lr"], line["scale"]].append(line["loss_nats"])
    found = []
    for method, points in swept.items():
        best = min(points, key=lambda point: mean(points[point]))
        for at, name in enumerate(("learning rate", "factor")):
            tried = sorted({point[at] for point in points})
            if len(tried) > 1 and best[at] in (tried[0], tried[-1]):
                where = "lowest" if best[at] == tried[0] else "highest"
                found.append(
                    f"{method}: {name} {best[at]:g} is the {where} of {', '.join(f'{each:g}' for each in tried)}"
                )
    return found


def table(out: Path) -> None:
    """Print Markdown tables of the sweep and of the final runs."""
    print("| method | learning rate | factor | steps | held-out loss |\n|---|---|---|---|---|")
    for line in lines(out):
        if line["steps"] < STEPS:
            print(f"| {line['method']} | {line['lr']} | {line['scale']} | {line['steps']} | {line['loss_nats']:.4f} |")
    final = defaultdict(list)
    for line in lines(out):
        if line["steps"] == STEPS:
            final[line["method"]].append(line)
    print(
        "\n| method | lr × factor | seeds | held-out loss | perplexity | states, bytes | seconds |\n|---|---|---|---|---|---|---|"
    )
    for method, runs in final.items():
        losses = [line["loss_nats"] for line in runs]
        spread = f"{mean(losses):.4f} ({min(losses):.4f}–{max(losses):.4f})"
        first = runs[0]
        print(
            f"| {method} | {first['lr']} × {first['scale']} | {len(runs)} | {spread} | "
            f"{mean(line['perplexity'] for line in runs):.1f} | {first['state_bytes']:,} | {mean(line['seconds'] for line in runs):.0f} |"
        )


def seeds(default: str) -> list[int]:
    return [int(seed) for seed in os.environ.get("QUALITY_SEEDS", default).split(",")]


def main() -> None:
    command, *words = sys.argv[1:]
    if command == "table":
        table(Path(words[0]))
        return
    if command == "edge":
        found = edges(Path(words[0]))
        print("\n".join(found) or "no best point is at an edge")
        sys.exit(bool(found))
    data, out, methods = Path(words[0]).resolve(), Path(words[1]), words[2].split(",")
    for method in methods:  # in order, so that a sweep's best is known when its final comes
        if command == "sweep":
            measure(data, out, [(method, *point, SWEEP_STEPS, 0) for point in POINTS[method.split(":")[0]]])
            continue
        found = best(out)
        point = found.get(method) or found[method.split(":")[0]]  # galore:optim.rank=32 is run at the point of galore
        if command == "rates":
            labels = [f"{method}:{of}={rate}" for of in ("head", "embedding") for rate in RATES]
            measure(data, out, [(label, *point, SWEEP_STEPS, seed) for label in labels for seed in seeds("0")])
        elif command == "ablate":
            measure(data, out, [(method, *point, SWEEP_STEPS, seed) for seed in seeds("0")])
        else:
            measure(data, out, [(method, *point, STEPS, seed) for seed in seeds("1")])


if __name__ == "__main__":
    main()
