"""Weights in parts on several processes of this machine (parallel.mode: fsdp) against one that has them whole.

    python bench/fsdp.py [table] [memory] [reshard] [kills] [--ranks 4] [--kills 4] [--seed 0] [--minutes 20]

table    Every method in so many parts against one process: the largest relative difference of a loss, a gradient norm and
         a held-out loss, the largest difference of a weight, and the bytes given into the collectives of an ordinary step.
memory   Bytes of one process, by category: predicted, and measured in the run.
reshard  A checkpoint of so many processes taken up and saved again by one, and by two, to the bit.
kills    `kill -9` of a random rank at a random step, `--resume`, again and again: every row and tensor as of the run
         nobody killed.

After so many minutes no further method, and no further kill, is begun.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RANKS = runpy.run_path(str(Path(__file__).with_name("ranks.py")))
start, finish, rows, difference = (RANKS[name] for name in ("start", "finish", "rows", "difference"))
IN_PARTS = "parallel.mode=fsdp"
SHORT = ["train.max_steps=6", "train.save_steps=3", "eval.eval_steps=3", "eval.max_tokens=1000"]
ALIGNED = ["model.intermediate_size=1024", "optim.target_modules=[mlp]", "optim.state_dtype=8bit"]
METHODS = {
    "galore, delayed": [],
    "galore, two-pass": ["optim.refresh=two-pass", "optim.stagger=false"],
    "galore, summed": ["optim.refresh=summed"],
    "galore, first-micro-batch": ["optim.refresh=first-micro-batch"],
    "galore, dct": ["optim.proj_type=dct"],
    "galore, 8-bit states": ["optim.state_dtype=8bit"],
    "galore, 8-bit states, parts of whole blocks": ALIGNED,
    "galore, recomputed": ["train.gradient_checkpointing=true"],
    "lora": ["optim.method=lora", "optim.scale=0.25", "optim.train_modules=[embed_tokens,lm_head]"],
    "full": ["optim.method=full"],
}


def table(root: Path, ranks: int, until: float) -> None:
    print(
        f"| method, {ranks} parts | loss | norm | held-out loss | weight | bytes in an ordinary step |\n|---|---|---|---|---|---|"
    )
    for method, settings in METHODS.items():
        if time.monotonic() > until:
            return
        one, parts = root / method / "1", root / method / str(ranks)
        finish(start(one, 1, [*SHORT, *settings]))
        finish(start(parts, ranks, [*SHORT, *settings, IN_PARTS]))
        told = [f"{each:.1e}" for each in difference(one, parts).values()]
        sent = sum(json.loads((parts / "run.json").read_text())["parallel"]["sent_bytes_per_step"].values())
        print(f"| {method} | {' | '.join(told)} | {weight_difference(one, parts):.1e} | {sent:,} |", flush=True)


def last(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*"))


def weight_difference(one: Path, other: Path) -> float:
    from safetensors.torch import load_file

    first, second = (load_file(last(run) / "model.safetensors") for run in (one, other))
    return max(float((first[name].float() - second[name].float()).abs().max()) for name in first)


def memory(root: Path, ranks: int) -> None:
    from galore.trainer.fit.ranks import of_one_rank, profile_of_part
    from galore.trainer.machine.cards import card_or_default
    from galore.trainer.recipe.load import load_recipe

    large = ["model.hidden_size=256", "model.intermediate_size=512", "optim.rank=64", "model.vocab_size=4096", *SHORT]
    finish(start(root, ranks, [*large, IN_PARTS]))
    measured = rows(root, "train")[-1]["memory_by_category_bytes"]
    loaded = of_one_rank(load_recipe("demo", [*RANKS["SETTINGS"], *large, IN_PARTS]), ranks)
    predicted = profile_of_part(loaded, card_or_default(None), ranks).peak.categories
    print(f"| one of {ranks} | predicted | measured |\n|---|---|---|")
    for name in ("weights", "gradients", "optimizer_states", "projectors", "accumulators"):
        print(f"| {name} | {predicted[name]:,} | {measured[name]:,} |")


def reshard(root: Path, ranks: int) -> None:
    """Save by so many, take up and save again by one, and that by two."""
    for name, settings in (("float32", []), ("8-bit states", ALIGNED)):
        run = root / name / str(ranks)
        finish(start(run, ranks, [*SHORT, *settings, IN_PARTS]))
        digests = {f"saved by {ranks}": digest(last(run))}
        for size in (1, 2):
            out = root / name / str(size)
            finish(workers(run, out, size))
            digests[f"by {size}"] = digest(last(out))
            run = out
        same = len(set(digests.values())) == 1
        print(
            f"{name}: {', then '.join(digests)}: {'the same bits' if same else f'NOT THE SAME: {digests}'}", flush=True
        )


def digest(checkpoint: Path) -> str:
    found = hashlib.sha256()
    for name in ("model.safetensors", "optimizer.safetensors"):
        found.update((checkpoint / name).read_bytes())
    return found.hexdigest()


def workers(run: Path, out: Path, size: int) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    command = [sys.executable, __file__, "again", str(run), str(out)]
    environments = [os.environ | where | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
    return [subprocess.Popen(command, env=env, stderr=subprocess.PIPE) for env in environments]


def again(run: Path, out: Path) -> None:
    """Take up the last checkpoint of `run`, as one of the processes that the environment names, and save it in `out`."""
    import shutil

    import torch

    from galore.trainer.build import build_model
    from galore.trainer.checkpoint import checkpoint
    from galore.trainer.checkpoint.state import capture, random_state, restore
    from galore.trainer.optimizer import attach_optimizer, attach_sharded
    from galore.trainer.parallel.giving import giving
    from galore.trainer.parallel.group import join, leave
    from galore.trainer.recipe.load import load_recipe

    torch.set_num_threads(1)
    loaded, group = load_recipe(str(run / "recipe.yaml")), join("cpu")
    saved, _ = checkpoint.newest_verified(run / "checkpoints")
    assert saved is not None
    rows = saved.load("model")["model.embed_tokens.weight"].shape[0]
    model, _ = build_model(loaded.recipe, rows, "cpu", loaded.base_dir)
    attached: Any = attach_optimizer(model, loaded.recipe, 1) if group is None else None
    optimizer = attached or attach_sharded(model, loaded.recipe, 1, group, torch.device("cpu"))  # type: ignore[arg-type]
    restore(saved, model, optimizer)
    tensors, state = capture(model, optimizer, random_state(), group)
    if group is None or group.is_first:
        (out / "checkpoints").mkdir(parents=True)
        shutil.copy(run / "recipe.yaml", out)
    if group is None:
        checkpoint.save(out / "checkpoints", saved.step, tensors, state, 2)
        return
    with giving(tensors, group) as given:
        if group.is_first:
            checkpoint.save(out / "checkpoints", saved.step, given, state, 2)
    leave()


def kills(root: Path, count: int, rng: random.Random, until: float) -> None:
    RANKS["SETTINGS"].append(IN_PARTS)
    RANKS["kills"](root, count, rng, until)


def main() -> None:
    if sys.argv[1:2] == ["again"]:
        again(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["table", "memory", "reshard", "kills"])
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=20.0)
    arguments = parser.parse_args()
    until = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if "table" in arguments.parts:
            table(root / "table", arguments.ranks, until)
        if "memory" in arguments.parts:
            memory(root / "memory", arguments.ranks)
        if "reshard" in arguments.parts:
            reshard(root / "reshard", arguments.ranks)
        if "kills" in arguments.parts:
            kills(root / "kills", arguments.kills, random.Random(arguments.seed), until)


if __name__ == "__main__":
    main()
