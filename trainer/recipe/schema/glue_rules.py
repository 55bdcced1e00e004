"""Which settings belong to a GLUE task and which cannot go with one, and what to write instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from galore.trainer.recipe.schema.recipe import Recipe


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
