"""RetNet as transformers has its decoders: retention and a feed-forward network in every block.

    Y = X + MSR(LN(X)),   X' = Y + FFN(LN(Y)),   FFN(X) = gelu(X W₁) W₂
    MSR(X) = (swish(X W_G) ∘ GroupNorm(retention(X W_Q, X W_K / √d, X W_V))) W_O

Source: Sun et al., 2023 (arXiv 2307.08621), equations 8 and 9. This file is copied into exported folders, where
transformers loads it where it is trusted: it imports torch, transformers and the two files beside it.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from galore.kernels.model.retention import retention, rotations
from galore.trainer.models.retnet.configuration_retnet import RetNetConfig

# what transformers calls what it keeps of the tokens so far: `past_key_values` before 5.24
CACHE = next(each.name for each in fields(BaseModelOutputWithPast) if each.name in ("cache", "past_key_values"))


class RetentionCache:
    """The state of each layer, (B, H, dk, dv): all that is kept of the tokens so far."""

    is_compileable = False

    def __init__(self, layers: int) -> None:
        self.states: list[Tensor | None] = [None] * layers
        self.seen = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.seen

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.states = [None if each is None else each.index_select(0, beam_idx) for each in self.states]


class MultiScaleRetention(nn.Module):
    """MSR: heads whose memories fade at different speeds, each normed by itself, behind a gate."""

    def __init__(self, config: RetNetConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.heads, self.chunk = layer, config.num_attention_heads, config.chunk_size
        width, values = config.hidden_size, config.hidden_size * config.value_expansion
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, values, bias=False)
        self.g_proj = nn.Linear(width, values, bias=False)
        self.o_proj = nn.Linear(values, width, bias=False)
        self.group_norm = nn.GroupNorm(self.heads, values, eps=config.norm_eps)
        self.scale: float = (width // self.heads) ** -0.5

    def forward(
        self,
        x: Tensor,  # (B, T, d)
        turns: tuple[Tensor, Tensor],
        seen: Tensor | None,  # (B, T), 0 at padding
        documents: Tensor | None,  # (B, T)
        cache: RetentionCache | None,
    ) -> Tensor:
        keys = self.k_proj(x) * self.scale
        if seen is not None:
            keys = keys * seen[..., None].to(keys.dtype)
        q, k, v = (self._heads(each) for each in (self.q_proj(x), keys, self.v_proj(x)))
        before = None if cache is None else cache.states[self.layer]
        out, after = retention(q, k, v, turns, self.chunk, before, documents)
        if cache is not None:
            cache.states[self.layer] = after
        out = out.transpose(1, 2).flatten(2)  # (B, T, 2d)
        normed = self.group_norm(out.flatten(0, 1)).view_as(out)
        gated: Tensor = self.o_proj(F.silu(self.g_proj(x)) * normed)
        return gated

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class FeedForward(nn.Module):
    def __init__(self, config: RetNetConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.gelu(self.up_proj(x)))
        return out


class RetNetBlock(GradientCheckpointingLayer):  # type: ignore[misc]
    """A block. Retention stands where others have `self_attn`, and is called so: patterns of paths find it."""

    def __init__(self, config: RetNetConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = MultiScaleRetention(config, layer)
        self.mlp = FeedForward(config)
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), *args)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class RetNetPreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    config_class = RetNetConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar = ["RetNetBlock"]
    # in that it takes the name: there is no attention in it
    _supports_sdpa = True
    _is_stateful = True


class RetNetModel(RetNetPreTrainedModel):
    def __init__(self, config: RetNetConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(RetNetBlock(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,  # (B, T)
        attention_mask: Tensor | None = None,  # (B, T or more), 0 at padding
        position_ids: Tensor | None = None,
        past_key_values: RetentionCache | None = None,
        cache: RetentionCache | None = None,  # the same by its newer name
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        cu_seq_lens_q: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Positions count in packed rows alone, which `cu_seq_lens_q` tells of: where one is 0, a state begins."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        use_cache = self.config.use_cache and not self.training if use_cache is None else use_cache
        cache = past_key_values if cache is None else cache
        if use_cache and cache is None:
            cache = RetentionCache(len(self.layers))
        length, width = x.shape[1], self.config.hidden_size // self.config.num_attention_heads
        exact = torch.promote_types(x.dtype, torch.float32)
        turns = rotations(length, width, self.config.rope_theta, x.device, exact)
        seen = None if attention_mask is None else attention_mask[:, -length:]
        documents = None if cu_seq_lens_q is None or position_ids is None else (position_ids == 0).cumsum(1)
        for layer in self.layers:
            x = layer(x, turns, seen, documents, cache)
        if cache is not None:
            cache.seen += length
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x), **{CACHE: cache})


class RetNetForCausalLM(RetNetPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    _tied_weights_keys: ClassVar = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: RetNetConfig) -> None:
        super().__init__(config)
        self.model = RetNetModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # the model makes its own

    def forward(
        self,
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        outputs = self.model(input_ids, **kwargs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None if labels is None else self.loss_function(logits, labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: getattr(outputs, CACHE)})
