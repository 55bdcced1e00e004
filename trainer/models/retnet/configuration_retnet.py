"""Configuration of a RetNet. This file is copied into exported folders: it imports transformers alone."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import PreTrainedConfig


class RetNetConfig(PreTrainedConfig):  # type: ignore[misc]
    """Dimensions of a RetNet (arXiv 2307.08621). It has no longest sequence.

    Args:
        value_expansion: width of values, gate and group norm over `hidden_size`.
        norm_eps: epsilon of the layer norms and of the group norm.
        rope_theta: base of the rotary frequencies.
        chunk_size: tokens that see each other through a square of scores; longer sequences carry a state between.
    """

    model_type = "galore_retnet"
    keys_to_ignore_at_inference: ClassVar = ["past_key_values", "cache"]

    def __init__(
        self,
        vocab_size: int = 32000,
        hidden_size: int = 2048,
        intermediate_size: int = 4096,
        num_hidden_layers: int = 24,
        num_attention_heads: int = 8,
        value_expansion: int = 2,
        norm_eps: float = 1e-6,
        rope_theta: float = 10000.0,
        chunk_size: int = 128,
        initializer_range: float = 0.02,
        use_cache: bool = True,
        tie_word_embeddings: bool = False,
        **kwargs: Any,
    ) -> None:
        if hidden_size % (2 * num_attention_heads):
            raise ValueError(
                f"hidden_size {hidden_size} is no multiple of 2 x num_attention_heads {num_attention_heads}"
            )
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.value_expansion = value_expansion
        self.norm_eps = norm_eps
        self.rope_theta = rope_theta
        self.chunk_size = chunk_size
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        kwargs.setdefault(
            "auto_map",
            {
                "AutoConfig": "configuration_retnet.RetNetConfig",
                "AutoModelForCausalLM": "modeling_retnet.RetNetForCausalLM",
            },
        )
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)
