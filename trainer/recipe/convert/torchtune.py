"""Torchtune's keys: those whose meaning the names alone do not give. `optimizer.lr` is `lr` below `optimizer:`."""

from __future__ import annotations

import re
from typing import Any

from galore.trainer.recipe.convert.draft import (
    ALPACA,
    OFF,
    Draft,
    Rule,
    Tool,
    absent,
    accumulation,
    clipping,
    columns,
    switch,
)

SETS = {
    "alpaca_dataset": ("tatsu-lab/alpaca", ALPACA),
    "alpaca_cleaned_dataset": ("yahma/alpaca-cleaned", ALPACA),
    "samsum_dataset": ("Samsung/samsum", {"prompt_field": "dialogue", "response_field": "summary"}),
    "slimorca_dataset": ("Open-Orca/SlimOrca-Dedup", {"messages_field": "conversations"}),
}
MESSAGES = {"messages_field": "messages"}
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant"}
LOCAL = ("json", "parquet", "text", "csv", "arrow")  # builders that read files
REFERENCE = re.compile(r"\$\{([\w.]+)\}")


def _model(draft: Draft, key: str, value: Any) -> None:
    """The builder of the model says whether adapters are trained; its weights are the checkpointer's."""
    lora = "lora_" in str(value)
    draft.take(key, f"optim.method: {'lora' if lora else 'full'}", value, "the weights are those of checkpoint_dir")


def _dataset(draft: Draft, key: str, value: Any) -> None:
    kind = str(value).rpartition(".")[2]
    source = draft.values.get("dataset.source")
    files = draft.values.get("dataset.data_files")
    hub, known = SETS.get(kind, (str(source), ALPACA if "instruct" in kind else MESSAGES))
    if kind == "text_completion_dataset":
        known = {"text_field": str(draft.values.get("dataset.column", "text"))}
    renamed = draft.values.get("dataset.column_map", {})
    if isinstance(renamed, dict) and kind == "instruct_dataset":
        known = {
            "prompt_field": str(renamed.get("input", "input")),
            "response_field": str(renamed.get("output", "output")),
        }
    local = str(source) in LOCAL
    path = files if local else source or hub
    draft.settings |= {"data.source": "local" if local else "hub", "data.path": path}
    if not local:
        split = draft.values.get("dataset.split", "train")
        draft.settings |= {"data.split": split, "data.validation_split": None}
    columns(draft, key, known, f"data.path: {path}, with its fields")


def _optimizer(draft: Draft, key: str, value: Any) -> None:
    name = str(value).rpartition(".")[2].lower()
    draft.optimizer(
        key, {"pagedadamw8bit": "adamw_8bit", "adamw8bit": "adamw_8bit", "pagedadamw": "adamw"}.get(name, name)
    )


def _schedule(draft: Draft, key: str, value: Any) -> None:
    found = next((name for word, name in SCHEDULES.items() if word in str(value)), "")
    if found:
        draft.take(key, f"optim.lr_scheduler_type: {found}", value)
    else:
        draft.leave(key, "it is not offered: the recipe takes optim.lr_scheduler_type")


def _logger(draft: Draft, key: str, value: Any) -> None:
    if "WandB" in str(value):
        draft.take(key, "log.report_to: wandb", value)
    else:
        draft.leave(key, "metrics.jsonl has every step")


def _steps(draft: Draft, key: str, value: Any) -> None:
    epochs = draft.values.get("epochs", 1)
    if type(value) is int and type(epochs) is int and value > 0:
        draft.take(key, f"train.max_steps: {value * epochs}", value, f"{key} × epochs")
    else:
        draft.leave(key, OFF)


def resolved(values: dict[str, Any]) -> dict[str, Any]:
    """The values with `${output_dir}` and the like replaced by what they name."""

    def replaced(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return REFERENCE.sub(lambda found: str(values.get(found[1], found[0])), value)

    return {key: replaced(value) for key, value in values.items()}


def _held_out(draft: Draft, key: str, value: Any) -> None:
    draft.take(key, "data.validation_fraction: 0.0", value, "write data.validation_fraction, or validation_path")


PART_OF_DATA = absent("it is part of section data")
MODEL: dict[str, str | Rule] = {"_component_": _model, "lora_attn_modules": "optim.target_modules"}
TABLE: dict[str, str | Rule] = {
    **{f"model.{name}": rule for name, rule in MODEL.items()},
    "tokenizer._component_": absent("the model's own tokenizer is used"),
    "tokenizer.path": absent("the model's own tokenizer is used; data.tokenizer names another"),
    "dataset._component_": _dataset,
    "dataset.source": PART_OF_DATA,
    "dataset.data_files": PART_OF_DATA,
    "dataset.split": PART_OF_DATA,
    "dataset.column": PART_OF_DATA,
    "dataset.column_map": PART_OF_DATA,
    "dataset_val": _held_out,
    "dataset.packed": switch("data.packing: packed", "data.packing: paper"),
    "dataset.train_on_input": switch("data.loss_on: all", "data.loss_on: responses"),
    "checkpointer.checkpoint_dir": "model.name_or_path",
    "checkpointer.checkpoint_files": absent("all weights of checkpoint_dir are read"),
    "checkpointer._component_": absent("safetensors of Hugging Face are read"),
    "checkpointer.output_dir": absent("it is given on the command line: galore train RECIPE --output-dir DIR"),
    "optimizer._component_": _optimizer,
    "optimizer.lr": "optim.learning_rate",
    "lr_scheduler._component_": _schedule,
    "loss._component_": absent("the loss is cross-entropy, computed without holding the logits"),
    "batch_size": "train.micro_batch_size",
    "gradient_accumulation_steps": accumulation("batch_size"),
    "max_steps_per_epoch": _steps,
    "clip_grad_norm": clipping,
    "optimizer_in_bwd": switch("optim.update: immediate"),
    "metric_logger._component_": _logger,
    "metric_logger.project": "log.wandb_project",
}
DEFAULTS = {
    "gradient_accumulation_steps": 1,
    "batch_size": 1,
    "epochs": 1,
    "clip_grad_norm": None,
    "min_lr_rate": 0.0,
    "dataset_val": None,
    "lr_scheduler._component_": "constant",
    "lr_scheduler.num_warmup_steps": 0,
}
TORCHTUNE = Tool(
    "torchtune",
    ("optimizer._component_", "tokenizer._component_", "checkpointer._component_"),
    TABLE,
    lambda written: DEFAULTS,
)
