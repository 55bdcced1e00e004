"""The parts of weights that lie in parts (`parallel.mode: fsdp`): against one process, cut otherwise, killed, measured."""

from __future__ import annotations

import random
import shutil
import signal
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

from prove import child

from ranks import cases, launch
from ranks.agents import WORDS, restarted, stopped
from ranks.memory import IN_PARTS
from ranks.parts import AGAINST, asked_at, difference, killed_words, struck_at
from ranks.trials import Part, Trials

MOMENTS, KILLED = 10, 4  # kills, and ranks of the runs that are killed

# Parts of 256 columns and more: whole blocks of 8-bit states, which are rounded as in one process.
ALIGNED = ("model.intermediate_size=1024", "optim.target_modules=[mlp]")
INT8 = ("optim.weight_dtype=int8", *ALIGNED)
OF_METHODS = (
    "galore", "full", "lora", "refresh two-pass", "refresh summed", "refresh first-micro-batch",
    "epsilon of 1e-8", "galore-8bit", "q-galore", "low-rank", "dct", "random", "projection hook", "galore-svd", "power",
    "galore-keep", "full-8bit", "fp8 states",
)  # fmt: skip
BY_ALL = "parallel.checkpoints=parts"
LARGER = (
    "model.hidden_size=512", "model.intermediate_size=1024", "model.num_hidden_layers=4", "optim.method=full",
    "data.max_length=16", "train.max_steps=6", "train.save_steps=1", "eval.eval_steps=null",
)  # fmt: skip
SIZES = {"galore": (2, 4), "lora": (2, 4)}  # of the others 4 parts
CONTROLLED = (
    "galore",
    "lora",
    "full",
    "epsilon of 1e-8",
    "full, epsilon of 1e-8",
    "8-bit states, whole blocks",
    "int8, recomputed",
)
MORE = {
    "galore, recomputed": ("train.gradient_checkpointing=true",),
    "8-bit states, whole blocks": ("optim.state_dtype=8bit", *ALIGNED),
    "int8, recomputed": (*INT8, "optim.weight_rounding=nearest", "train.gradient_checkpointing=true"),
    "int8, stochastic rounding": INT8,
    "full, epsilon of 1e-8": ("optim.method=full", "optim.adam_epsilon=1e-8"),
    "uneven: 10 rows, 5 at a time": ("train.global_batch_size=10", "train.micro_batch_size=5"),
}
RESHARDED = {
    "galore": (),
    "galore, summed": ("optim.refresh=summed",),
    "full": ("optim.method=full",),
    "lora": ("optim.method=lora", *cases.ADAPTERS),
    "int8 weights": INT8,
    "8-bit states, parts of whole blocks": ("optim.state_dtype=8bit", *ALIGNED),
    "fp8 states, parts of whole blocks": ("optim.state_dtype=fp8", *ALIGNED),
    "int4 projectors": ("optim.projector_dtype=int4",),
}


def methods(folder: Path, rng: random.Random) -> Trials:
    known = cases.methods()
    plain = ["demo", *cases.TINY, *cases.STEPS, cases.DAMPED]
    words = {name: known[name] for name in OF_METHODS} | {name: [*plain, *each] for name, each in MORE.items()}
    return {
        name: partial(against_one, folder / str(number), each, SIZES.get(name, (4,)), name in CONTROLLED)
        for number, (name, each) in enumerate(words.items())
    }


def data(folder: Path, rng: random.Random) -> Trials:
    words = cases.data(folder / "data")
    return {name: partial(against_one, folder / str(n), each, (4,)) for n, (name, each) in enumerate(words.items())}


def against_one(folder: Path, words: list[str], sizes: tuple[int, ...], controlled: bool = False) -> dict[str, Any]:
    """So many parts against one process with more accumulation; and, `controlled`, that in micro-batches of two."""
    launch.finish(folder / "1", 1, words)
    found: dict[str, Any] = {"holds": None}
    if controlled:
        launch.finish(folder / "other", 1, [*words, "train.micro_batch_size=2"])
        found["control"] = difference(folder / "1", folder / "other")
    for count in sizes:
        launch.finish(folder / str(count), count, [*words, IN_PARTS])
        found[str(count)] = difference(folder / "1", folder / str(count))
    return found


def resharded(folder: Path, rng: random.Random) -> Trials:
    return {name: partial(cut_again, folder / str(n), [*each]) for n, (name, each) in enumerate(RESHARDED.items())}


def cut_again(folder: Path, settings: list[str]) -> dict[str, Any]:
    """A checkpoint of 4 parts, taken up and saved by one process, that by 2, and that by 4: digests of its tensors."""
    run = folder / "4"
    launch.finish(run, 4, ["demo", *cases.TINY, *cases.STEPS, *settings, IN_PARTS])
    digests = {"4": launch.tensors(run)}
    for size in (1, 2, 4):
        out, at = folder / f"by {size}", launch.port()
        said = folder / f"by {size}.said"
        each = [child.start(partial(_save_again, rank, size, at, run, out), said) for rank in range(size)]
        if wrong := [ended for ended in launch.wait(each) if ended.code != 0]:
            raise RuntimeError(f"saved again by {size}: {wrong[0]}")
        digests[f"by {size}"] = launch.tensors(out)
        run = out
    same = all(each == digests["4"] for each in digests.values())
    return {"holds": same, "saved": ", then ".join(digests), "files": len(launch.tensor_files(run))}


def _save_again(rank: int, size: int, at: str, run: Path, out: Path) -> None:
    """Take up the last checkpoint of `run` as one of `size` ranks, and save it in `out`."""
    import torch

    from galore.trainer.build import build_model
    from galore.trainer.checkpoint import checkpoint
    from galore.trainer.checkpoint.state import capture, random_state, restore
    from galore.trainer.optimizer import attach_optimizer, attach_sharded, cut_along
    from galore.trainer.parallel.group import join
    from galore.trainer.recipe.load import load_recipe
    from galore.trainer.saving import sharing

    if size > 1:
        launch.as_rank(rank, size, at)
    loaded, group = load_recipe(str(run / "recipe.yaml")), join("cpu")
    saved, _ = checkpoint.newest_verified(run / "checkpoints")
    assert saved is not None
    rows = next(each.shape[0] for name, each in saved.load("model").items() if "embed_tokens" in name)
    model, _ = build_model(loaded.recipe, rows, "cpu", loaded.base_dir)
    if group is None:
        optimizer = attach_optimizer(model, loaded.recipe, 1)
    else:
        optimizer = attach_sharded(
            model, loaded.recipe, 1, group, torch.device("cpu"), cut_along(model, loaded.recipe, group)
        )
    restore(saved, model, optimizer)
    tensors, state = capture(model, optimizer, random_state(), group)
    if rank == 0:
        (out / "checkpoints").mkdir(parents=True)
        shutil.copy(run / "recipe.yaml", out)
    in_parts = loaded.recipe.parallel.checkpoints == "parts"
    with sharing(tensors, group, out / "checkpoints", in_parts) as (given, write):
        if group is None or group.is_first:
            checkpoint.save(out / "checkpoints", saved.step, given, state, 2, write=write)


def written(folder: Path, rng: random.Random) -> Trials:
    """Checkpoints that every rank writes its parts of, cut again, and killed: at random, and in the middle of a save."""
    again = {
        f"{name}, cut again": partial(cut_again, folder / str(n), [*each, BY_ALL])
        for n, (name, each) in enumerate(RESHARDED.items())
    }
    moments = [(rng.uniform(0.02, 0.95), number % KILLED) for number in range(MOMENTS)]
    words = [*killed_words(), IN_PARTS, BY_ALL]
    return again | struck_at(folder, moments, KILLED, words) | struck_saving(folder, rng, words)


def struck_saving(folder: Path, rng: random.Random, words: list[str]) -> Trials:
    """SIGKILL to one rank while files of parts are being written, or are complete and have no name yet."""

    def try_one(trial: str, save: int, wait: float, rank: int) -> dict[str, Any]:
        straight, out = folder / "straight", folder / trial / "run"
        if not (straight / "checkpoints").is_dir():
            launch.finish(straight, KILLED, words)
        ranks = launch.start(out, KILLED, words)
        unfinished = out / f"checkpoints/.tmp-step-{save:08d}"
        launch.until(lambda: unfinished.is_dir(), launch.LIMIT, 0.0005)
        time.sleep(wait)
        ranks[rank].send(signal.SIGKILL)
        left = sorted(path.name for path in unfinished.iterdir()) if unfinished.is_dir() else []
        codes = [each.code for each in launch.wait(ranks, launch.WITHIN + 40)]
        saved = max((int(each.name[5:]) for each in out.glob("checkpoints/step-*")), default=0)
        launch.finish(out, KILLED, words)
        told = {"rank": rank, "files there": len(left), "saved": saved, "codes": codes}
        return {"holds": launch.outcome(out) == launch.outcome(straight) and codes[rank] == -9, **told}

    drawn = [(3 * rng.randrange(3, 12), rng.uniform(0, 0.01), number % KILLED) for number in range(MOMENTS)]
    return {f"in save {n + 1}": partial(try_one, f"in save {n + 1}", *each) for n, each in enumerate(drawn)}


def saves(folder: Path, rng: random.Random) -> Trials:
    return {f"{size} parts": partial(timed_saves, folder / str(size), size) for size in (2, 4)}


def timed_saves(folder: Path, size: int) -> dict[str, Any]:
    """Seconds of a save of LARGER at full rank, whole and in parts: the median of five."""
    words = ["demo", *cases.TINY, *cases.STEPS, *LARGER, IN_PARTS]
    told: dict[str, Any] = {"holds": None}
    for way, more in (("whole", []), ("parts", [BY_ALL])):
        out = folder / way
        first, *_ = launch.finish(out, size, [*words, *more])
        told[way] = statistics.median(first["saves"][1:])
        told[f"{way}, bytes"] = sum(path.stat().st_size for path in launch.last(out).iterdir() if not path.is_symlink())
    return told


def kills(folder: Path, rng: random.Random) -> Trials:
    moments = [(rng.uniform(0.02, 0.95), number % KILLED) for number in range(MOMENTS)]
    words = [*WORDS, IN_PARTS]
    again = {
        "a worker lost, --max-restarts=3": partial(restarted, folder / "restarted", words),
        "SIGTERM to torchrun": partial(stopped, folder / "stopped", False, words),
        "SIGTERM to torchrun and all below it, as Slurm does": partial(stopped, folder / "all stopped", True, words),
    }
    every = [*killed_words(), IN_PARTS]
    return asked_at(folder, KILLED, every) | again | struck_at(folder, moments, KILLED, every)


PARTS = {
    part.name: part
    for part in (
        Part("fsdp", "methods in 2 and 4 parts against one process", AGAINST, methods),
        Part("fsdp-data", "every kind of data, the same", AGAINST, data),
        Part("fsdp-resharded", "a checkpoint of 4 parts saved by 1, by 2 and by 4", (), resharded),
        Part("fsdp-parts", "checkpoints that every rank writes its parts of: cut again, and killed", (), written),
        Part("fsdp-saves", "seconds of a save, whole and in parts", (), saves),
        Part("fsdp-kills", f"kill -9 of one of {KILLED} ranks at {MOMENTS} random moments", (), kills),
    )
}
