"""Which kernels a decoder runs on the CPU: our own attention and normalization where they are faster."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from galore.kernels.device import device_type
from galore.kernels.model.attention import causal_attention
from galore.kernels.model.rms_norm import rms_norm
from galore.trainer.models.retnet.configuration_retnet import RetNetConfig

NAME = "galore_cpu"  # in transformers' registry of attention functions
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # compared with transformers' own path in the tests
LONGEST = 2048  # tokens; measured up to here, faster than sdpa all along (bench/LOG.md)
ONLY_SDPA = ("position_bias", "softcap", "s_aux", "cache", "output_attentions")  # arguments that only sdpa knows


def optimize_decoder(model: PreTrainedModel) -> list[str]:
    """Route `model`'s attention and RMSNorm to the fastest kernels on the CPU; returns lines: what runs, and why.

    Parameters, their names and the saved configuration stay as they are, and the result is that of `sdpa` up to
    rounding. Call it before adapters are added.
    """
    if isinstance(model.config, RetNetConfig):
        return [f"retention: products in chunks of {model.config.chunk_size} tokens, states in fp32"]
    reason = _obstacle(model)
    if reason is not None:
        return [f"attention: {model.config._attn_implementation} ({reason})"]
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)  # no mask where the pattern is purely causal
    model.set_attn_implementation(NAME)
    norms = [module for module in model.modules() if type(module).__name__.endswith("RMSNorm")]
    fused = {kind: _fused(kind) for kind in {type(norm) for norm in norms}}
    for norm in norms:
        norm.__class__ = fused[type(norm)]
    return [
        f"attention: batched bf16 products, fp32 softmax (up to {LONGEST} tokens per sequence; "
        "sdpa for padding masks, dropout and decoding)",
        f"normalization: {len(norms)} RMSNorm in fp32 blocks that stay in the cache",
    ]


def _obstacle(model: PreTrainedModel) -> str | None:
    """Why the model keeps the attention it has; None when it need not."""
    if device_type(model.device) != "cpu":
        return f"the weights are on {device_type(model.device)}"
    if model.config._attn_implementation != "sdpa":
        return "the recipe asks for it"
    if model.config.model_type not in FAMILIES:
        return f"ours is checked for {', '.join(FAMILIES)}, not for {model.config.model_type}"
    if model.dtype != torch.bfloat16:
        return "as fast as ours in float32"
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "this processor has no fast bfloat16 products"
    return None


def attention_forward(
    module: nn.Module,
    query: Tensor,  # (B, H, T, D)
    key: Tensor,  # (B, K, S, D), K divides H
    value: Tensor,  # (B, K, S, D)
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:  # (B, T, H, D)
    """transformers' attention function: ours for plain causal attention over whole sequences, else sdpa."""
    if attention_mask is None and dropout == 0.0 and _is_causal(module, kwargs) and _fits(query, key, value):
        groups = query.shape[1] // key.shape[1]
        return causal_attention(query, repeat_kv(key, groups), repeat_kv(value, groups), scaling), None
    output: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )
    return output


def changes_scores(kwargs: dict[str, Any]) -> bool:
    """Whether an argument asks for more than causal attention."""
    return any(kwargs.get(name) is not None and kwargs[name] is not False for name in ONLY_SDPA)


def _is_causal(module: nn.Module, kwargs: dict[str, Any]) -> bool:
    """Plain causal attention: no argument changes the scores."""
    if changes_scores(kwargs):
        return False
    given = kwargs.get("is_causal")
    return bool(getattr(module, "is_causal", True) if given is None else given)


def _fits(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whole sequences, no decoding step; one head size; a type, device and length where ours is the faster."""
    return (
        query.shape[2] == key.shape[2] <= LONGEST
        and query.shape[3] == value.shape[3]
        and query.dtype == torch.bfloat16
        and device_type(query) == "cpu"
    )


def _fused(kind: type[nn.Module]) -> type[nn.Module]:
    """The RMSNorm class of a transformers model, with our forward."""

    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        if hidden_states.dtype != self.weight.dtype or device_type(hidden_states) != "cpu":
            out: Tensor = kind.forward(self, hidden_states)
            return out
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)

    return type(kind.__name__, (kind,), {"forward": forward})
