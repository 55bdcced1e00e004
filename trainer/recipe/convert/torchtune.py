"""Torchtune's keys: those whose meaning the names alone do not give. `optimizer.lr` is `lr` below `optimizer:`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from galore.trainer.recipe.convert.datasets import ALPACA, SYSTEM, DataSet, data_sets, leave_unread, paths_in
from galore.trainer.recipe.convert.draft import (
    OFF,
    Draft,
    Rule,
    Tool,
    absent,
    accumulation,
    clipping,
    is_off,
    off,
    switch,
)
from galore.trainer.recipe.explain.values import shown
from galore.trainer.recipe.parse.syntax import dump_value

SETS = {
    "alpaca_dataset": ("tatsu-lab/alpaca", ALPACA),
    "alpaca_cleaned_dataset": ("yahma/alpaca-cleaned", ALPACA),
    "samsum_dataset": ("Samsung/samsum", {"prompt_field": "dialogue", "response_field": "summary"}),
    "slimorca_dataset": ("Open-Orca/SlimOrca-Dedup", {"messages_field": "conversations"}),
    "instruct_dataset": ("", {"prompt_field": "input", "response_field": "output"}),
}
NAMED = ("instruction", "input", "output", "conversations")  # by column_map
RENAMED = {"dialogue": "input", "summary": "output"}  # columns, as column_map calls them where it does so otherwise
READ = ("_component_", "source", "data_files", "split", "name", "column", "column_map", "conversation_column")
ALL_ROWS = "all rows are trained on: put those that it keeps into a file of their own"
OF_ALL = {"packed": "data.packing: packed", "train_on_input": "data.loss_on: all"}  # one setting for all data sets
MESSAGES = {"messages_field": "messages"}
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant"}
MASKS = {"train_on_all": "all", "train_on_assistant": "responses", "train_on_last": "last"}
LOCAL = ("json", "parquet", "text", "csv", "arrow")  # builders that read files
ADAPTED = {"output_proj": "o_proj", "w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
APPLIED = {"model.apply_lora_to_mlp": "mlp", "model.apply_lora_to_output": "lm_head"}
REFERENCE = re.compile(r"\$\{([\w.]+)\}")


def _model(draft: Draft, key: str, value: Any) -> None:
    """The builder of the model says whether adapters are trained; its weights are the checkpointer's."""
    draft.take(
        key, f"optim.method: {'lora' if _adapts(value) else 'full'}", value, "the weights are those of checkpoint_dir"
    )


def _adapts(builder: Any) -> bool:
    return "lora_" in str(builder)


def _targets(draft: Draft, key: str, value: Any) -> None:
    """The modules that get adapters, which three keys name together."""
    named = draft.values.get("model.lora_attn_modules") or []
    wanted = [ADAPTED.get(each, each) for each in ([named] if isinstance(named, str) else named)]
    wanted += [module for flag, module in APPLIED.items() if draft.values.get(flag) is True]
    if key in APPLIED and value is not True:
        draft.leave(key, f"{APPLIED[key]} is not among optim.target_modules")
    elif wanted:
        draft.take(key, f"optim.target_modules: {dump_value(wanted)}", value)
    else:
        draft.leave(key, off("optim.target_modules"))


def _longest(draft: Draft, key: str, value: Any) -> None:
    """The longest example, which nothing bounds there unless it is said."""
    if is_off(value):
        draft.leave(key, f"{off('data.max_length')}, and what is longer is cut off")
    else:
        draft.take(key, "data.max_length", value)


def _dataset(draft: Draft, key: str, value: Any) -> None:
    """The data set that a section names."""
    entry = {name.partition(".")[2]: each for name, each in draft.values.items() if name.startswith("dataset.")}
    data_sets(draft, key, [_data_set(draft, "dataset", entry)], "with its fields")


def _datasets(draft: Draft, key: str, value: Any) -> None:
    """Several data sets in a list, which there are put together whole."""
    if not isinstance(value, list) or not all(isinstance(each, Mapping) for each in value):
        raise TypeError
    entries = [_targets_of(_kind(each)) | each for each in value]
    sets = [_data_set(draft, f"{key}.{number}", entry) for number, entry in enumerate(entries)]
    data_sets(draft, key, sets, "with their fields")
    why = {"filter_fn": ALL_ROWS}
    for name, target in OF_ALL.items():
        path, _, on = target.partition(": ")
        is_on = all(entry.get(name) is True for entry in entries)
        draft.settings |= {path: on} if is_on else {}
        why[name] = f"{target}, as all of them say" if is_on else f"{path} is one for all of them"
    for number, entry in enumerate(entries):
        leave_unread(draft, f"{key}.{number}", entry, READ, why)


def _targets_of(kind: str) -> dict[str, Any]:
    """Whether prompts are trained on where the file is silent, by the builder."""
    return {"train_on_input": True} if "alpaca" in kind else {}


def _kind(entry: Mapping[str, Any]) -> str:
    return str(entry.get("_component_")).rpartition(".")[2]


def _data_set(draft: Draft, place: str, entry: Mapping[str, Any]) -> DataSet:
    source = str(entry.get("source") or SETS.get(_kind(entry), ("",))[0])
    files, split = entry.get("data_files"), str(entry.get("split") or "train")
    leave_unread(draft, f"{place}.column_map", entry.get("column_map") or {}, NAMED, {"system": SYSTEM})
    if source in LOCAL:
        return DataSet(_columns(entry), paths=paths_in(files), split=split)
    if files:
        what = f"{shown(files)} are some of the files of {source}, which is read whole"
        raise draft.refused(f"{place}.data_files", what, "fetch them, and write source: json with their paths")
    return DataSet(_columns(entry), hub=source, config=entry.get("name"), split=split)


def _columns(entry: Mapping[str, Any]) -> dict[str, str]:
    """The columns of a data set, by its builder and the names that the file gives them."""
    kind, renamed = _kind(entry), entry.get("column_map") or {}
    if kind == "text_completion_dataset":
        return {"text_field": str(entry.get("column", "text"))}
    if not is_off(entry.get("conversation_column")):
        return {"messages_field": str(entry["conversation_column"])}
    known = SETS[kind][1] if kind in SETS else ALPACA if "instruct" in kind else MESSAGES
    return {path: str(renamed.get(RENAMED.get(column, column), column)) for path, column in known.items()}


def _masks(draft: Draft, key: str, value: Any) -> None:
    """Which tokens are targets, by a name."""
    if value in MASKS:
        draft.take(key, f"data.loss_on: {MASKS[value]}", value)
    else:
        draft.leave(key, "it is not offered: the recipe takes data.loss_on")


def _optimizer(draft: Draft, key: str, value: Any) -> None:
    name = str(value).rpartition(".")[2].lower()
    draft.optimizer(
        key, {"pagedadamw8bit": "adamw_8bit", "adamw8bit": "adamw_8bit", "pagedadamw": "adamw"}.get(name, name)
    )


def _betas(draft: Draft, key: str, value: Any) -> None:
    """Both decay rates of the moments, which are two settings."""
    shares = [each for each in value if type(each) in (int, float) and 0 <= each < 1] if isinstance(value, list) else []
    if len(shares) != 2 or shares != value:
        why = "it is no list of two numbers from 0 to below 1: the recipe takes optim.adam_beta1 and optim.adam_beta2"
        return draft.leave(key, why)
    first, second = shares
    draft.settings["optim.adam_beta1"] = first
    return draft.take(key, f"optim.adam_beta2: {second}", value, f"after optim.adam_beta1: {first}")


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
TABLE: dict[str, str | Rule] = {
    "model._component_": _model,
    "model.lora_attn_modules": _targets,
    **dict.fromkeys(APPLIED, _targets),
    "tokenizer.max_seq_len": _longest,
    "tokenizer._component_": absent("the model's own tokenizer is used"),
    "tokenizer.path": absent("the model's own tokenizer is used; data.tokenizer names another"),
    "dataset._component_": _dataset,
    "dataset.source": PART_OF_DATA,
    "dataset.data_files": PART_OF_DATA,
    "dataset.split": PART_OF_DATA,
    "dataset.column": PART_OF_DATA,
    "dataset.column_map": PART_OF_DATA,
    "dataset.name": "data.hub_config",
    "dataset.filter_fn": absent(ALL_ROWS),
    "dataset": _datasets,
    "dataset_val._component_": _held_out,
    "dataset_val": _held_out,
    "dataset.packed": switch("data.packing: packed", "data.packing: paper"),
    "dataset.train_on_input": switch("data.loss_on: all", "data.loss_on: responses"),
    "dataset.masking_strategy": _masks,
    "checkpointer.checkpoint_dir": "model.name_or_path",
    "checkpointer.checkpoint_files": absent("all weights of checkpoint_dir are read"),
    "checkpointer._component_": absent("safetensors of Hugging Face are read"),
    "checkpointer.output_dir": absent("it is given on the command line: galore train RECIPE --output-dir DIR"),
    "optimizer._component_": _optimizer,
    "optimizer.lr": "optim.learning_rate",
    "optimizer.betas": _betas,
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
OF_ADAPTERS = {"model.lora_rank": 8, "model.lora_alpha": 16}
DECAY = 0.01  # of AdamW in torch, torchao and bitsandbytes


def _defaults(written: Mapping[str, Any]) -> dict[str, Any]:
    """What it does where the file is silent, of the builders that the file names."""
    found = DEFAULTS | (OF_ADAPTERS if _adapts(written.get("model._component_")) else {})
    if "adamw" in str(written.get("optimizer._component_")).lower():
        found |= {"optimizer.weight_decay": DECAY}
    if "dataset.masking_strategy" not in written:
        found |= {
            f"dataset.{key}": value for key, value in _targets_of(str(written.get("dataset._component_"))).items()
        }
    if not any(key.endswith("max_seq_len") for key in written):
        found |= {"tokenizer.max_seq_len": None}
    return found


TORCHTUNE = Tool(
    "torchtune",
    ("optimizer._component_", "tokenizer._component_", "checkpointer._component_"),
    TABLE,
    _defaults,
    "dataset.packed",
)
