"""How true memory profiles are: `python bench/memory.py measured|published|shipped|sizes` prints one Markdown table.

measured   predicted against the CPU's allocator, for real steps of LLaMA-60M and 350M (20 minutes)
published  LLaMA-7B against figures of other code for the same settings
shipped    every shipped recipe of a model from its dimensions on a 24 GB card; `shipped --write` puts it into docs/memory.md and fit/shipped.json
sizes      seconds and resident memory of a profile, from 7B to 70B
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from galore.trainer.fit.predict import profile_on
from galore.trainer.fit.shipped import TABLE
from galore.trainer.fit.verify import verify
from galore.trainer.machine.cards import card
from galore.trainer.memory.verdict import VERDICTS
from galore.trainer.recipe.load import LoadedRecipe, load_recipe
from galore.trainer.recipe.shipped import shipped_names

GIB = 2**30
PAGE = Path(__file__).parents[1] / "docs/memory.md"
HEAD = (
    "| recipe | micro-batch × tokens | peak in the | allocated, GiB | total, GiB | of | RTX 4090 |\n" + "|---" * 7 + "|"
)
METHODS = {
    "full": ["optim.method=full"],
    "GaLore, SVD": ["optim.proj_type=svd"],
    "GaLore, randomized, checkpointing": ["optim.proj_type=randomized", "train.gradient_checkpointing=true"],
    "GaLore 8-bit": ["optim.state_dtype=8bit"],
    "GaLore, every switch of the small cards": [
        "optim.weight_dtype=int8",
        "optim.projector_dtype=int4",
        "optim.state_dtype=8bit",
        "optim.accumulator_dtype=bfloat16",
        "train.gradient_checkpointing=true",
    ],
    "LoRA": ["optim.method=lora"],
}
HOOK = ["optim.update=immediate", "optim.refresh=first-micro-batch", "optim.max_grad_norm=null"]
HOOK += ["optim.state_dtype=8bit", "optim.stagger=false"]
LLAMA_13B = ["model.hidden_size=5120", "model.intermediate_size=13824", "model.num_hidden_layers=40"]
LLAMA_13B += ["model.num_attention_heads=40"]
LLAMA_70B = ["model.hidden_size=8192", "model.intermediate_size=28672", "model.num_hidden_layers=80"]
LLAMA_70B += ["model.num_attention_heads=64", "model.num_key_value_heads=8"]

# GiB with a context of 0.48, expandable segments, RTX 4090, batch 1: a tracer and a replay of other code
PUBLISHED = (
    ("AdamW, fused, bf16 moments", 51.2, 256, False, ["optim.method=full"]),
    ("AdamW 8-bit", 39.0, 256, False, ["optim.method=full", "optim.state_dtype=8bit"]),
    ("GaLore 8-bit r=1024 in the hook, SVD", 20.8, 256, False, [*HOOK, "optim.proj_type=svd"]),
    ("GaLore 8-bit r=1024 in the hook, SVD", 25.1, 1024, False, [*HOOK, "optim.proj_type=svd"]),
    ("GaLore 8-bit r=1024 in the hook, SVD", 20.3, 2048, True, [*HOOK, "optim.proj_type=svd"]),
    ("GaLore 8-bit r=1024 in the hook, randomized", 19.6, 2048, True, [*HOOK, "optim.proj_type=randomized"]),
    ("LoRA r=16, bf16 moments", 14.8, 2048, True, ["optim.method=lora", "optim.rank=16"]),
)


def measured() -> None:
    print("| recipe | method | accumulation | predicted | measured | error |\n|---|---|---|---|---|---|")
    for recipe in ("llama-60m", "llama-350m"):
        for method, settings in METHODS.items():
            for accumulation in (1, 4):
                batch = ["train.micro_batch_size=2", f"train.global_batch_size={2 * accumulation}", "train.device=cpu"]
                found = verify(load_recipe(recipe, [*settings, *batch]))
                error = found.error(found.predicted, found.measured)
                sizes = f"{found.predicted:,} | {found.measured:,} | {error}"
                print(f"| {recipe} | {method} | {accumulation} | {sizes} |", flush=True)


def published() -> None:
    print("| LLaMA-7B | tokens | checkpointing | published, GiB | ours, GiB | difference |\n|---|---|---|---|---|---|")
    for name, expected, length, checkpointing, settings in PUBLISHED:
        one = ["train.global_batch_size=1", "train.micro_batch_size=1", f"data.max_length={length}"]
        one.append(f"train.gradient_checkpointing={str(checkpointing).lower()}")
        profile = profile_on(load_recipe("llama-7b", [*settings, *one]), card("rtx4090"))
        ours = profile.reserved(True).high / GIB + 0.48
        difference = f"{100 * (ours / expected - 1):+.1f} %"
        print(f"| {name} | {length} | {'yes' if checkpointing else 'no'} | {expected} | {ours:.2f} | {difference} |")


def shipped() -> None:
    print(HEAD)
    rows = []
    for name in shipped_names():
        loaded = load_recipe(name)
        if loaded.recipe.model.name_or_path is None:  # else it is as large as the checkpoint that a user names
            rows.append(shipped_row(loaded))
            print(rows[-1], flush=True)
    if "--write" in sys.argv:
        above, _, rest = PAGE.read_text(encoding="utf-8").partition(HEAD)
        below = rest[rest.index("\n\n") :]
        PAGE.write_text(above + "\n".join([HEAD, *rows]) + below, encoding="utf-8")
        TABLE.write_text(json.dumps(totals(rows), indent=1) + "\n", encoding="utf-8")


def totals(rows: list[str]) -> dict[str, float]:
    """Recipe → total in GiB, of the rows of the page."""
    cells = [[cell.strip() for cell in row.split("|")] for row in rows]
    return {row[1]: float(row[5]) for row in cells}


def shipped_row(loaded: LoadedRecipe) -> str:
    profile = profile_on(loaded, card("rtx4090"))
    batch = f"{loaded.recipe.train.micro_batch_size} × {loaded.recipe.data.max_length}"
    sizes = f"{profile.allocated.high / GIB:.2f} | {profile.total.high / GIB:.2f} | {profile.limit.low / GIB:.2f}"
    return f"| {loaded.name} | {batch} | {profile.peak.phase} | {sizes} | {VERDICTS[profile.fits].lower()} |"


def sizes() -> None:
    print("| model | seconds, from the command line | resident memory, GiB | total, GiB |\n|---|---|---|---|")
    for name, settings in (("7B", []), ("13B", LLAMA_13B), ("70B", LLAMA_70B)):
        seconds, peak, found = _profiled(["llama-7b-galore-8bit", *settings, "--json", "--no-advise"])
        print(f"| {name} | {seconds:.1f} | {peak / GIB:.2f} | {found['total_bytes'] / GIB:.1f} |", flush=True)


def _profiled(arguments: list[str]) -> tuple[float, int, dict[str, int]]:
    """Seconds, most resident bytes of it and of its forerunners, and the JSON object of one command."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "galore.cli.main", "profile-memory", *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds = time.perf_counter() - started
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, json.loads(output)


if __name__ == "__main__":
    {"measured": measured, "published": published, "shipped": shipped, "sizes": sizes}[sys.argv[1]]()
