"""Whoever follows what a refusal says gets a recipe that is right, or the next thing to mend and then one."""

from __future__ import annotations

import re

import pytest

from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.parse.problems import RecipeError

CASES = [  # recipe, settings that contradict each other, and those that do what the message says
    ("demo", "optim.proj_type=svd optim.refresh=delayed", "optim.refresh=summed"),
    ("demo", "optim.proj_type=svd optim.refresh=delayed", "optim.refresh=first-micro-batch"),
    ("demo", "optim.refresh=two-pass", "optim.stagger=false"),
    ("demo", "optim.refresh=two-pass", "optim.refresh=delayed"),
    ("demo", "optim.proj_type=random optim.transport=rotate", "optim.transport=keep"),
    ("demo", "optim.proj_type=random optim.transport=rotate", "optim.transport=reset"),
    ("demo", "optim.weight_dtype=int8 optim.weight_rounding=compensated", "optim.weight_rounding=stochastic"),
    ("demo", "optim.proj_type=random optim.refresh_overlap=0.5", "optim.refresh_overlap=null"),
    ("demo", "optim.convention=reference", "optim.stagger=false optim.proj_type=svd"),
    ("demo", "optim.convention=reference optim.stagger=false optim.proj_type=svd optim.inner=muon", "optim.inner=adamw"),
    ("demo", "optim.method=lora optim.inner=muon", "optim.inner=adamw"),
    ("demo", "optim.method=full optim.weight_dtype=int8", "optim.weight_dtype=null"),
    ("demo", "optim.method=full optim.weight_dtype=int8", "optim.method=galore"),
    ("demo", "optim.method=lora optim.rank=0.5", "optim.method=galore"),
    ("demo", "optim.method=lora optim.rank=0.5", "optim.rank=8"),
    ("demo", "optim.method=full optim.residual=fira", "optim.method=galore"),
    ("demo", "optim.residual=fira optim.refresh=delayed", "optim.refresh=null"),
    ("demo", "optim.update=immediate", "optim.update=accumulate"),
    ("demo", "train.global_batch_size=32 optim.update=immediate",
     "optim.max_grad_norm=null train.micro_batch_size=32"),
    ("demo", "optim.adapter=relora", "optim.method=lora"),
    ("demo", "optim.relora_gap=5", "optim.method=lora optim.adapter=relora"),
    ("demo", "optim.relora_gap=5", "optim.relora_gap=null"),
    ("demo", "optim.method=lora optim.adapter=relora optim.relora_gap=9 optim.relora_warmup_steps=9",
     "optim.relora_warmup_steps=8"),
    ("demo", "optim.method=lora optim.adapter=relora optim.relora_gap=999999", "optim.relora_gap=null"),
    ("demo", "optim.method=lora optim.adapter=factors optim.lora_dropout=0.1", "optim.lora_dropout=0"),
    ("llama-60m", "model.name_or_path=x optim.method=lora optim.adapter=factors", "model.random_init=true"),
    ("llama-60m", "model.name_or_path=x optim.method=lora optim.adapter=factors", "optim.adapter=lora"),
    ("demo", "train.micro_batch_size=5", "train.micro_batch_size=4"),
    ("demo", "train.max_steps=null", "train.max_steps=5"),
    ("demo", "train.max_steps=null", "train.num_train_epochs=5"),
    ("demo", "train.offload_activations=true", "train.gradient_checkpointing=true"),
    ("demo", "data.path=x", "data.source=local"),
    ("demo", "data.path=x", "data.path=null"),
    ("demo", "data.source=local", "data.path=x"),
    ("demo", "data.task=rte", "data.task=null"),
    ("demo", "data.max_train_samples=5", "data.max_train_samples=null"),
    ("llama-60m", "data.prompt_field=a", "data.response_field=b"),
    ("llama-60m", "data.prompt_field=a data.response_field=b data.messages_field=c", "data.messages_field=null"),
    ("llama-60m", "data.prompt_field=a data.response_field=b data.messages_field=c",
     "data.prompt_field=null data.response_field=null"),
    ("llama-60m", "data.input_field=a", "data.prompt_field=b data.response_field=c"),
    ("roberta-glue", "data.task=null", "data.task=sst2"),
    ("roberta-glue", "model.name_or_path=null", "model.name_or_path=FacebookAI/roberta-base"),
    ("roberta-glue", "data.path=[a, b]", "data.path=nyu-mll/glue"),
    ("roberta-glue", "data.messages_field=m", "data.messages_field=null"),
    ("roberta-glue", "train.z_loss=0.1", "train.z_loss=0"),
    ("roberta-glue", "eval.sample_prompt=Why", "eval.sample_prompt=null"),
    ("roberta-glue", "optim.method=lora optim.adapter=factors", "optim.adapter=lora"),
]  # fmt: skip


def split(settings: str) -> list[str]:
    return re.split(r" (?=\w+\.\w+=)", settings)


@pytest.mark.parametrize(("recipe", "wrong", "right"), CASES)
def test_it_is_followed_by_a_recipe_that_is_right(recipe: str, wrong: str, right: str) -> None:
    remaining, settings = split(right), split(wrong)
    while remaining:
        with pytest.raises(RecipeError) as caught:
            load_recipe(recipe, settings)
        told = [each for each in remaining if each.split("=")[0].partition(".")[2] in str(caught.value)]
        assert told, f"{caught.value}\nsays nothing of {remaining}"
        for each in told:
            value = each.split("=")[1]
            assert value in str(caught.value) or value in ("null", "0", "8", "5", "x", "b", "c"), str(caught.value)
        settings += told
        remaining = [each for each in remaining if each not in told]
    load_recipe(recipe, settings)
