"""The memory of one rank whose weights lie in parts: predicted, and counted by torch's allocator.

The rank is alone, in a group that sends nothing (torch's "fake" backend): gloo's own buffers are freed on a thread that
torch's profiler does not see, and a card's library has none of them.
"""

from __future__ import annotations

import json
import os
import random
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from prove import child

from ranks import cases
from ranks.trials import Part, Trials

IN_PARTS = "parallel.mode=fsdp"
LARGE = ("model.hidden_size=256", "model.intermediate_size=512", "model.num_hidden_layers=4", "optim.rank=32")
MEASURED: dict[str, tuple[str, ...]] = {
    "galore": (),
    "galore, recomputed": ("train.gradient_checkpointing=true",),
    "galore-8bit": ("optim.state_dtype=8bit",),
    "galore-8bit, recomputed": ("optim.state_dtype=8bit", "train.gradient_checkpointing=true"),
    "galore, hooks": ("optim.projection=hook",),
    "lora": ("optim.method=lora", *cases.ADAPTERS),
    "full": ("optim.method=full",),
    "full, recomputed": ("optim.method=full", "train.gradient_checkpointing=true"),
    "full, bfloat16": ("optim.method=full", "model.dtype=bfloat16", "optim.accumulator_dtype=float32"),
    "int8 weights, recomputed": ("optim.weight_dtype=int8", "train.gradient_checkpointing=true"),
}
CLOSE = 0.02  # of the peak that was counted


def trials(folder: Path, rng: random.Random) -> Trials:
    words = [*cases.TINY, *cases.STEPS, *LARGE, "model.vocab_size=2048", IN_PARTS]
    return {
        f"{name}, {size} parts": partial(_in_a_child, folder / f"{number}.{size}", [*words, *more], size)
        for number, (name, more) in enumerate(MEASURED.items())
        for size in (2, 4)
    }


def _in_a_child(folder: Path, overrides: list[str], size: int) -> dict[str, Any]:
    folder.mkdir(parents=True)
    ended = child.start(partial(_tell, overrides, size, folder / "held"), folder / "said").wait(300)
    if ended.code:
        raise RuntimeError(str(ended))
    found: dict[str, dict[str, int]] = json.loads((folder / "held").read_text())
    off = found["predicted"]["peak"] / found["measured"]["peak"] - 1
    told = {f"{name} {key}": value for name, figures in found.items() for key, value in figures.items()}
    return {"holds": abs(off) < CLOSE, "off": f"{off:+.2%}", **told}


def _tell(overrides: list[str], size: int, to: Path) -> None:
    measured(overrides, size)  # tables of codes, which a process makes once, are no rank's
    to.write_text(json.dumps({"predicted": predicted(overrides, size), "measured": measured(overrides, size)}))


def predicted(overrides: list[str], size: int) -> dict[str, int]:
    """Bytes of the peak of a step, and of weights and states then."""
    from galore.trainer.fit.predict import predict
    from galore.trainer.fit.ranks import of_one_rank, trace_of_part
    from galore.trainer.recipe.load import load_recipe

    loaded = of_one_rank(load_recipe("demo", overrides), size)
    trace = trace_of_part(loaded, predict(loaded, None), size)
    curve = trace.requested()
    peak = trace.by_category(max(range(len(curve)), key=curve.__getitem__))
    states = sum(peak.get(name, 0) for name in ("optimizer_states", "projectors"))
    return {"peak": max(curve), "weights": peak["weights"], "states": states}


def measured(overrides: list[str], size: int) -> dict[str, int]:
    """The same of the first of `size` ranks, in a first, an ordinary and a refresh step."""
    import torch
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from galore.trainer.build import build_model
    from galore.trainer.data.prepare import fullest_batch
    from galore.trainer.fit.rehearsal import clocks
    from galore.trainer.optim.parts.shards import local
    from galore.trainer.optimizer import attach_sharded, cut_along
    from galore.trainer.parallel.group import Group, leave
    from galore.trainer.recipe.load import load_recipe
    from galore.trainer.step import train_step

    os.environ["KINETO_LOG_LEVEL"] = "99"
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)  # type: ignore[no-untyped-call]
    loaded, group = load_recipe("demo", overrides), Group(0, size)
    recipe, vocabulary = loaded.recipe, loaded.recipe.model.vocab_size
    assert vocabulary is not None
    model, _ = build_model(recipe, vocabulary, "cpu", loaded.base_dir)
    along = cut_along(model, recipe, group)
    optimizer = attach_sharded(model, recipe, recipe.train.accumulation, group, torch.device("cpu"), along)
    weights = sum(local(each).nbytes for each in model.state_dict().values())
    shape = (recipe.train.global_batch_size, recipe.data.max_length)
    batch = fullest_batch(recipe, torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(0)))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        for _, clock in clocks(optimizer):
            for each in optimizer.param_groups:
                each["clock"] = clock
            train_step(model, optimizer, batch, recipe.train.micro_batch_size, recipe.optim.max_grad_norm, group=group)
    leave()
    assert profile.profiler is not None
    events = profile.profiler.kineto_results.events()
    peak = weights + max(accumulate(event.nbytes() for event in events if event.name() == "[memory]"))
    states = sum(each.nbytes for slot in optimizer.slots.values() for each in slot.state.values())
    return {"peak": peak, "weights": weights, "states": states}


PARTS = {
    "fsdp-memory": Part("fsdp-memory", "bytes of one rank, predicted and counted by torch's allocator", (), trials)
}
