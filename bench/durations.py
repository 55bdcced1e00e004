"""Predicted seconds of training against published ones, of other people's runs, and against measured ones, here.

    python bench/durations.py [--json]
    python bench/durations.py --here RECIPE [--methods NAME …] [--json] [--set SECTION.KEY=VALUE …]

The second form times each operation of an ordinary step alone on this machine's CPU, adds them up, and compares that with whole
steps, by method. Described by what their software does:

A run is a list of products, attention, passes over memory and copies over the bus, made from the model's dimensions and
the switches of the command that was published with it. The rates are those of `galore profile-memory`; those marked
"chosen by" were looked at when the shares in trainer/time/rates.py were chosen, all others were not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from galore.trainer.machine.cards import card
from galore.trainer.time.estimate import Part, Step
from galore.trainer.time.rates import CardRates, card_rates
from galore.trainer.time.work import Work

HALF = 2  # bytes of bfloat16
FLASH_FORWARD, FLASH_BACKWARD = 2, 5  # products of (T, T) by the width of a head


@dataclass(frozen=True)
class Model:
    """Dimensions as the configurations say them."""

    layers: int
    hidden: int
    inner: int
    heads: int
    keys: int
    head: int
    vocabulary: int


QWEN = {  # Qwen2.5, huggingface configurations
    "0.5B": Model(24, 896, 4864, 14, 2, 64, 151_936),
    "1.5B": Model(28, 1536, 8960, 12, 2, 128, 151_936),
    "3B": Model(36, 2048, 11_008, 16, 2, 128, 151_936),
    "7B": Model(28, 3584, 18_944, 28, 4, 128, 152_064),
    "14B": Model(48, 5120, 13_824, 40, 8, 128, 152_064),
}
LLAMA2_1B = Model(22, 2048, 5632, 32, 4, 64, 32_000)
LLAMA31_8B = Model(32, 4096, 14_336, 32, 8, 128, 128_256)
NANOCHAT_D20 = Model(20, 1280, 5120, 10, 10, 128, 65_536)


@dataclass(frozen=True)
class Run:
    """A published run.

    Attributes:
        again: what is computed again in the backward: "block", "ffn", "qkv", "swiglu" (a pass only).
        passes: of a block's tensors through memory, 1 for fused kernels, 2 for compiled blocks, 4 for eager torch.
        gated: the MLP has a gate; adapters: the weights are frozen, their gradients are not formed.
        bus: copies of (weights, gradients, block inputs) over the bus in each micro-batch.
        update: bytes through the card's memory per parameter and step.
    """

    name: str
    card: str
    model: Model
    length: int
    rows: int
    accumulation: int
    tokens_per_second: float
    source: str
    again: tuple[str, ...] = ()
    passes: float = 1.0
    gated: bool = True
    adapters: bool = False
    bus: tuple[int, int, int] = (0, 0, 0)
    update: float = 16.0
    chosen_by: bool = False


CHOSEN_BY = (("rtx4090", "0.5B"), ("rtx4090", "1.5B"), ("h100-80g", "1.5B"))
LLMQ = "IST-DASLab/llmq b77d969, benchmarks"


def _llmq(size: str, where: str, rows: int, times: int, tokens: float, again: str = "", offload: str = "") -> Run:
    """`offload`: letters of w(eights), g(radients), r(esidual)."""
    bus = (2 * ("w" in offload), 2 * ("g" in offload), 2 * ("r" in offload))
    run = Run(f"LLMQ BF16 {size}", where, QWEN[size], 1024, rows, times, tokens, LLMQ, tuple(again.split()), bus=bus)
    return replace(run, chosen_by=(where, size) in CHOSEN_BY)


RUNS = [
    _llmq("0.5B", "rtx4090", 16, 32, 39_860),
    _llmq("1.5B", "rtx4090", 4, 128, 14_076),
    _llmq("3B", "rtx4090", 4, 128, 7_004, "swiglu"),
    _llmq("7B", "rtx4090", 16, 32, 2_779, "block", "wr"),
    _llmq("14B", "rtx4090", 32, 16, 1_349, "block", "wgr"),
    _llmq("0.5B", "rtx5060ti-16g", 10, 51, 13_011),
    _llmq("1.5B", "rtx5060ti-16g", 8, 64, 3_899, "ffn att"),
    _llmq("3B", "rtx5060ti-16g", 16, 32, 2_013, "ffn qkv", "wr"),
    _llmq("7B", "rtx5060ti-16g", 32, 16, 889, "block", "wgr"),
    _llmq("0.5B", "h100-80g", 32, 16, 149_000),
    _llmq("1.5B", "h100-80g", 32, 16, 58_875),
    _llmq("3B", "h100-80g", 16, 32, 30_916),
    _llmq("7B", "h100-80g", 4, 128, 13_818),
    Run("torchao Llama2-1B bf16", "rtx4090", LLAMA2_1B, 2048, 32, 1, 17_000, "pytorch/ao 36027d8, prototype/quantized_training", ("block",), 2.0),
    Run("torchtune Llama-3.1 8B LoRA", "rtx4090", LLAMA31_8B, 2048, 2, 1, 3_083, "pytorch/torchtune bd2a0fc, README", ("block",), 2.0, adapters=True, update=0.0),
    Run("nanochat d20", "rtx4090", NANOCHAT_D20, 2048, 4, 64, 38_000, "karpathy/nanochat issue 157", (), 2.0, gated=False),
]  # fmt: skip


def micro_batch(run: Run) -> Iterator[Work]:
    """Forward and backward of one micro-batch."""
    model, tokens = run.model, run.rows * run.length
    queries, keys = model.heads * model.head, model.keys * model.head
    widths = (2 if run.gated else 1) * model.inner
    parts = {
        "qkv": [(queries + 2 * keys, model.hidden)],
        "att": [(model.hidden, queries)],
        "ffn": [(widths, model.hidden), (model.hidden, model.inner)],
    }
    backward = 1 if run.adapters else 2
    for name, matrices in parts.items():
        again = name in run.again or "block" in run.again
        for out, inner in matrices:
            yield from _products(tokens, out, inner, model.layers * (1 + again), model.layers * backward)
    yield from _products(tokens, model.vocabulary, model.hidden, 1, backward)
    pairs = run.rows * model.heads * run.length**2 * model.head / 2 * model.layers
    recomputed = FLASH_FORWARD if "block" in run.again or "att" in run.again else 0
    for products in (FLASH_FORWARD + recomputed, FLASH_BACKWARD):
        yield Work("attention", 2.0 * products * pairs, 0, torch.bfloat16)
    once = 8 * model.hidden + 3 * (queries + keys) + (widths + model.inner)
    times = 3 + ("block" in run.again) + 0.3 * ("swiglu" in run.again)
    each = Work("pass", 0, run.passes * HALF * tokens * once / 4)
    yield from [each] * int(4 * times * model.layers)
    yield Work("pass", 0, 5.0 * HALF * tokens * model.vocabulary)
    weights = model.layers * sum(out * inner for matrices in parts.values() for out, inner in matrices)
    if not run.adapters:
        yield Work("pass", 0, 2.0 * HALF * weights)  # gradients are added up
    inputs = model.layers * tokens * model.hidden
    for times_moved, size in zip(run.bus, (weights, weights, inputs), strict=True):
        if times_moved:
            yield Work("from host", 0, HALF * size)
            yield Work("to host", 0, HALF * size if size == inputs or times_moved > 1 else 0)


def _products(tokens: int, out: int, inner: int, forwards: int, backwards: int) -> Iterator[Work]:
    """`backwards` products give the input's gradient first, and the weight's where there are two for each layer."""
    flops = 2.0 * tokens * out * inner
    moved = HALF * (tokens * out + tokens * inner + out * inner)
    yield from [Work("product", flops, moved, torch.bfloat16, (1, tokens, out, inner))] * forwards
    for shape in ((1, tokens, inner, out), (1, out, inner, tokens)):
        yield from [Work("product", flops, moved, torch.bfloat16, shape)] * (backwards // 2)
    yield from [Work("product", flops, moved, torch.bfloat16, (1, tokens, inner, out))] * (backwards % 2)


def step(run: Run, rates: CardRates) -> Step:
    """Graphs are launched, or compiled blocks: the host is not counted."""
    micro, update = Part(), Part()
    for work in micro_batch(run):
        micro.add(work.kind, run.accumulation * rates.of(work))
    parameters = run.model.layers * sum(
        out * inner
        for out, inner in (
            (run.model.heads * run.model.head * 2 + 2 * run.model.keys * run.model.head, run.model.hidden),
            ((3 if run.gated else 2) * run.model.inner, run.model.hidden),
        )
    )
    update.add("pass", rates.of(Work("pass", 0, run.update * parameters)))
    return Step({"micro-batches": micro, "update": update})


def rows() -> list[dict[str, object]]:
    """Each run, predicted and published."""
    found: list[dict[str, object]] = []
    for run in RUNS:
        rates = card_rates(card(run.card))
        assert rates is not None, run.card
        tokens = run.rows * run.length * run.accumulation
        slow, fast = (tokens / step(run, each).seconds for each in rates)
        middle = (slow * fast) ** 0.5
        found.append(
            {
                "run": run.name,
                "card": run.card,
                "published": run.tokens_per_second,
                "least": round(slow),
                "most": round(fast),
                "middle": round(middle),
                "error": round(middle / run.tokens_per_second - 1, 3),
                "within": slow <= run.tokens_per_second <= fast,
                "chosen by": run.chosen_by,
                "source": run.source,
            }
        )
    return found


def here(recipe: str, methods: Sequence[str], settings: Sequence[str]) -> list[dict[str, object]]:
    """Each method's ordinary step: its operations timed alone and added up, and as a whole."""
    from galore.trainer.fit.duration import pace
    from galore.trainer.recipe.load import load_recipe
    from galore.trainer.recipe.methods import METHODS

    found = []
    for name in methods:
        loaded = load_recipe(recipe, ["train.device=cpu", *settings, *METHODS[name].settings])
        taken = pace(loaded, torch.device("cpu"))
        found.append({"recipe": recipe, "method": name, **taken.as_json()})
        print(f"{recipe} {name}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--here", metavar="RECIPE")
    parser.add_argument("--methods", nargs="+", default=["full", "galore", "galore-8bit", "lora", "apollo"])
    parser.add_argument("--set", nargs="+", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = here(given.here, given.methods, given.set) if given.here else rows()
    if given.json:
        print(json.dumps(found, indent=2))
    elif given.here:
        show_here(found)
    else:
        show_published(found)


def show_here(found: list[dict[str, object]]) -> None:
    print("| recipe | method | micro-batches | predicted s | measured s | error |\n|---|---|---|---|---|---|")
    for row in found:
        print(f"| {row['recipe']} | {row['method']} | {row['micro_batches']} | {row['predicted']:.3f} | {row['measured']:.3f} | {row['error_fraction']:+.1%} |")  # fmt: skip


def show_published(found: list[dict[str, object]]) -> None:
    print("| run | card | published tok/s | predicted | middle | error | |\n|---|---|---|---|---|---|---|")
    for row in found:
        mark = "shares chosen by it" if row["chosen by"] else "" if row["within"] else "outside"
        print(f"| {row['run']} | {row['card']} | {row['published']:,} | {row['least']:,}–{row['most']:,} | {row['middle']:,} | {row['error']:+.1%} | {mark} |")  # fmt: skip
    others = [abs(row["error"]) for row in found if not row["chosen by"]]  # type: ignore[arg-type]
    print(f"\nOf {len(others)} others: median error {statistics.median(others):.1%}, largest {max(others):.1%}.")


if __name__ == "__main__":
    main()
