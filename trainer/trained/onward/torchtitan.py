"""torchtitan: a TOML file, and a module that tells it the dimensions of this model and where the data lie."""

from __future__ import annotations

import json
from typing import Any

from transformers import PretrainedConfig

from galore.trainer.common.errors import UserError
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.schedule import decay_steps, warmup_steps
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

MODULE = "torchtitan_model"
DECAYS = {"linear": "linear", "cosine": "cosine", "warmup_stable_decay": "cosine"}
SOURCE = '''"""This model and its texts, for torchtitan {version}, which imports the module: `experimental.custom_import` names it."""

from dataclasses import replace

from datasets import load_dataset
from torchtitan.hf_datasets import DatasetConfig
from torchtitan.hf_datasets.text_datasets import DATASETS
from torchtitan.models.llama3 import TransformerModelArgs, get_train_spec
from torchtitan.models.llama3.model.args import RoPEScalingArgs
from torchtitan.protocols.train_spec import register_train_spec

MODEL = TransformerModelArgs(
{arguments}
)
register_train_spec("exported", replace(get_train_spec(), model_args={{"exported": MODEL}}))


def load(path: str):
    return load_dataset({load})


DATASETS["exported"] = DatasetConfig(path={path!r}, loader=load, sample_processor=lambda row: row[{column!r}])
'''
VERSION = "0.2.2"


def hand_over(trained: Trained) -> Handover:
    recipe, found = trained.recipe, Handover()
    _refuse(recipe, trained.config)
    path, data = of_data(recipe, found), recipe.data.parts[0]
    found.says |= {
        f"data.{name}" for name in ("hub_config", "split", "validation_split", "streaming", "format", "tokenizer")
    }
    if data.source == "hub" and not recipe.streams(data):
        found.tell("data.streaming", "rows are streamed there, without a shuffle of all")
    if data.source == "hub":
        load = f"path, name={data.hub_config!r}, split={data.split!r}, streaming=True"
    else:
        kind = kind_of_file(path, data.format)
        tell_documents(kind, data, found)
        found.says |= {"data.delimiter"} if kind == "csv" else set()
        parted = f", delimiter={delimiter_of(path, data)!r}" if kind == "csv" else ""
        load = f'{kind!r}, data_files=path, split="train", streaming=True{parted}'
    column = only_column("data.text_field", data.text_field, found)
    column = column if data.source != "packaged" else "text"
    arguments = "".join(f"    {name}={value},\n" for name, value in _dimensions(trained.config).items()).rstrip("\n")
    found.files[f"{MODULE}.py"] = SOURCE.format(
        version=VERSION, arguments=arguments, load=load, path=path, column=column
    )
    found.files["torchtitan.toml"] = _toml(_sections(trained, found))
    found.told.append(
        "data: each text begins with the tokenizer's first and ends with its last token; nothing is held out"
    )
    return found


def _refuse(recipe: Recipe, config: PretrainedConfig) -> None:
    """Raise UserError for what its LLaMA is not, or its loader does not read."""
    dim, heads = getattr(config, "hidden_size", 0), getattr(config, "num_attention_heads", 1)
    scaling = _rope(config).get("rope_type", "default")
    wrong = (
        f"of the architecture {config.model_type}" if config.model_type != "llama"
        else "a LLaMA with tied embeddings" if config.tie_word_embeddings
        else "a LLaMA with biases" if config.attention_bias or config.mlp_bias
        else "a LLaMA with heads of another width" if (config.head_dim or dim // heads) != dim // heads
        else f"a LLaMA with RoPE of type {scaling}" if scaling not in ("default", "llama3")
        else ""
    )  # fmt: skip
    if wrong:
        raise UserError(
            f"the model is {wrong}, which torchtitan {VERSION} has not",
            where="--recipe torchtitan",
            fix="take --recipe axolotl",
        )
    if recipe.data.instruct or recipe.data.tokens_field is not None:
        raise UserError(
            f"torchtitan {VERSION} trains on text, not on examples",
            where="--recipe torchtitan",
            fix="take --recipe axolotl",
        )


def _rope(config: PretrainedConfig) -> dict[str, Any]:
    """Parameters of RoPE, wherever a version of transformers keeps them."""
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return {"rope_theta": getattr(config, "rope_theta", None), **found}


def _dimensions(config: PretrainedConfig) -> dict[str, Any]:
    """Arguments of its LLaMA. The width of the MLP is the next multiple of `multiple_of` from 8/3 of the width up."""
    rope, usual = _rope(config), int(8 * config.hidden_size / 3)
    names = {"scaling_factor": "factor", "low_freq_factor": "low_freq_factor", "high_freq_factor": "high_freq_factor"}
    names["original_max_position_embeddings"] = "original_max_position_embeddings"
    scaled = rope.get("rope_type") == "llama3"
    scaling = {there: rope[here] for there, here in names.items()} if scaled else {"scaling_factor": 1.0}
    return {
        "dim": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "vocab_size": config.vocab_size,
        "multiple_of": config.intermediate_size,
        "ffn_dim_multiplier": None if usual <= config.intermediate_size else config.intermediate_size / usual,
        "norm_eps": config.rms_norm_eps,
        "rope_theta": rope["rope_theta"],
        "rope_scaling_args": f"RoPEScalingArgs({', '.join(f'{name}={value}' for name, value in scaling.items())})",
        "max_seq_len": config.max_position_embeddings,
    }


def _sections(trained: Trained, found: Handover) -> dict[str, dict[str, Any]]:
    recipe, steps = trained.recipe, trained.steps
    optim, train = recipe.optim, recipe.train
    found.says |= {
        f"optim.{name}"
        for name in ("learning_rate", "lr_scheduler_type", "warmup_steps", "warmup_ratio", "min_lr_ratio")
    }
    found.says |= {
        f"optim.{name}" for name in ("weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm")
    }
    found.says |= {
        "train.global_batch_size",
        "train.max_steps",
        "train.num_train_epochs",
        "train.seed",
        "data.max_length",
    }
    found.says |= {"optim.lr_decay_ratio", "optim.lr_decay_steps", "train.micro_batch_size"}
    rate = optim.learning_rate
    if optim.method == "galore":
        rate *= optim.effective_scale
        found.says.add("optim.scale")
        found.tell("optim.method", f"AdamW at full rank, at learning_rate × scale: {rate:g}; galore is not there")
    elif optim.method == "lora":
        found.tell("optim.method", "AdamW at full rank: adapters are not there; choose another learning rate")
        tell_scale(optim, found)
    else:
        found.says.add("optim.method")
        tell_scale(optim, found)
    if train.max_steps is None:
        found.told.append(f"train.num_train_epochs: {steps} steps, as they came to here")
    checkpoint = {"enable": True, "initial_load_path": ".", "initial_load_in_hf": True, "folder": "checkpoint"}
    return {
        "model": {"name": "exported", "flavor": "exported", "hf_assets_path": "."},
        "experimental": {"custom_import": MODULE},
        "optimizer": {
            "name": "AdamW", "lr": rate, "beta1": optim.adam_beta1, "beta2": optim.adam_beta2, "eps": optim.adam_epsilon,
            "weight_decay": optim.weight_decay,
        },
        "lr_scheduler": _schedule(recipe, steps, found),
        "training": {
            "dataset": "exported", "local_batch_size": train.micro_batch_size, "global_batch_size": train.global_batch_size,
            "seq_len": recipe.data.max_length, "max_norm": optim.max_grad_norm or 1e9, "steps": steps,
            "dtype": recipe.model.dtype, "mixed_precision_param": recipe.model.dtype,
        },
        "checkpoint": checkpoint | ({"interval": train.save_steps} if train.save_steps else {}),
        "activation_checkpoint": {"mode": "full" if train.gradient_checkpointing else "none"},
        "metrics": {"log_freq": recipe.log.logging_steps},
        "debug": {"seed": train.seed},
    }  # fmt: skip


def _schedule(recipe: Recipe, steps: int, found: Handover) -> dict[str, Any]:
    optim, warmup = recipe.optim, warmup_steps(recipe.optim, steps)
    values = {"warmup_steps": warmup, "min_lr_factor": optim.min_lr_ratio}
    if optim.lr_scheduler_type in ("constant", "constant_with_warmup"):
        return values | {"decay_ratio": 0.0}
    if optim.lr_scheduler_type == "warmup_stable_decay":
        values["decay_ratio"] = decay_steps(optim, steps) / steps
    if optim.lr_scheduler_type not in DECAYS:
        found.tell("optim.lr_scheduler_type", f"{optim.lr_scheduler_type} is not there: cosine is taken")
    return values | {"decay_type": DECAYS.get(optim.lr_scheduler_type, "cosine")}


def _toml(sections: dict[str, dict[str, Any]]) -> str:
    lines = [
        f"# torchrun --nproc-per-node=8 -m torchtitan.train --job.config_file torchtitan.toml, in this folder; torchtitan {VERSION}"
    ]
    for name, values in sections.items():
        lines += ["", f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


TORCHTITAN = Target(
    "torchtitan",
    VERSION,
    "torchrun --nproc-per-node=8 -m torchtitan.train --job.config_file torchtitan.toml",
    hand_over,
)
