"""A tiny model trained for a few steps by every method: what runs that must be equal are compared by."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from galore.trainer.build import build_model
from galore.trainer.checkpoint.state import capture, random_state
from galore.trainer.data.batch import Batch
from galore.trainer.data.prepare import fullest_batch
from galore.trainer.host.blocks import StreamedBlocks, streamed
from galore.trainer.optimizer import attach_optimizer
from galore.trainer.recipe.load import LoadedRecipe, load_recipe
from galore.trainer.step import StepResult, train_step

BLOCKS, VOCABULARY = 4, 50
TINY = [
    *("model.hidden_size=32", "model.intermediate_size=48", f"model.num_hidden_layers={BLOCKS}", "data.max_length=8"),
    *("model.num_attention_heads=2", "train.device=cpu", "train.global_batch_size=4", "train.micro_batch_size=2"),
    *("optim.rank=4", "optim.update_proj_gap=2", "optim.learning_rate=0.01", "model.max_position_embeddings=64"),
]
AT_ONCE = ["optim.update=immediate", "optim.refresh=first-micro-batch", "optim.max_grad_norm=null"]
METHODS = {
    "delayed": [],
    "two-pass": ["optim.refresh=two-pass", "optim.stagger=false"],
    "summed, svd": ["optim.proj_type=svd", "optim.refresh=summed"],
    "first micro-batch": ["optim.refresh=first-micro-batch"],
    "in the hook": ["optim.projection=hook"],
    "immediate": [*AT_ONCE, "train.micro_batch_size=4"],
    "recomputed": ["train.gradient_checkpointing=true"],
    "some recomputed": ["train.gradient_checkpointing=2", "train.stream_weights=3"],
    "float32": ["model.dtype=float32"],
    "compensated": ["optim.weight_rounding=compensated"],
    "8 bits": [
        *("optim.weight_dtype=int8", "optim.state_dtype=8bit", "optim.projector_dtype=int4"),
        *("train.gradient_checkpointing=true", "optim.accumulator_dtype=bfloat16"),
    ],
    "8 bits, three there": ["optim.weight_dtype=int8", "train.stream_weights=3"],
    "clipped": ["optim.max_grad_norm=0.01"],
    "weight decay, tied": ["optim.weight_decay=0.1", "model.tie_word_embeddings=true"],
    "random subspace": ["optim.proj_type=random"],
    "fira": ["optim.residual=fira"],
    "apollo": ["optim.residual=apollo", "optim.proj_type=random"],
    "frugal": ["optim.residual=frugal"],
    "muon": ["optim.inner=muon"],
    "full": ["optim.method=full"],
    "full, 8 bits": ["optim.method=full", "optim.state_dtype=8bit"],
    "lora": ["optim.method=lora", "optim.train_modules=[norm]"],
    "lora, dropout": ["optim.method=lora", "optim.lora_dropout=0.5", "train.gradient_checkpointing=true"],
}


def loaded(*settings: str) -> LoadedRecipe:
    return load_recipe("demo", [*TINY, *settings])


class Trained:
    """A model of `settings` after some steps: what each came to, and what it holds then."""

    def __init__(self, *settings: str, steps: int = 3) -> None:
        self.recipe = loaded(*settings).recipe
        torch.manual_seed(0)
        self.model, self.told = build_model(self.recipe, VOCABULARY, "cpu", Path())
        self.optimizer = attach_optimizer(self.model, self.recipe, self.recipe.train.accumulation)
        self.results: list[StepResult] = [self.step() for _ in range(steps)]

    def step(self) -> StepResult:
        size, norm = self.recipe.train.micro_batch_size, self.recipe.optim.max_grad_norm
        return train_step(self.model, self.optimizer, self.batch(), size, norm)

    def batch(self) -> Batch:
        """That of the coming step."""
        rows = (self.recipe.train.global_batch_size, self.recipe.data.max_length)
        seed = torch.Generator().manual_seed(self.optimizer.clock)
        return fullest_batch(self.recipe, torch.randint(VOCABULARY, rows, generator=seed))

    @property
    def held(self) -> dict[str, Tensor]:
        groups, _ = capture(self.model, self.optimizer, random_state())
        return groups["model"] | groups["optimizer"]

    @property
    def blocks(self) -> StreamedBlocks:
        found = streamed(self.model)
        assert found is not None
        return found


def require_equal(one: Trained, other: Trained) -> None:
    assert [str(result) for result in one.results] == [str(result) for result in other.results]
    ours, theirs = one.held, other.held
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
