"""Small causal LMs of the families that transformers knows by name, for tests of whole models."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}


def model_of(family: str, dtype: torch.dtype = torch.bfloat16, **changes: object) -> PreTrainedModel:
    """One with random weights, the same each time, in training mode and with torch's attention."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SIZES, **changes})
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").to(dtype).train()
