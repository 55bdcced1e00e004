"""Streamed weights: what they take of card, host and bus, and that they are resident ones to the bit.

    python bench/streaming.py table               7B to 70B on a 24 GB card, predicted (10 minutes)
    python bench/streaming.py speed               its last column alone
    python bench/streaming.py measured            LLaMA-60M and 350M here, predicted against measured (10 minutes)
    python bench/streaming.py kills [--kills 20]  streamed runs under `kill -9`, resumed, compared (10 minutes)
    python bench/streaming.py billion             two steps of LLaMA-1B here, streamed; 10 GiB of memory

Every number of `table` is predicted. A bus of 22 GB/s and 80 % of the card's published peak are assumed.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import tempfile
import time
from pathlib import Path

import psutil

from galore.trainer.fit.duration import few_blocks
from galore.trainer.fit.hostmemory import host_profile
from galore.trainer.fit.predict import predict, profile_on
from galore.trainer.fit.verify import verify
from galore.trainer.machine.cards import card
from galore.trainer.machine.gpus import GPUS
from galore.trainer.machine.process import prepare_process
from galore.trainer.recipe.load import LoadedRecipe, load_recipe

sys.path.append(str(Path(__file__).parent))  # a safe path leaves this folder out
Trial = importlib.import_module("kill9").Trial

GIB = 2**30
BUS, SHARE = 22e9, 0.8
STREAMED, OFFLOADED = "train.stream_weights=true", "train.offload_activations=true"
ROWS = (
    ("7B, resident", "llama-7b-12gb", []),
    ("7B", "llama-7b-12gb", [STREAMED, "train.micro_batch_size=2"]),
    ("13B", "llama-13b-24gb", [STREAMED, OFFLOADED, "train.micro_batch_size=2"]),
    ("32B", "llama-32b-24gb", []),
    ("32B, Qwen2.5's shape", "qwen-32b-24gb", []),
    ("70B", "llama-70b-24gb", []),
)
MEASURED = {
    "galore": [],
    "galore, codes": ["optim.weight_dtype=int8", "optim.state_dtype=8bit", "train.gradient_checkpointing=true"],
    "fira, sums on the host": ["optim.residual=fira", "optim.gradient_sums=host"],
    "full, sums on the host": ["optim.method=full", "optim.gradient_sums=host"],
}
KILLED = (("galore", ["optim.weight_dtype=int8"], 8), ("lora", [], 6), ("full", ["optim.gradient_sums=host"], 6))
BILLION = ["train.device=cpu", STREAMED, "train.global_batch_size=2", "train.micro_batch_size=1", "data.max_length=128"]
BILLION += ["optim.rank=128"]
BILLION += ["optim.weight_dtype=int8", "optim.state_dtype=8bit", "train.gradient_checkpointing=true"]


HEAD = (
    "model | weights on the host | card, GiB | host, GiB | smallest machine, GiB",
    "bus per step, GB, to the card + back | tokens of a micro-batch that hide it: on average / in the forward, too",
    "tokens/s",
)


def table() -> None:
    print(f"| {' | '.join(HEAD)} |\n" + "|---" * 8 + "|")
    for name, recipe, settings in ROWS:
        loaded = load_recipe(recipe, settings)
        host, there = host_profile(loaded, "cuda"), profile_on(loaded, card("rtx4090"))
        waiting = host.pinned["blocks of weights"]
        moved = " + ".join(f"{each / 1e9:,.0f}" for each in host.bus)
        sizes = f"{waiting / GIB:.1f} | {there.total.high / GIB:.1f} | {host.total / GIB:.1f} | {host.least_machine}"
        print(f"| {name} | {sizes} | {moved} | {_hidden() if waiting else '–'} | {_speed(loaded)} |", flush=True)


def speed() -> None:
    """The last column of the table alone."""
    for name, recipe, settings in ROWS:
        print(f"| {name} | {_speed(load_recipe(recipe, settings))} |", flush=True)


def _speed(loaded: LoadedRecipe) -> str:
    """At the least and at the most of the card's rates, with an ordinary share of refreshes."""
    step = few_blocks(loaded, card("rtx4090"), None)
    return "–" if step is None else "{:,.0f}–{:,.0f}".format(*step.tokens_per_second)


def _hidden() -> str:
    """Of a block of codes. A forward takes 2 FLOPs per weight and token, a recomputed backward 6 more."""
    nbytes, flops = 1 + 2 / 128, SHARE * GPUS["RTX 4090"].tensor
    return " / ".join(f"{nbytes * flops / BUS * fetches / work:,.0f}" for fetches, work in ((2, 8), (1, 2)))


def measured() -> None:
    print("| model | method | what | predicted | measured | error |\n|---|---|---|---|---|---|")
    for recipe in ("llama-60m", "llama-350m"):
        for method, settings in MEASURED.items():
            batch = ["train.micro_batch_size=1", "train.global_batch_size=2", "train.device=cpu", STREAMED]
            found = verify(load_recipe(recipe, [*settings, *batch]))
            for what, (ours, theirs) in {"device": (found.predicted, found.measured), **found.host}.items():
                print(
                    f"| {recipe} | {method} | {what} | {ours:,} | {theirs:,} | {found.error(ours, theirs)} |",
                    flush=True,
                )


def kills(many: int, seed: int) -> None:
    rng, total = random.Random(seed), 0
    for method, settings, share in KILLED:
        own = [STREAMED, "model.num_hidden_layers=4", *settings]
        with tempfile.TemporaryDirectory() as folder:
            trial = Trial(method, 2, -(-many * share // 20), Path(folder), steps=30, settings=own)
            found = trial.survive(rng)
        if not found.same:
            sys.exit(f"{method}: NOT the same\n{found.expected[1]}\n{found.got[1]}")
        print(
            f"{method}: {found.kills} kills, {len(found.got[0])} steps and {len(found.got[1])} files the same",
            flush=True,
        )
        total += found.kills
    print(f"{total} kills survived")


def billion() -> None:
    """Predicted first, then carried out, with the process's own memory beside it."""
    prepare_process()
    loaded = load_recipe("llama-1b", BILLION)
    host, trace = host_profile(loaded, "cpu"), predict(loaded, None)
    device, waiting = max(trace.requested()), sum(host.pinned.values())
    together = (device + waiting) / GIB
    print(f"predicted: device {device:,}, host {waiting:,}, together {together:.2f} GiB", flush=True)
    before, started = psutil.Process().memory_info().rss, time.perf_counter()
    found = verify(loaded)
    seconds, peak = time.perf_counter() - started, _peak_resident()
    for what, (ours, theirs) in {"device": (found.predicted, found.measured), **found.host}.items():
        print(f"{what}: predicted {ours:,}, measured {theirs:,}, {found.error(ours, theirs)}")
    print(f"resident: {before / GIB:.2f} GiB before, {peak / GIB:.2f} GiB at most; {seconds:.0f} s")


def _peak_resident() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["table", "speed", "measured", "kills", "billion"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.what == "kills":
        kills(arguments.kills, arguments.seed)
    else:
        {"table": table, "speed": speed, "measured": measured, "billion": billion}[arguments.what]()


if __name__ == "__main__":
    main()
