"""What a recipe is: frozen, torch-free pydantic models. Every field carries its meaning and unit.

Fields marked `execution` decide how a run is carried out, not what it computes: they may change on `--resume`.
"""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from galore.trainer.recipe.schema.data import DataSection
from galore.trainer.recipe.schema.model import ModelSection
from galore.trainer.recipe.schema.optim import OptimSection
from galore.trainer.recipe.schema.parallel import ParallelSection, check_fsdp
from galore.trainer.recipe.schema.section import Section
from galore.trainer.recipe.schema.train import EvalSection, LogSection, TrainSection


class Recipe(Section):
    """A whole run: `galore train` carries it out, `galore recipes schema` prints its JSON schema."""

    model: ModelSection = ModelSection()
    data: DataSection
    optim: OptimSection = OptimSection()
    train: TrainSection
    parallel: ParallelSection = ParallelSection()
    eval: EvalSection = EvalSection()
    log: LogSection = LogSection()

    @property
    def evaluates_at_start(self) -> bool:
        """Whether the model is scored before the first step.

        By default a pretrained one is. Of fresh weights, or under a task's new head, the baseline tells as much.
        """
        tuned = self.model.name_or_path is not None and not self.model.random_init and self.data.task is None
        return tuned if self.eval.at_start is None else self.eval.at_start

    @property
    def trains_tokenizer(self) -> bool:
        """Whether the tokenizer is trained on the corpus, as neither a tokenizer nor a model is named."""
        return self.data.tokenizer is None and self.model.name_or_path is None

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        check_glue(self)
        if self.parallel.mode == "fsdp":
            check_fsdp(self.optim)
        if self.optim.update == "immediate" and self.train.accumulation > 1:
            raise ValueError(
                f"optim.update: immediate cannot accumulate {self.train.accumulation} micro-batches: set train.micro_batch_size to "
                f"{self.train.global_batch_size}, or optim.update: accumulate (costs one r×n accumulator per layer)"
            )
        if self.optim.adapter == "factors" and self.model.name_or_path is not None and not self.model.random_init:
            raise ValueError(
                "optim.adapter: factors draws the target matrices and has no use for those of model.name_or_path: set "
                "model.random_init: true, or optim.adapter: lora"
            )
        if self.train.early_stopping_patience and self.eval.eval_steps is None and self.eval.eval_epochs is None:
            raise ValueError(
                "train.early_stopping_patience counts evaluations: set eval.eval_steps or eval.eval_epochs"
            )
        if (self.optim.relora_gap or 0) >= (self.train.max_steps or float("inf")):
            raise ValueError(
                f"optim.relora_gap: {self.optim.relora_gap} never restarts in train.max_steps: {self.train.max_steps}: lower it, "
                "or leave it out for a quarter of the run"
            )
        if self.model.name_or_path is None and self.data.max_length > self.model.max_position_embeddings:
            raise ValueError(
                f"data.max_length {self.data.max_length} exceeds model.max_position_embeddings {self.model.max_position_embeddings}"
            )
        return self


def check_glue(recipe: Recipe) -> None:
    """Raise ValueError for the first contradiction."""
    data = recipe.data
    if data.source != "glue":
        if data.task is not None:
            raise ValueError(
                f"data.task: {data.task} goes with data.source: glue: run `galore finetune-glue --task {data.task}`, or leave it out"
            )
        if data.max_train_samples is not None:
            raise ValueError("data.max_train_samples goes with data.source: glue: leave it out")
        return
    if data.task is None:
        raise ValueError("data.source: glue needs data.task, such as sst2")
    if recipe.model.name_or_path is None:
        raise ValueError(
            "data.source: glue needs model.name_or_path, a model to fine-tune, such as FacebookAI/roberta-base"
        )
    if isinstance(data.path, list):
        raise ValueError("data.source: glue takes one data.path: nyu-mll/glue, or one folder")
    if data.instruct:
        raise ValueError("data.source: glue knows its columns: leave out data.prompt_field and data.messages_field")
    if recipe.train.z_loss:
        raise ValueError("train.z_loss is for language models: leave it out with data.source: glue")
    if recipe.eval.sample_prompt is not None:
        raise ValueError("eval.sample_prompt asks for text: leave it out with data.source: glue")
    if recipe.optim.adapter == "factors":
        raise ValueError("optim.adapter: factors starts from random matrices: with data.source: glue write lora")
