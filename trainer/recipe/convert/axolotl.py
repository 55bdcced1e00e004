"""Axolotl's keys: those whose meaning the names alone do not give."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from galore.trainer.recipe.convert.apollo import Apollo
from galore.trainer.recipe.convert.datasets import ALPACA, SYSTEM, DataSet, data_sets, leave_unread, paths_in, streaming
from galore.trainer.recipe.convert.draft import (
    OFF,
    Draft,
    Rule,
    Tool,
    accumulation,
    clipping,
    is_off,
    modules,
    positive,
    switch,
    whole_steps,
)

CUSTOM = {"prompt_field": "field_instruction", "input_field": "field_input", "response_field": "field_output"}
KNOWN_TYPES = ("alpaca", "completion", "pretrain", "sharegpt", "chat_template")
READ = frozenset(["path", "data_files", "ds_type", "name", "split", "type", "field", "text_column", "field_messages"])
PART = "all rows are trained on, not one part of so many: put its rows into a file of their own"
MESSAGE = "messages have role and content, or from and value: rename what is called otherwise"
TARGETS = "what the assistant says and what ends its turns are targets, by data.loss_on: write all, or last"
CHOSEN = "a message with train: false is no target: write that into the data"
PROMPT = "the chat template writes the prompt, an empty line and the input: data.chat_template names another"
TEMPLATE = "data.chat_template is one for all data sets"
UNREAD = {
    "shards": PART,
    "shards_idx": PART,
    "skip": "all rows are trained on: put those behind the first into a file of their own",
    "split": "files are read whole, whatever their split is called",
    "revision": "the newest revision is read",
    "preprocess_shards": "text is read and tokenized in bounded memory: leave it out",
    "roles": "roles have their usual names: docs/instructions.md",
    "field_tools": "tools are read of the column tools",
    "drop_system_message": "system messages stay: take them out of the data",
    **dict.fromkeys(("field_system", "system_prompt", "system_format"), SYSTEM),
    **dict.fromkeys(("message_property_mappings", "message_field_role", "message_field_content"), MESSAGE),
    **dict.fromkeys(("roles_to_train", "train_on_eos", "train_on_eot", "train_on_inputs"), TARGETS),
    **dict.fromkeys(("message_field_training", "message_field_training_detail"), CHOSEN),
    **dict.fromkeys(("format", "no_input_format"), PROMPT),
    **dict.fromkeys(("chat_template", "chat_template_jinja"), TEMPLATE),
}
SUFFIXES = (".json", ".jsonl", ".parquet", ".txt", ".csv", ".arrow", ".gz")


def _method(draft: Draft, key: str, value: Any) -> None:
    """Adapters, or none."""
    relora = "; galore's way of it is optim.adapter: relora" if not is_off(draft.values.get("relora")) else ""
    if is_off(value):
        draft.take(key, "optim.method: full", value)
    elif value in ("lora", "qlora"):
        note = "base weights are not quantized" if value == "qlora" else ""
        draft.take(key, "optim.method: lora", value, note + relora)
    else:
        draft.take(key, "optim.method: full", value, f"{value} is not offered")


def _datasets(draft: Draft, key: str, value: Any) -> None:
    """All data sets, files and those of the hub."""
    listed = value if isinstance(value, list) else [value]
    entries = [each if isinstance(each, Mapping) else {"path": each} for each in listed]
    pretraining = key == "pretraining_dataset"
    sets = [_data_set(each, _fields(each, pretraining)) for each in entries]
    data_sets(draft, key, sets, f"of type {entries[0].get('type', 'text')}")
    for number, entry in enumerate(entries):
        _leave_unread(draft, f"{key}.{number}", entry, sets[number].columns)


def _leave_unread(draft: Draft, place: str, entry: Mapping[str, Any], columns: Mapping[str, str]) -> None:
    """What an entry says beside where its rows are and which columns are read."""
    kind = entry.get("type") or ""
    of_files = _is_local(entry) and "[" not in str(entry.get("split"))
    leave_unread(draft, place, entry, READ - {"split"} if of_files else READ, UNREAD)
    if isinstance(kind, Mapping):
        leave_unread(draft, f"{place}.type", kind, CUSTOM.values(), UNREAD)
    elif kind and kind not in KNOWN_TYPES:
        why = f"its columns are taken to be {', '.join(columns.values())}: write those that it has"
        draft.leave_part(f"{place}.type", kind, why)


def _data_set(entry: Mapping[str, Any], fields: dict[str, str]) -> DataSet:
    config, split = (str(entry[name]) if entry.get(name) else None for name in ("name", "split"))
    if _is_local(entry):
        return DataSet(fields, paths=_files(entry), split=split)
    (path,) = _files(entry)
    return DataSet(fields, hub=path, config=config, split=split)


def _files(entry: Mapping[str, Any]) -> list[str]:
    return paths_in(entry.get("data_files") or entry.get("path"))


def _is_local(entry: Mapping[str, Any]) -> bool:
    path = str(entry.get("path", ""))
    return bool(entry.get("data_files") or entry.get("ds_type")) or path.endswith(SUFFIXES) or Path(path).exists()


def _fields(entry: Mapping[str, Any], pretraining: bool) -> dict[str, str]:
    kind = entry.get("type", "")
    if isinstance(kind, Mapping):
        return {path: str(kind[name]) for path, name in CUSTOM.items() if kind.get(name)}
    if pretraining or kind in ("completion", "pretrain"):
        return {"text_field": str(entry.get("field") or entry.get("text_column") or "text")}
    if "sharegpt" in str(kind):
        return {"messages_field": str(entry.get("field_messages", "conversations"))}
    if "chat_template" in str(kind):
        return {"messages_field": str(entry.get("field_messages", "messages"))}
    return ALPACA


def _per_epoch(draft: Draft, key: str, value: Any) -> None:
    if value == 1:
        draft.take(key, "eval.eval_epochs: 1", value)
    elif value == 0:
        draft.take(key, "eval.eval_steps: null", value)
    else:
        draft.leave(key, "write eval.eval_steps: the steps of an epoch / evals_per_epoch")


def _warm_up(draft: Draft, key: str, value: Any) -> None:
    """The share of the steps that warm up, where their number is not given."""
    if not is_off(draft.values.get("warmup_steps")):
        draft.leave(key, "warmup_steps counts")
    elif is_off(value):
        draft.take(key, "optim.warmup_ratio: 0.03", value, "3 % of the steps, there at most 100")
    else:
        draft.take(key, "optim.warmup_ratio", value)


def _embeddings(draft: Draft, key: str, value: Any) -> None:
    """The rate of embeddings and output head, or its ratio to that of all."""
    rate = f"{value}x" if key == "embedding_lr_scale" else value
    if is_off(value):
        return draft.leave(key, OFF)
    if not is_off(draft.values.get("adapter")) and not draft.values.get("lora_modules_to_save"):
        return draft.leave(key, "adapters without lora_modules_to_save train neither embeddings nor head")
    draft.settings["optim.head_learning_rate"] = rate
    return draft.take(key, "optim.embedding_learning_rate", rate, "and optim.head_learning_rate")


def _optimizer(draft: Draft, key: str, value: Any) -> None:
    draft.optimizer(key, value)
    if value == "apollo_adamw":
        draft.settings |= APOLLO.settings(draft)


def _of_apollo(rule: Rule) -> Rule:
    """A rule for APOLLO's arguments; other optimizers have theirs by name."""

    def chosen(draft: Draft, key: str, value: Any) -> None:
        if draft.values.get("optimizer") == "apollo_adamw":
            rule(draft, key, value)
        else:
            draft.by_name(key)

    return chosen


def _project(draft: Draft, key: str, value: Any) -> None:
    if is_off(value):
        return draft.leave(key, OFF)
    draft.settings["log.report_to"] = "wandb"
    return draft.take(key, "log.wandb_project", value)


APOLLO = Apollo("optim_args.", rank=128, scale=1.0, scale_type="channel")
TABLE: dict[str, str | Rule] = {
    "adapter": _method,
    "datasets": _datasets,
    "pretraining_dataset": _datasets,
    "lora_target_linear": modules,
    "lora_target_modules": modules,
    "sample_packing": switch("data.packing: packed", "data.packing: paper"),
    "train_on_inputs": switch("data.loss_on: all", "data.loss_on: responses"),
    "gradient_accumulation_steps": accumulation("micro_batch_size"),
    "micro_batch_size": "train.micro_batch_size",
    "streaming": streaming,
    "max_steps": positive("train.max_steps", "num_epochs counts"),
    "max_grad_norm": clipping,
    "optimizer": _optimizer,
    "optim_args.scale": _of_apollo(APOLLO.take_scale),
    "optim_args.scale_type": _of_apollo(APOLLO.take_type),
    "embedding_lr": _embeddings,
    "embedding_lr_scale": _embeddings,
    "warmup_ratio": _warm_up,
    "evals_per_epoch": _per_epoch,
    "eval_steps": whole_steps("eval.eval_steps"),
    "save_steps": whole_steps("train.save_steps"),
    "val_set_size": "data.validation_fraction",
    "gradient_checkpointing": switch("train.gradient_checkpointing: true", "train.gradient_checkpointing: false"),
    "flash_attention": switch("model.attn_implementation: flash_attention_2"),
    "wandb_project": _project,
    "bf16": switch("model.dtype: bfloat16"),
    "fp16": switch("model.dtype: bfloat16"),
    "bfloat16": switch("model.dtype: bfloat16"),
}
DEFAULTS = {
    "adapter": None, "num_epochs": 1, "micro_batch_size": 1, "gradient_accumulation_steps": 1, "sequence_len": 512,
    "warmup_ratio": None, "cosine_min_lr_ratio": 0.0, "val_set_size": 0.0, "learning_rate": 5e-5,
}  # fmt: skip


def _defaults(written: Mapping[str, Any]) -> dict[str, Any]:
    """What it does where the file is silent; a number of steps takes the place of their share."""
    return {
        key: value for key, value in DEFAULTS.items() if key != "warmup_ratio" or is_off(written.get("warmup_steps"))
    }


AXOLOTL = Tool(
    "axolotl",
    ("base_model", "sequence_len", "datasets", "num_epochs", "val_set_size"),
    TABLE,
    _defaults,
    "sample_packing",
)
