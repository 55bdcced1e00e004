"""The steps of a recipe traced without a GPU: the project's own train step on `meta` tensors."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from galore.kernels.device import meta_stands_for
from galore.trainer.build import build_model, planned_vocabulary
from galore.trainer.memory.rehearsal import rehearse, rehearsed_micro_batches, watch_gradients, watch_optimizer
from galore.trainer.memory.simulate import SimulatedTracer, device_operations
from galore.trainer.memory.trace import Trace
from galore.trainer.optim import project_in_backward
from galore.trainer.parameters import build_optimizer
from galore.trainer.recipe.load import LoadedRecipe


def predict(loaded: LoadedRecipe, kind: str, capability: tuple[int, int] = (8, 9), sms: int = 128) -> Trace:
    """Every storage of a recipe's first, ordinary and refresh step, and of an evaluation, on a device of `kind`.

    Args:
        kind: "cuda" or "cpu": whose paths the step takes.
        capability, sms: of the GPU, which attention kernel and workspaces depend on.

    Raises:
        UserError: the model cannot be built, or one of its operations cannot be traced.
    """
    recipe = loaded.recipe
    vocabulary, _ = planned_vocabulary(recipe)
    tracer = SimulatedTracer()
    with meta_stands_for(kind), _without_collector():
        model, _ = build_model(recipe, vocabulary, "meta", loaded.base_dir)
        tracer.mark("model")
        tracer.label("weights", itertools.chain(model.parameters(), model.buffers()))
        tracer.follow(model)
        watch_gradients(model, tracer)
        optimizer = build_optimizer(
            model, recipe.optim, accumulation=rehearsed_micro_batches(recipe), seed=recipe.train.seed
        )
        if recipe.optim.method == "galore" and recipe.optim.projection == "backward":
            project_in_backward(model, optimizer)
        watch_optimizer(optimizer, tracer)
        with device_operations(kind, capability), tracer:
            rehearse(model, optimizer, recipe, vocabulary, tracer)
        tracer.close()
    return tracer.trace


@contextmanager
def _without_collector() -> Iterator[None]:
    """Storages die when their last reference does, never by the garbage collector's chance."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
