"""LLaMA-Factory's keys: those whose meaning the names alone do not give."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from galore.trainer.common.reading import NotReadable, read_bounded
from galore.trainer.recipe.chattemplates import CHAT_TEMPLATES
from galore.trainer.recipe.convert.apollo import Apollo
from galore.trainer.recipe.convert.datasets import ALPACA, SYSTEM, DataSet, data_sets, leave_unread, streaming
from galore.trainer.recipe.convert.draft import (
    OFF,
    Draft,
    Rule,
    Tool,
    absent,
    accumulation,
    clipping,
    interval,
    is_off,
    modules,
    off,
    positive,
    switch,
    whole_steps,
)

MICRO = "per_device_train_batch_size"
INDEX = "dataset_info.json"
APOLLO = Apollo("apollo_", rank=16, scale=32.0, scale_type="channel")
READ = ("file_name", "hf_hub_url", "subset", "split", "formatting", "columns")
PREFERENCES = "its rows are preferences, which are not trained on here"
UNREAD = {
    "num_samples": "all rows are trained on, not so many that are drawn: put these into a file of their own",
    "folder": "all folders of the data set are read: name one by its files, in data.path",
    "revision": "the newest revision is read",
    "ms_hub_url": "hf_hub_url is read",
    "script_url": "hf_hub_url is read",
    "tags": "messages have role and content, or from and value, and roles their usual names: docs/instructions.md",
    "system": SYSTEM,
    "history": "turns before the last are not read, which are prompts and targets there: write them as messages",
    "tools": "tools are read of the column tools",
    **dict.fromkeys(("ranking", "chosen", "rejected", "kto_tag"), PREFERENCES),
    **dict.fromkeys(("images", "videos", "audios"), "training is on text only"),
}
ELSEWHERE = {
    "ms_hub_url": "a data set of ModelScope",
    "om_hub_url": "a data set of Modelers",
    "script_url": "a script",
    "cloud_file_name": "a file of a cloud",
}
COMPENSATED = "there trained weights are float32, whatever bf16 and fp16 say; stochastic saves 2 bytes per weight"
HOLD_OUT = "it is a number of examples: write data.validation_fraction, a share"


def _method(draft: Draft, key: str, value: Any) -> None:
    """Full training, adapters, or GaLore in one of its names."""
    galore = _projects(draft.values)
    if draft.values.get("use_apollo") is True:
        draft.settings |= APOLLO.settings(draft)
    if value == "lora" and not galore:
        draft.take(key, "optim.method: lora", value)
    elif value == "full" or galore:
        draft.take(key, f"optim.method: {'galore' if galore else 'full'}", value)
    else:
        draft.take(key, "optim.method: full", value, f"{value} is not offered")


def _projects(values: Mapping[str, Any]) -> bool:
    return True in (values.get("use_galore"), values.get("use_apollo"))


def _alpha(draft: Draft, key: str, value: Any) -> None:
    """The factor of adapters, which follows their rank where it is not given."""
    rank = draft.values.get("lora_rank")
    if not is_off(value):
        draft.take(key, "optim.lora_alpha", value)
    elif type(rank) is int:
        draft.take(key, f"optim.lora_alpha: {2 * rank}", value, "2 × lora_rank")
    else:
        draft.leave(key, off("optim.lora_alpha"))


def _apollo(draft: Draft, key: str, value: Any) -> None:
    """GaLore with the residual of APOLLO, in a subspace that is drawn."""
    if is_off(value):
        return draft.leave(key, OFF)
    draft.settings |= APOLLO.settings(draft)
    factor = draft.settings["optim.scale"]
    return APOLLO.take_type(draft, key, value, f"and optim.proj_type: random, optim.scale: {factor:g}")


def _stage(draft: Draft, key: str, value: Any) -> None:
    if value in ("sft", "pt"):
        draft.leave(key, "the fields of section data say whether rows are instructions or text")
    else:
        draft.leave(key, "the recipe trains on its targets only; docs/own-loop.md for GaLore in TRL's trainers")


def _dataset(draft: Draft, key: str, value: Any) -> None:
    """The names of data sets, looked up in dataset_info.json where that is at hand."""
    names = [each.strip() for each in value.split(",")] if isinstance(value, str) else [str(each) for each in value]
    folder = Path(str(draft.values.get("dataset_dir", "data")))
    known = _index(folder)
    entries = {name: known.get(name, {}) for name in names}
    sets = [_data_set(draft, folder, name, entries[name]) for name in names]
    absent_from = [name for name in names if not entries[name]]
    found = f"as {folder / INDEX} says"
    if absent_from:
        where = f"not in {folder / INDEX}" if (folder / INDEX).exists() else f"looked up in no {folder / INDEX} here"
        found = f"and {', '.join(absent_from)} {where}: check path and fields, or convert where LLaMA-Factory ran"
    data_sets(draft, key, sets, found, _weights(draft) if len(sets) > 1 else ())
    for name, entry in entries.items():
        read = [own for own, _ in _columns(draft, entry).values()]
        leave_unread(draft, f"{key}.{name}", entry, READ, UNREAD)
        leave_unread(draft, f"{key}.{name}.columns", _named(entry), read, UNREAD)


def _data_set(draft: Draft, folder: Path, name: str, entry: dict[str, Any]) -> DataSet:
    hub = entry.get("hf_hub_url")
    elsewhere = next((key for key in ELSEWHERE if key in entry and not hub), "")
    if elsewhere:
        what = (
            f"{name} is {ELSEWHERE[elsewhere]} in {folder / INDEX} ({elsewhere}: {entry[elsewhere]}), which is not read"
        )
        raise draft.refused("dataset", what, "fetch its rows, and name them there as file_name, or as hf_hub_url")
    named = _named(entry)
    fields = {path: str(named.get(own, column)) for path, (own, column) in _columns(draft, entry).items()}
    config, split = (str(entry[key]) if entry.get(key) else None for key in ("subset", "split"))
    if hub:
        return DataSet(fields, hub=str(hub), config=config, split=split)
    return DataSet(fields, paths=[str(folder / str(entry.get("file_name", f"{name}.json")))], split=split)


def _named(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    named = entry.get("columns")
    return named if isinstance(named, Mapping) else {}


def _columns(draft: Draft, entry: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """The columns of a data set: what dataset_info.json calls them, and their names where it says none."""
    if draft.values.get("stage") == "pt":
        return {"text_field": ("prompt", "text")}
    if entry.get("formatting") in ("sharegpt", "openai"):
        return {"messages_field": ("messages", "conversations")}
    own = {"prompt_field": "prompt", "input_field": "query", "response_field": "response"}
    return {path: (own[path], column) for path, column in ALPACA.items()}


def _weights(draft: Draft) -> list[float]:
    """The weights of interleaved data sets, `0.7,0.3`; none where they are put together whole."""
    given = draft.values.get("interleave_probs")
    parts = given.split(",") if isinstance(given, str) else given if isinstance(given, list) else []
    return [float(each) for each in parts]


def _probabilities(draft: Draft, key: str, value: Any) -> None:
    draft.leave(key, OFF if is_off(value) else "they are the weights of data.sources")


def _index(folder: Path) -> dict[str, Any]:
    try:
        known = json.loads(read_bounded(folder / INDEX))
    except (OSError, NotReadable, ValueError, RecursionError):
        return {}
    return {name: entry for name, entry in known.items() if isinstance(entry, dict)} if isinstance(known, dict) else {}


def _held_out(draft: Draft, key: str, value: Any) -> None:
    if isinstance(value, float | int) and 0 <= value < 1:
        draft.take(key, "data.validation_fraction", value)
    else:
        draft.leave(key, HOLD_OUT)


def _recomputed(draft: Draft, key: str, value: Any) -> None:
    draft.take(key, f"train.gradient_checkpointing: {'false' if value is True else 'true'}", value)


def _attention(draft: Draft, key: str, value: Any) -> None:
    if value == "auto" or is_off(value):
        draft.leave(key, "model.attn_implementation is sdpa unless it is set")
    else:
        draft.take(key, "model.attn_implementation", value)


def _weights_kept(draft: Draft, key: str, value: Any) -> None:
    """The type of the weights that are trained: float32 there, unless the file says otherwise."""
    if not is_off(value):
        draft.take(key, "model.dtype: bfloat16", value)
    elif _trains_in_float32(draft.values):
        # a bfloat16 weight beside what its rounding loses is the float32 one
        draft.take(key, "optim.weight_rounding: compensated", value, COMPENSATED)
    else:
        draft.leave(key, off("model.dtype: bfloat16"))


def _trains_in_float32(values: Mapping[str, Any]) -> bool:
    adapts = values.get("finetuning_type", "lora") == "lora" and not _projects(values)
    return not adapts and is_off(values.get("use_badam"))


def _template(draft: Draft, key: str, value: Any) -> None:
    """A chat template by name, where one is called so here."""
    if is_off(value):
        draft.leave(key, "the tokenizer's own is taken")
    elif value in CHAT_TEMPLATES:
        draft.take(key, "data.chat_template", value)
    else:
        draft.leave(key, f"the tokenizer's own is taken; data.chat_template names another: {', '.join(CHAT_TEMPLATES)}")


TABLE: dict[str, str | Rule] = {
    "stage": _stage,
    "finetuning_type": _method,
    "use_galore": switch("optim.method: galore"),
    "galore_target": modules,
    "use_muon": switch("optim.inner: muon"),
    "use_apollo": _apollo,
    "apollo_rank": "optim.rank",
    "apollo_target": modules,
    "apollo_update_interval": "optim.update_proj_gap",
    "apollo_scale": APOLLO.take_scale,
    "apollo_scale_type": APOLLO.take_type,
    "lora_target": modules,
    "lora_alpha": _alpha,
    "dataset": _dataset,
    "interleave_probs": _probabilities,
    "dataset_dir": absent("it is part of data.path"),
    "eval_dataset": absent("write its files as data.validation_path"),
    "val_size": _held_out,
    "template": _template,
    "dataloader_num_workers": absent("rows are memory-mapped, no workers read them ahead: leave it out"),
    "packing": switch("data.packing: packed", "data.packing: paper"),
    "neat_packing": switch("data.packing: packed"),
    "train_on_prompt": switch("data.loss_on: all", "data.loss_on: responses"),
    "gradient_accumulation_steps": accumulation(MICRO),
    "streaming": streaming,
    "max_steps": positive("train.max_steps", "num_train_epochs counts"),
    "max_grad_norm": clipping,
    "optim": Draft.optimizer,
    "eval_strategy": interval("eval.eval_steps", "eval.eval_epochs: 1"),
    "evaluation_strategy": interval("eval.eval_steps", "eval.eval_epochs: 1"),
    "save_strategy": interval("train.save_steps"),
    "eval_steps": whole_steps("eval.eval_steps"),
    "save_steps": whole_steps("train.save_steps"),
    "logging_steps": whole_steps("log.logging_steps"),
    "warmup_steps": positive("optim.warmup_steps", "warmup_ratio counts"),
    "disable_gradient_checkpointing": _recomputed,
    "flash_attn": _attention,
    "fp16": switch("model.dtype: bfloat16"),
    "pure_bf16": _weights_kept,
    "bf16": switch("model.dtype: bfloat16"),
}
DEFAULTS = {
    "finetuning_type": "lora", "learning_rate": 5e-5, "lr_scheduler_type": "linear", "warmup_ratio": 0.0,
    "min_lr_rate": 0.0, "val_size": 0.0,
    "num_train_epochs": 3, MICRO: 8, "gradient_accumulation_steps": 1, "cutoff_len": 2048,
    "disable_gradient_checkpointing": False,
}  # fmt: skip


def _defaults(written: Mapping[str, Any]) -> dict[str, Any]:
    """What it does where the file is silent, of the method that the file chooses."""
    own: dict[str, Any] = {}
    if _projects(written):
        own = {} if written.get("use_apollo") is True else {"galore_rank": 16, "galore_scale": 2.0}
    elif written.get("finetuning_type", "lora") == "lora":
        own = {"lora_rank": 8, "lora_alpha": None}
    if "pure_bf16" not in written and _trains_in_float32(written):
        own |= {"pure_bf16": False}
    return DEFAULTS | own


LLAMA_FACTORY = Tool(
    "llama-factory", ("finetuning_type", "cutoff_len", "stage", "template", "dataset_dir"), TABLE, _defaults, "packing"
)
