"""A step with and without offloaded activations: how much slower, and how much of the copies the computation hides."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

from gpu.records import Records
from gpu.scale import GIB, Scale

RECIPE = "llama-1b-8gb"
WARM, TIMED = 2, 4
MICRO_BATCHES = 4


def prove(scale: Scale, records: Records) -> None:
    kept = _timed(scale, records, offload=False)
    away = _timed(scale, records, offload=True)
    copies = _copies(scale)
    records.note(
        "the losses of all steps are the same with offloading",
        ok=kept["losses"] == away["losses"],
        **{"with": away["losses"][-1], "without": kept["losses"][-1]},
    )
    figures = {
        "seconds_with": away["seconds"],
        "seconds_without": kept["seconds"],
        "ratio": away["seconds"] / kept["seconds"],
    }
    if copies:
        exposed = max(0.0, away["seconds"] - kept["seconds"])
        figures |= {"copies_alone": copies, "hidden": 1 - min(1.0, exposed / copies)}
    records.note("a step with offloaded activations", **figures)
    if not scale.rehearsal:
        saved = kept["peak"] - away["peak"]
        records.note("memory that offloading saves", ok=saved > 0, gib=saved / GIB, peak_with_gib=away["peak"] / GIB)


def loaded(scale: Scale, *, offload: bool) -> Any:
    """The recipe, with offloaded activations and without."""
    from galore.trainer.recipe.load import load_recipe

    sizes = {"train__global_batch_size": MICRO_BATCHES, "train__micro_batch_size": 1}
    switches = {"train__offload_activations": str(offload).lower()}
    switches |= dict.fromkeys(("train__gradient_checkpointing", "train__deterministic"), "true")
    return load_recipe(RECIPE, scale.settings(**sizes, **switches)).recipe


def _timed(scale: Scale, records: Records, *, offload: bool) -> dict[str, Any]:
    """Median seconds of a step, the losses of all, and the peak in bytes."""
    import torch

    from galore.trainer.build import build_model
    from galore.trainer.data.rows.tokenbatch import TokenBatch
    from galore.trainer.optimizer import attach_optimizer
    from galore.trainer.step import train_step

    recipe = loaded(scale, offload=offload)
    vocabulary = recipe.model.vocab_size or 1
    model, _ = build_model(recipe, vocabulary, scale.device, Path())
    optimizer = attach_optimizer(model, recipe, MICRO_BATCHES)
    ids = torch.randint(vocabulary, (MICRO_BATCHES, recipe.data.max_length), generator=torch.Generator().manual_seed(0))
    batch, seconds, losses = TokenBatch(ids, ids, tuple(range(MICRO_BATCHES))), [], []
    for step in range(WARM + TIMED):
        if step == WARM and not scale.rehearsal:
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        result = train_step(model, optimizer, batch, 1, recipe.optim.max_grad_norm)
        _wait(scale)
        seconds.append(time.perf_counter() - started)
        losses.append(result.loss_nats)
    peak = 0 if scale.rehearsal else torch.cuda.max_memory_allocated()
    del model, optimizer, result
    _forget(scale)
    return {"seconds": median(seconds[WARM:]), "losses": losses, "peak": peak}


def _copies(scale: Scale) -> float:
    """Seconds that the copies of a step take alone: every block's input to the host and back."""
    if scale.rehearsal:
        return 0.0
    import torch

    from galore.trainer.recipe.load import load_recipe

    recipe = load_recipe(RECIPE, scale.settings()).recipe
    here = torch.empty(recipe.data.max_length, recipe.model.hidden_size, dtype=torch.bfloat16, device="cuda")
    there = torch.empty(here.shape, dtype=here.dtype, pin_memory=True)
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(MICRO_BATCHES * recipe.model.num_hidden_layers):
        there.copy_(here, non_blocking=True)
        here.copy_(there, non_blocking=True)
    torch.cuda.synchronize()
    return time.perf_counter() - started


def _wait(scale: Scale) -> None:
    if not scale.rehearsal:
        import torch

        torch.cuda.synchronize()


def _forget(scale: Scale) -> None:
    import gc

    import torch

    gc.collect()
    if not scale.rehearsal:
        torch.cuda.empty_cache()
