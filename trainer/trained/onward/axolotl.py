"""Axolotl: one YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from galore.trainer.recipe.schema.data import DataSection
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.trained.onward.target import (
    Handover,
    Target,
    Trained,
    delimiter_of,
    kind_of_file,
    of_data,
    only_column,
    tell_documents,
    tell_scale,
)

SAME = {
    "sequence_len": "data.max_length",
    "micro_batch_size": "train.micro_batch_size",
    "gradient_accumulation_steps": "train.accumulation",
    "lr_scheduler": "optim.lr_scheduler_type",
    "weight_decay": "optim.weight_decay",
    "adam_beta1": "optim.adam_beta1",
    "adam_beta2": "optim.adam_beta2",
    "adam_epsilon": "optim.adam_epsilon",
    "val_set_size": "data.validation_fraction",
    "seed": "train.seed",
    "save_steps": "train.save_steps",
    "save_total_limit": "train.save_total_limit",
    "eval_steps": "eval.eval_steps",
    "logging_steps": "log.logging_steps",
}
KWARGS = {
    "lr_num_cycles": "num_cycles",
    "lr_power": "power",
}  # of schedules, as transformers calls them
CHECKPOINTING = "train.gradient_checkpointing"


def hand_over(trained: Trained) -> Handover:
    recipe, found = trained.recipe, Handover()
    values: dict[str, Any] = {"base_model": ".", "output_dir": "./outputs"}
    for name, path in SAME.items():
        values[name] = _at(recipe, path)
    found.says |= {*SAME.values(), "train.global_batch_size", "optim.learning_rate", CHECKPOINTING}
    found.told.append(
        f"train.global_batch_size: {recipe.train.global_batch_size} on one process; of N processes divide "
        "gradient_accumulation_steps by N"
    )
    values |= _length(trained, found) | _schedule(recipe, found) | _optimizer(recipe, found)
    values |= {
        "bf16": recipe.model.dtype == "bfloat16",
        "gradient_checkpointing": bool(recipe.train.gradient_checkpointing),
    }
    values |= _data(recipe, found)
    left = {name: value for name, value in values.items() if value is not None}
    text = yaml.safe_dump(left, sort_keys=False, allow_unicode=True)
    found.files["axolotl.yaml"] = f"# axolotl train axolotl.yaml, in this folder\n{text}"
    return found


def _at(recipe: Recipe, path: str) -> Any:
    section, name = path.split(".")
    return getattr(getattr(recipe, section), name)


def _length(trained: Trained, found: Handover) -> dict[str, Any]:
    train = trained.recipe.train
    found.says |= {"train.max_steps", "train.num_train_epochs"}
    return {"max_steps": train.max_steps} if train.max_steps is not None else {"num_epochs": train.num_train_epochs}


def _schedule(recipe: Recipe, found: Handover) -> dict[str, Any]:
    optim = recipe.optim
    found.says |= {
        "optim.warmup_steps",
        "optim.warmup_ratio",
        "optim.min_lr_ratio",
        *(f"optim.{name}" for name in KWARGS),
    }
    values: dict[str, Any] = {"max_grad_norm": optim.max_grad_norm or 0.0}
    found.says.add("optim.max_grad_norm")
    if optim.warmup_steps is not None:
        values["warmup_steps"] = optim.warmup_steps
    else:
        values["warmup_ratio"] = optim.warmup_ratio
    if optim.lr_scheduler_type == "cosine":
        values["cosine_min_lr_ratio"] = optim.min_lr_ratio
    elif optim.min_lr_ratio and optim.lr_scheduler_type not in ("constant", "constant_with_warmup", "inverse_sqrt"):
        found.tell("optim.min_lr_ratio", f"{optim.lr_scheduler_type} falls to 0 there, here to {optim.min_lr_ratio}")
    kwargs = {there: getattr(optim, here) for here, there in KWARGS.items() if getattr(optim, here) is not None}
    return values | ({"lr_scheduler_kwargs": kwargs} if kwargs else {})


def _optimizer(recipe: Recipe, found: Handover) -> dict[str, Any]:
    optim = recipe.optim
    eight = optim.state_dtype == "8bit"
    found.says |= {"optim.method", "optim.rank"}
    own_rule = optim.method == "full" and optim.inner in ("adafactor", "muon")
    if optim.state_dtype == "float32" or (eight and not own_rule):
        found.says.add("optim.state_dtype")
    values: dict[str, Any] = {
        "learning_rate": optim.learning_rate,
        "optimizer": "adamw_bnb_8bit" if eight else "adamw_torch",
    }
    peaks = optim.peak_rates
    if (own := peaks.get("embedding_learning_rate")) is not None and own == peaks.get("head_learning_rate"):
        found.says |= {"optim.embedding_learning_rate", "optim.head_learning_rate"}
        values["embedding_lr"] = own
    if optim.method == "lora":
        tell_scale(optim, found)
        found.says |= {"optim.lora_alpha", "optim.lora_dropout", "optim.train_modules"}
        found.tell("optim.target_modules", "lora_target_linear: all linear layers are adapted there")
        whole = list(optim.train_modules)
        if recipe.model.new_tokens:
            whole += [name for name in ("embed_tokens", "lm_head") if name not in whole]
            found.tell(
                "model.new_tokens", "lora_modules_to_save trains embedding and head, by the names that LLaMA has"
            )
        return values | {
            "adapter": "lora", "lora_r": int(optim.rank), "lora_alpha": optim.lora_alpha, "lora_dropout": optim.lora_dropout,
            "lora_target_linear": True, "lora_modules_to_save": whole or None,
        }  # fmt: skip
    if optim.method == "full":
        tell_scale(optim, found)
        if own_rule:
            found.says.add("optim.inner")
            values["optimizer"] = optim.inner
        return values
    found.says.add("optim.target_modules")
    if optim.rank < 1:
        tell_scale(optim, found)
        values["optimizer"] = "adamw_bnb_8bit" if eight else "adamw_torch"
        found.tell(
            "optim.method",
            "galore with a share as rank has no equivalent there: AdamW at full rank, choose another learning rate",
        )
        return values
    found.says |= {"optim.update_proj_gap", "optim.proj_type", "optim.scale"}
    found.told += [
        "optim.method: galore is there that of galore_torch: each process keeps and sends whole gradients, subspaces by exact SVD of one "
        "micro-batch's share, moments stay as they are",
        "optim.method: under FSDP and DeepSpeed that optimizer does not work: stay with data parallelism, or write optimizer: adamw_torch and "
        "another learning rate",
    ]
    arguments = {
        "rank": optim.rank,
        "update_proj_gap": optim.update_proj_gap,
        "scale": optim.effective_scale,
        "proj_type": "std",
    }
    return values | {
        "optimizer": "galore_adamw_8bit" if eight else "galore_adamw",
        "optim_target_modules": list(optim.target_modules),
        "optim_args": ",".join(f"{name}={value}" for name, value in arguments.items()),
    }


def _data(recipe: Recipe, found: Handover) -> dict[str, Any]:
    path, data = of_data(recipe, found), recipe.data.parts[0]
    found.says |= {
        f"data.{name}" for name in ("prompt_field", "input_field", "response_field", "messages_field", "loss_on")
    }
    found.says |= {
        "data.hub_config",
        "data.split",
        "data.streaming",
        "data.packing",
        "data.format",
        "data.validation_split",
        "data.tokenizer",
    }
    entry: dict[str, Any] = {"path": path}
    if recipe.streams(data):
        found.tell("data.streaming", "the data set is fetched whole there; pretraining_dataset streams text")
    if data.source == "hub":
        entry |= {"name": data.hub_config, "split": data.split}
        if data.validation_split is not None:
            found.tell("data.validation_split", "val_set_size holds out a share of the training split there")
    else:
        entry["ds_type"] = kind_of_file(path, data.format)
        tell_documents(entry["ds_type"], data, found)
        if entry["ds_type"] == "csv" and delimiter_of(path, data) != ",":
            found.tell("data.delimiter", f"columns are parted by commas there: write {path} anew with them")
    if data.messages_field is not None:
        entry |= {"type": "chat_template", "field_messages": data.messages_field}
    elif data.prompt_field is not None:
        entry["type"] = {
            "field_instruction": only_column("data.prompt_field", data.prompt_field, found), "field_input": data.input_field, "field_output": data.response_field,
            "format": "{instruction}\n{input}" if data.input_field else "{instruction}", "no_input_format": "{instruction}",
        }  # fmt: skip
        found.tell("data.chat_template", "prompt and answer are written without a chat template there")
    else:
        entry |= {"type": "completion", "field": only_column("data.text_field", data.text_field, found)}
    if data.loss_on == "last":
        found.tell("data.loss_on", "every answer of a conversation is trained there, here the last one")
    values = {"datasets": [{name: value for name, value in entry.items() if value is not None}]}
    return (
        values
        | _held_out(data, values["datasets"][0], found)
        | {"sample_packing": data.packing == "packed", "train_on_inputs": data.loss_on == "all"}
    )


def _held_out(data: DataSection, entry: dict[str, Any], found: Handover) -> dict[str, Any]:
    """What is held out: files like those of `entry`, or a share of them."""
    if data.validation_path is None:
        return {"val_set_size": data.validation_fraction}
    held = [data.validation_path] if isinstance(data.validation_path, str) else data.validation_path
    names = [Path(each).name for each in held]
    found.tell("data.validation_path", f"put {', '.join(names)} into the folder")
    return {"val_set_size": 0.0, "test_datasets": [{**entry, "path": name, "split": "train"} for name in names]}


AXOLOTL = Target("axolotl", "0.19.0", "axolotl train axolotl.yaml", hand_over)
