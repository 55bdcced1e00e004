"""Tiny random models of many architectures: every one that transformers can train as a causal language model, or nearly.

A model here has two layers of width 32 and no weight at its initial value, so that a norm or a bias that is lost shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from galore.trainer.models.retnet import code  # noqa: F401 - it registers galore_retnet

VOCABULARY = 260
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
WIDTH = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
MODERN = WIDTH | TOKENS | {"intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 128}
NO_GROUPS = {name: value for name, value in MODERN.items() if name != "num_key_value_heads"}
GPT = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128} | TOKENS
ROTARY = {"rope_theta": 10000.0, "original_max_position_embeddings": 64}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {
    "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "moe_intermediate_size": 16, "first_k_dense_replace": 1, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
    "qk_nope_head_dim": 8,
}  # fmt: skip
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16}

# name: transformers' model type, dimensions
DECODERS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("llama", MODERN),
    "llama-tied": ("llama", MODERN | {"tie_word_embeddings": True}),
    "llama-bias": ("llama", MODERN | {"attention_bias": True, "mlp_bias": True}),
    "llama-llama3": (
        "llama",
        MODERN
        | {
            "rope_parameters": ROTARY
            | {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        },
    ),
    "llama-yarn": ("llama", MODERN | {"rope_parameters": ROTARY | {"rope_type": "yarn", "factor": 2.0}}),
    "llama-linear": (
        "llama",
        MODERN | {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
    ),
    "llama-dynamic": (
        "llama",
        MODERN | {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}},
    ),
    "llama-odd": (
        "llama",
        MODERN
        | {
            "hidden_size": 36,
            "intermediate_size": 51,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "head_dim": 10,
        },
    ),
    "mistral": ("mistral", MODERN | {"sliding_window": 8}),
    "ministral": ("ministral", MODERN | {"sliding_window": 8, "head_dim": 8}),
    "mixtral": ("mixtral", MODERN | LOCAL_EXPERTS | {"output_router_logits": True}),
    "qwen2": ("qwen2", MODERN | {"tie_word_embeddings": True}),
    "qwen2-window": ("qwen2", MODERN | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    "qwen2-moe": (
        "qwen2_moe",
        MODERN | EXPERTS | {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    ),
    "qwen3": ("qwen3", MODERN | {"head_dim": 16}),
    "qwen3-moe": ("qwen3_moe", MODERN | EXPERTS | {"moe_intermediate_size": 32, "head_dim": 8}),
    "qwen3-next": (
        "qwen3_next",
        MODERN
        | EXPERTS
        | {
            "head_dim": 8, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "linear_num_key_heads": 2,
            "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "gemma": ("gemma", MODERN | {"head_dim": 16}),
    "gemma2": ("gemma2", MODERN | {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8}),
    "gemma3": ("gemma3_text", MODERN | {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8}),
    "gemma3n": (
        "gemma3n_text",
        MODERN
        | {
            "head_dim": 8, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY,
            "altup_num_inputs": 2, "laurel_rank": 4, "num_kv_shared_layers": 0, "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"], "activation_sparsity_pattern": [0.0, 0.0],
        },
    ),
    "phi": ("phi", MODERN),
    "phi3": ("phi3", MODERN),
    "phi3-long": (
        "phi3",
        MODERN
        | {
            "original_max_position_embeddings": 64,
            "rope_parameters": ROTARY
            | {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4},
        },
    ),
    "phimoe": ("phimoe", MODERN | LOCAL_EXPERTS),
    "olmo": ("olmo", MODERN),
    "olmo2": ("olmo2", MODERN),
    "olmo3": ("olmo3", MODERN | {"sliding_window": 8}),
    "olmoe": ("olmoe", MODERN | EXPERTS),
    "flex-olmo": ("flex_olmo", MODERN | EXPERTS),
    "gpt2": ("gpt2", GPT),
    "gptneo": (
        "gpt_neo",
        WIDTH
        | TOKENS
        | {
            "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 128, "window_size": 8,
        },
    ),
    "gptj": ("gptj", GPT | {"rotary_dim": 4}),
    "gptneox": ("gpt_neox", NO_GROUPS),
    "codegen": ("codegen", GPT | {"n_ctx": 128, "rotary_dim": 4}),
    "opt": ("opt", WIDTH | TOKENS | {"ffn_dim": 64, "max_position_embeddings": 128, "word_embed_proj_dim": 16}),
    "bloom": ("bloom", {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4} | TOKENS),
    "falcon": ("falcon", WIDTH | TOKENS),
    "falcon-alibi": (
        "falcon",
        WIDTH | TOKENS | {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
    ),
    "mpt": (
        "mpt",
        {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128, "expansion_ratio": 2},
    ),
    "stablelm": ("stablelm", MODERN | {"use_qkv_bias": True}),
    "starcoder2": ("starcoder2", MODERN),
    "bigcode": ("gpt_bigcode", GPT),
    "cohere": ("cohere", MODERN | {"logit_scale": 0.0625}),
    "cohere2": ("cohere2", MODERN | {"logit_scale": 0.25, "sliding_window": 8}),
    "granite": (
        "granite",
        MODERN
        | {
            "logits_scaling": 8.0,
            "embedding_multiplier": 12.0,
            "attention_multiplier": 0.1,
            "residual_multiplier": 0.2,
        },
    ),
    "granitemoe": ("granitemoe", MODERN | LOCAL_EXPERTS | {"logits_scaling": 6.0}),
    "deepseek2": ("deepseek_v2", MODERN | LATENT | {"q_lora_rank": None}),
    "deepseek3": ("deepseek_v3", MODERN | LATENT | {"q_lora_rank": 16, "n_group": 2, "topk_group": 1}),
    "gpt-oss": ("gpt_oss", MODERN | LOCAL_EXPERTS | {"head_dim": 8, "sliding_window": 8}),
    "mamba": ("mamba", WIDTH | TOKENS | {"state_size": 8}),
    "mamba2": (
        "mamba2",
        WIDTH | TOKENS | {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 16},
    ),
    "falcon-mamba": ("falcon_mamba", WIDTH | TOKENS | {"state_size": 8}),
    "retnet": ("galore_retnet", WIDTH | TOKENS | {"intermediate_size": 64, "chunk_size": 8}),
    "rwkv": ("rwkv", WIDTH | {"context_length": 128}),
    "smollm3": ("smollm3", MODERN),
    "glm": ("glm", MODERN | {"head_dim": 8}),
    "glm4": ("glm4", MODERN | {"head_dim": 8}),
    "glm4-moe": (
        "glm4_moe",
        MODERN
        | {
            "head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
            "first_k_dense_replace": 1, "n_shared_experts": 1,
        },
    ),
    "nemotron": ("nemotron", MODERN),
    "exaone4": ("exaone4", MODERN | {"sliding_window": 8}),
    "recurrentgemma": (
        "recurrent_gemma",
        WIDTH | TOKENS | {"num_hidden_layers": 3, "intermediate_size": 64, "lru_width": 32, "attention_window_size": 8},
    ),
    "lfm2": ("lfm2", MODERN | {"layer_types": ["conv", "full_attention"]}),
    "xglm": (
        "xglm",
        {
            "vocab_size": VOCABULARY, "d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 4,
            "max_position_embeddings": 128,
        }
        | TOKENS,
    ),
    "biogpt": ("biogpt", NO_GROUPS),
    "openai-gpt": ("openai-gpt", {name: value for name, value in GPT.items() if name not in TOKENS}),
    "ctrl": ("ctrl", {"vocab_size": VOCABULARY, "n_embd": 32, "dff": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "persimmon": ("persimmon", NO_GROUPS),
    "helium": ("helium", MODERN | {"head_dim": 8}),
    "bart": (
        "bart",
        {
            "vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
            "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
            "max_position_embeddings": 128,
        },
    ),
    "bert": ("bert", WIDTH | {"intermediate_size": 64, "max_position_embeddings": 128, "is_decoder": True}),
    "gemma3-images": (
        "gemma3",
        {
            "text_config": MODERN | {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8},
            "vision_config": {
                "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                "image_size": 28, "patch_size": 14,
            },
            "image_token_index": 250, "boi_token_index": 251, "eoi_token_index": 252, "mm_tokens_per_image": 4,
        },
    ),
    "falcon-h1": ("falcon_h1", MODERN | MAMBA | {"mamba_d_ssm": 64}),
    "jamba": (
        "jamba",
        MODERN
        | {
            "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
            "expert_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4, "use_mamba_kernels": False,
        },
    ),
    "bamba": ("bamba", MODERN | MAMBA | {"attn_layer_indices": [1]}),
    "minimax": (
        "minimax",
        MODERN
        | {
            "num_local_experts": 2, "num_experts_per_tok": 1, "block_size": 16, "head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "nanochat": ("nanochat", MODERN),
    "apertus": ("apertus", MODERN),
    "seed-oss": ("seed_oss", MODERN | {"head_dim": 8}),
    "llama4": (
        "llama4_text",
        MODERN | {"intermediate_size_mlp": 64, "num_local_experts": 2, "head_dim": 8, "num_experts_per_tok": 1},
    ),
    "ernie": ("ernie4_5", MODERN),
    "arcee": ("arcee", MODERN),
    "diffllama": ("diffllama", MODERN),
    "jetmoe": (
        "jetmoe",
        {name: value for name, value in NO_GROUPS.items() if name != "num_attention_heads"}
        | LOCAL_EXPERTS
        | {"num_key_value_heads": 2, "kv_channels": 8},
    ),
    "zamba2": (
        "zamba2",
        WIDTH
        | TOKENS
        | {
            "num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "mamba"], "mamba_d_state": 8,
            "mamba_headdim": 16, "n_mamba_heads": 4, "num_mem_blocks": 1, "intermediate_size": 64, "chunk_size": 16,
            "adapter_rank": 4,
        },
    ),
}  # fmt: skip

ENCODER = WIDTH | {"intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": 3}
CLASSIFIERS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "bert": ("bert", ENCODER),
    "roberta": ("roberta", ENCODER | {"max_position_embeddings": 68}),
    "albert": ("albert", ENCODER | {"embedding_size": 16}),
    "distilbert": (
        "distilbert",
        {"vocab_size": VOCABULARY, "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "pad_token_id": 3},
    ),
    "electra": ("electra", ENCODER | {"embedding_size": 16}),
    "deberta": ("deberta-v2", ENCODER | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "mpnet": ("mpnet", ENCODER | {"max_position_embeddings": 68}),
    "camembert": ("camembert", ENCODER | {"max_position_embeddings": 68}),
    "convbert": ("convbert", ENCODER | {"embedding_size": 32}),
    "modernbert": ("modernbert", ENCODER | {"local_attention": 8} | TOKENS | {"cls_token_id": 1, "sep_token_id": 2}),
    "llama": ("llama", MODERN),
    "qwen2": ("qwen2", MODERN),
    "gemma": ("gemma", MODERN | {"head_dim": 16}),
    "gpt2": ("gpt2", GPT),
    "gptneox": ("gpt_neox", NO_GROUPS),
    "bloom": ("bloom", {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4} | TOKENS),
    "mixtral": ("mixtral", MODERN | LOCAL_EXPERTS),
}


def decoder(name: str) -> PreTrainedModel:
    """The model `name` of `DECODERS`, float32, from a fixed seed."""
    kind, dimensions = DECODERS[name]
    return _drawn(AutoModelForCausalLM, AutoConfig.for_model(kind, **dimensions))


def routed(folder: Path, vocabulary: int) -> list[str]:
    """Overrides of a mixture of experts, whose configuration in `folder` asks for a loss of its routers that is seen."""
    kind, dimensions = DECODERS["mixtral"]
    more = {"vocab_size": vocabulary, "router_aux_loss_coef": 0.5}
    AutoConfig.for_model(kind, **dimensions | more).save_pretrained(folder)
    return [f"model.name_or_path={folder}", "model.random_init=true"]


def classifier(name: str, labels: int) -> PreTrainedModel:
    """The model `name` of `CLASSIFIERS` with a head for so many labels, float32, from a fixed seed."""
    kind, dimensions = CLASSIFIERS[name]
    return _drawn(AutoModelForSequenceClassification, AutoConfig.for_model(kind, **dimensions, num_labels=labels))


def linear_names(model: nn.Module) -> list[str]:
    """The paths of all plain linear layers."""
    return [name for name, module in model.named_modules() if type(module).forward is nn.Linear.forward]


def _drawn(kind: Any, config: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = kind.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model
