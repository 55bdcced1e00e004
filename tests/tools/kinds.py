"""Twenty kinds of architecture in a table: which layers of each are projected, and what stays full-rank, and why."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from architectures import DECODERS
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from galore.trainer.optim.groups import TARGETS, galore_groups

HEAD = "| `model_type` | mixes tokens by | `optim.target_modules` | projected | full-rank |\n|---|---|---|---|---|"


@dataclass(frozen=True)
class Kind:
    """A row: a name of `DECODERS`, what mixes tokens in it, and what to write for `optim.target_modules`."""

    name: str
    mixes: str
    targets: tuple[str, ...] = TARGETS


MAMBA = ("in_proj", "out_proj")
TWENTY = (
    Kind("mistral", "attention in a sliding window"),
    Kind("qwen3", "attention, normed queries and keys"),
    Kind("gemma2", "attention, windows in turn, soft-capped"),
    Kind("gemma3", "attention, five windows to one without"),
    Kind("phi3", "attention, fused projections"),
    Kind("olmo2", "attention, norms after"),
    Kind("granite", "attention, scaled"),
    Kind("cohere", "attention beside the MLP"),
    Kind("stablelm", "attention, layer norms"),
    Kind("gptneox", "attention beside the MLP", ("attention", "mlp")),
    Kind("mixtral", "attention; experts", ("self_attn",)),
    Kind("olmoe", "attention; experts", ("self_attn",)),
    Kind(
        "qwen3-next",
        "Gated DeltaNet and attention; experts",
        ("self_attn", "in_proj_qkvz", "out_proj", "shared_expert"),
    ),
    Kind("minimax", "lightning attention and attention; experts", ("self_attn",)),
    Kind("mamba", "Mamba", (*MAMBA, "x_proj")),
    Kind("mamba2", "Mamba-2", MAMBA),
    Kind("falcon-h1", "Mamba-2 beside attention", ("self_attn", "feed_forward", *MAMBA)),
    Kind("jamba", "Mamba and attention; experts", ("self_attn", "gate_proj", "up_proj", "down_proj", *MAMBA, "x_proj")),
    Kind("bamba", "Mamba-2 and attention", ("self_attn", "feed_forward", *MAMBA)),
    Kind("zamba2", "Mamba-2, and one attention that layers share", ("self_attn", "feed_forward", *MAMBA)),
    Kind(
        "recurrentgemma",
        "RG-LRU and attention",
        ("linear_x", "linear_y", "linear_out", "q_proj", "k_proj", "v_proj", "o_proj", "mlp_block"),
    ),
    Kind("rwkv", "RWKV-4", ("attention", "feed_forward")),
    Kind("retnet", "retention"),
)


def table() -> str:
    """The rows as Markdown, from the groups that `galore_groups` makes of each model."""
    return "\n".join([HEAD, *(_row(kind) for kind in TWENTY)])


def _row(kind: Kind) -> str:
    model_type, dimensions = DECODERS[kind.name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **dimensions))
    projected, rest = split(model, kind.targets)
    targets = "default" if kind.targets == TARGETS else ", ".join(f"`{each}`" for each in kind.targets)
    return f"| `{model_type}` | {kind.mixes} | {targets} | {projected} | {rest} |"


def split(model: nn.Module, targets: tuple[str, ...]) -> tuple[str, str]:
    """Kinds of projected weights, and of all others but norms, biases, embedding and head: by the ends of their paths."""
    first, *groups = galore_groups(model, 4, targets=targets)
    assert "rank" in first
    apart = {id(each.weight) for each in (model.get_input_embeddings(), model.get_output_embeddings())}  # type: ignore[operator]
    others = [(name, p) for group in groups for name, p in group["params"] if id(p) not in apart]
    return _kinds(dict(first["params"])), _kinds({name: p for name, p in others if not _is_plain_vector(name, p)})


def _is_plain_vector(name: str, parameter: nn.Parameter) -> bool:
    return name.endswith("bias") or (parameter.ndim < 2 and name.endswith("weight"))


def _kinds(named: Mapping[str, nn.Parameter]) -> str:
    """What parameters are called, without the numbers of layers and of the parts of a list."""
    ends = {re.sub(r"(\.\d+)+$", "", name.removesuffix(".weight")).rpartition(".")[2] for name in named}
    return ", ".join(sorted(ends)) or "–"
