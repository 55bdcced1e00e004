"""Training steps of whole recipes on the toy GPU: prints what the host waited for in each kind of step, as JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
import toy_gpu

from galore.kernels.model import segments
from galore.trainer.build import build_model
from galore.trainer.data.batch import Objective
from galore.trainer.data.rows.modality import Modalities
from galore.trainer.data.rows.tokenbatch import TokenBatch
from galore.trainer.optimizer import attach_optimizer
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.step import train_step

VOCABULARY, LENGTH, ROWS, MICRO, STEPS = 64, 16, 4, 2, 3
SMALL = [
    "model.hidden_size=32",
    "model.intermediate_size=48",
    "model.num_hidden_layers=1",
    "model.num_attention_heads=2",
    f"data.max_length={LENGTH}",
    f"train.global_batch_size={ROWS}",
    f"train.micro_batch_size={MICRO}",
    "optim.rank=4",
    "optim.update_proj_gap=100",
    "optim.stagger=false",
    "train.max_steps=4",
]
CASES: dict[str, list[str]] = {
    "ordinary": [],
    "not clipped": ["optim.max_grad_norm=null"],
    "not finite": [],
    "z-loss, by modality": ["train.z_loss=0.01"],
    "isolated documents": ["data.isolate_documents=true"],
    "refresh": ["optim.update_proj_gap=2"],
    "summed refresh": ["optim.update_proj_gap=2", "optim.refresh=summed"],
    "full rank": ["optim.method=full"],
}


def main(names: list[str]) -> None:
    gpu = toy_gpu.start()
    segments.capability = lambda device: (7, 5)  # which has no kernel for documents of any length
    for name in names or CASES:
        print(json.dumps({"name": name, "waits": waits(gpu, name)}), flush=True)
    os._exit(0)


def positions(recipe: Recipe) -> torch.Tensor | None:
    """Of the tokens of two documents in each row, where the recipe isolates them."""
    half = torch.arange(LENGTH // 2).repeat(ROWS, 2)
    return half if recipe.data.isolates else None


def kinds(recipe: Recipe) -> Modalities | None:
    """Two kinds of targets, one of which counts half, where the recipe has a z-loss."""
    of_ids = torch.arange(VOCABULARY) % 2
    return Modalities(("text", "image"), of_ids, of_ids == 1, (1.0, 0.5)) if recipe.train.z_loss else None


def waits(gpu: toy_gpu.ToyGpu, name: str) -> list[dict[str, int]]:
    """What each step after the first waited for."""
    recipe = load_recipe("demo", [*SMALL, *CASES[name]]).recipe
    model, _ = build_model(recipe, VOCABULARY, "cpu", Path())
    with gpu:
        toy_gpu.moved(model)
        optimizer = attach_optimizer(model, recipe, recipe.train.accumulation, None)
        found = []
        for step in range(STEPS):
            draw = torch.Generator().manual_seed(step)
            ids = torch.randint(VOCABULARY, (ROWS, LENGTH), generator=draw)
            batch = TokenBatch(ids, ids, tuple(range(ROWS)), positions(recipe), kinds(recipe))
            if name == "not finite" and step == 1:
                next(model.parameters()).data.inner.fill_(torch.nan)
            gpu.waits.clear()
            train_step(model, optimizer, batch, MICRO, recipe.optim.max_grad_norm, Objective(recipe.train.z_loss))
            found.append(dict(gpu.waits))
    return found[1:]


if __name__ == "__main__":
    main(sys.argv[1:])
