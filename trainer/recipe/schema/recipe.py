"""What a recipe is: frozen, torch-free pydantic models. Every field carries its meaning and unit.

Fields marked `execution` decide how a run is carried out, not what it computes: they may change on `--resume`.
"""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from galore.trainer.recipe.schema.data import DataSection
from galore.trainer.recipe.schema.extraloss import ATTENTION, DISTILLATION, ExtraLossSection
from galore.trainer.recipe.schema.model import TEXT, ModelSection
from galore.trainer.recipe.schema.optim import OptimSection
from galore.trainer.recipe.schema.parallel import ParallelSection, check_parallel
from galore.trainer.recipe.schema.section import Section
from galore.trainer.recipe.schema.train import EvalSection, LogSection, TrainSection


class Recipe(Section):
    """A whole run: `galore train` carries it out, `galore recipes schema` prints its JSON schema."""

    model: ModelSection = ModelSection()
    data: DataSection
    optim: OptimSection = OptimSection()
    train: TrainSection
    extra_loss: ExtraLossSection = ExtraLossSection()
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

    @property
    def scored_together(self) -> int:
        """Rows of one forward pass of an evaluation."""
        return self.eval.micro_batch_size or self.train.micro_batch_size

    @property
    def scored_together_counts(self) -> bool:
        """Whether these rows are part of what a held-out loss is: a mean of batch means is one of these batches."""
        return self.eval.mode == "paper" and self.data.task is None

    def streams(self, part: DataSection) -> bool:
        """Whether `part` of the data is read while the run goes on, instead of whole before it."""
        return part.source == "hub" and (self.train.max_steps is not None if part.streaming is None else part.streaming)

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        check_glue(self)
        check_streaming(self)
        check_length_stages(self)
        if self.train.max_steps is not None:
            check_lasting(self, self.train.max_steps, "train.max_steps")
        check_position_skips(self)
        check_compile(self)
        check_parallel(self.parallel, self.optim, self.train)
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
        if unknown := sorted(self.train.loss_weights.keys() - {TEXT, *self.model.modalities}):
            known = f"write {', '.join([TEXT, *self.model.modalities])}" if self.model.modalities else "name them there"
            raise ValueError(
                f"train.loss_weights names {unknown[0]}, which is no modality of model.new_tokens, a mapping such as {{image: 8192}}: {known}"
            )
        counted = any(self.train.loss_weights.get(name, 1.0) for name in (TEXT, *self.model.modalities))
        if not counted and self.extra_loss.name is None:
            raise ValueError("train.loss_weights has zeros alone: no target would count, and nothing would be learned")
        check_extra_loss(self)
        if not self.model.without_effect and self.data.max_length > self.model.longest:
            raise ValueError(
                f"data.max_length {self.data.max_length} exceeds model.max_position_embeddings {self.model.longest}"
            )
        return self


def check_streaming(recipe: Recipe) -> None:
    """Raise ValueError for the first contradiction."""
    if recipe.train.max_steps is None and any(recipe.streams(part) for part in recipe.data.parts):
        raise ValueError(
            "data.streaming: true has no end that train.num_train_epochs could count to: set train.max_steps, or "
            "data.streaming: false, which reads all of it before the first step"
        )


def check_length_stages(recipe: Recipe) -> None:
    """Raise ValueError for the first contradiction."""
    stages, data = recipe.train.length_stages, recipe.data
    if not stages:
        return
    if data.examples or data.isolates or data.packing == "paper" or data.task is not None:
        raise ValueError(
            "train.length_stages cuts sequences of text to continue: leave it out with instructions, a task, "
            "data.isolate_documents: true and data.packing: paper"
        )
    lengths = [stage.max_length for stage in stages]
    if unfit := [each for each in lengths if data.max_length % each]:
        raise ValueError(
            f"train.length_stages cuts data.max_length {data.max_length}, which is no multiple of max_length {unfit[0]}"
        )
    if [*lengths, data.max_length] != sorted({*lengths, data.max_length}):
        told = ", ".join(map(str, lengths))
        raise ValueError(f"train.length_stages grows up to data.max_length {data.max_length}, and has {told}")


def check_lasting(recipe: Recipe, total: int, key: str) -> None:
    """Raise ValueError for what takes all of the `total` steps that the run has by `key`, and leaves none after it."""
    by_steps = key == "train.max_steps"
    gap, taken = recipe.optim.relora_gap or 0, sum(stage.steps for stage in recipe.train.length_stages)
    if gap >= total:
        run = f"{key}: {total}" if by_steps else f"{total} steps, as {key} comes to"
        raise ValueError(
            f"optim.relora_gap: {gap} never restarts in {run}: lower it, or leave it out for a quarter of the run"
        )
    if taken and taken >= total:
        run = f"{key} {total}" if by_steps else f"the {total} that {key} comes to"
        raise ValueError(
            f"train.length_stages takes {taken} steps of {run}, and leaves none for data.max_length "
            f"{recipe.data.max_length}: raise {key}"
        )


def check_position_skips(recipe: Recipe) -> None:
    """Raise ValueError for the first contradiction."""
    skips, data, key = recipe.train.position_skips, recipe.data, "train.position_skips"
    if skips is None:
        return
    own = recipe.model.has_own_dimensions
    if data.task is not None or (own and recipe.model.architecture == "retnet"):
        what = "examples of a task are read whole" if data.task is not None else "retention counts none"
        raise ValueError(f"{key} spreads rotary positions, and {what}: leave it out")
    if recipe.train.length_stages:
        raise ValueError(f"{key} and train.length_stages are two ways to a greater length: leave one of them out")
    if recipe.extra_loss.name == DISTILLATION:
        raise ValueError(
            f"{key} would give the teacher positions that it does not know: leave it or extra_loss.name out"
        )
    if skips.target_length <= data.max_length:
        raise ValueError(
            f"{key}.target_length {skips.target_length} is no more than data.max_length {data.max_length}: raise it, or "
            "leave position_skips out"
        )
    if skips.chunks > data.max_length:
        raise ValueError(
            f"{key}.chunks {skips.chunks} is more than the tokens of a row, data.max_length {data.max_length}: lower it"
        )
    if own and skips.target_length > recipe.model.longest:
        raise ValueError(
            f"{key}.target_length {skips.target_length} exceeds model.max_position_embeddings {recipe.model.longest}: raise "
            "that, or lower target_length"
        )


def check_compile(recipe: Recipe) -> None:
    """Raise ValueError for the first contradiction."""
    if not recipe.train.compile:
        return
    others = {
        "train.fused": recipe.train.fused,
        "train.tile_tokens": recipe.train.tile_tokens,
        "train.stream_weights": recipe.train.stream_weights,
        "train.offload_activations": recipe.train.offload_activations,
        "data.isolate_documents": recipe.data.isolates,
        "parallel.mode: fsdp": recipe.parallel.mode == "fsdp",
    }
    if other := next((key for key, value in others.items() if value), None):
        raise ValueError(f"train.compile and {other} cannot be combined: leave one of them out")


def check_extra_loss(recipe: Recipe) -> None:
    """Raise ValueError for the first contradiction."""
    data, name = recipe.data, recipe.extra_loss.name
    if name is not None and data.source == "glue":
        raise ValueError("extra_loss is for language models: leave extra_loss.name out with data.source: glue")
    if name == ATTENTION and not recipe.model.modalities:
        raise ValueError(
            f"extra_loss.name: {ATTENTION} aligns attention over codes: name them in model.new_tokens, such as {{image: 8192}}"
        )
    if name == ATTENTION and not any(part.extra_field for part in data.parts):
        raise ValueError(f"extra_loss.name: {ATTENTION} needs maps: set data.extra_field to their column")


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
