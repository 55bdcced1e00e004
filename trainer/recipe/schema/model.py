"""A recipe's `model` section: which network."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from galore.trainer.recipe.architectures import ARCHITECTURES, Architecture, refuse_unknown
from galore.trainer.recipe.schema.rope import RopeSection
from galore.trainer.recipe.schema.section import (
    Deviation,
    FloatType,
    Layers,
    Length,
    NonNegative,
    Positive,
    Section,
    Vocabulary,
    Width,
    execution,
)

NewToken = Annotated[str, Field(min_length=1, max_length=200)]
Codes = Annotated[int, Field(gt=0, le=2**17)]  # of one modality, each of which is a token with a name
MODALITY = re.compile(r"[a-z][a-z0-9_]{0,39}")
TEXT = "text"  # the modality of what is no code

DIMENSIONS = (
    "architecture",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "initializer_range",
    "tie_word_embeddings",
)  # of a network that is built; a model or an architecture by name brings its own

WITHOUT_ATTENTION = ("num_key_value_heads", "max_position_embeddings")


class ModelSection(Section):
    """Which network: `name_or_path` (its weights), or random weights of `architecture_of` or of the dimensions
    below."""

    name_or_path: str | None = Field(
        None,
        description="Local folder or hub name of a causal LM (source: glue: of any model that can classify) to start from; null builds one from the dimensions below",
    )
    architecture_of: str | None = Field(
        None,
        description="Public network whose dimensions are taken, with fresh weights and nothing downloaded, such as llama-2-70b, qwen3-8b or mistral-7b-v0.3",
    )
    revision: str | None = Field(None, description="Hub revision (branch, tag or commit) of `name_or_path`")
    random_init: bool = Field(False, description="Take only the configuration of `name_or_path` and draw fresh weights")
    vocab_size: Vocabulary | None = Field(
        None,
        description="Rows of the embedding; null takes the tokenizer's size, or the model's own; rows beyond those of `name_or_path` are drawn",
    )
    new_tokens: Annotated[list[NewToken], Field(max_length=10_000)] | dict[str, Codes] = Field(
        [],
        description="Tokens that are added to the tokenizer, such as [<|im_end|>], or codes by modality, such as {image: 8192}: <image_begin>, <image_end>, <image_0> and so on; embedding and head get a row for each, which starts at the mean of the others",
    )
    architecture: Literal["llama", "retnet"] = Field(
        "llama", description="What is built from the dimensions below: attention (llama), or retention (retnet)"
    )
    hidden_size: Width = Field(512, description="Width of the residual stream")
    intermediate_size: Width = Field(1376, description="Width of the MLP, SwiGLU (llama) or GELU (retnet)")
    num_hidden_layers: Layers = Field(8, description="Number of decoder blocks")
    num_attention_heads: Width = Field(8, description="Query heads; heads of retention")
    num_key_value_heads: Width | None = Field(
        None, description="Key/value heads (GQA); null means as many as query heads"
    )
    max_position_embeddings: Length = Field(
        2048, description="Longest sequence, in tokens, that RoPE is set up for; retnet has none"
    )
    rms_norm_eps: Positive = Field(1e-6, description="Epsilon of RMSNorm; of the layer and group norms of retnet")
    rope_theta: Positive = Field(10000.0, description="Base of the rotary frequencies")
    rope: RopeSection | None = Field(
        None,
        description="How rotary positions are scaled for longer sequences, such as {type: yarn, factor: 8}; null leaves them as the model has them",
    )
    router_aux_loss: NonNegative | None = Field(
        None,
        description="Mixtures of experts: coefficient of the routers' auxiliary loss, of each micro-batch, added to what is optimized and reported apart; null is what the configuration says (output_router_logits, router_aux_loss_coef), 0 is none",
    )
    initializer_range: Deviation = Field(0.02, description="Standard deviation of the initial weights")
    tie_word_embeddings: bool = Field(False, description="Share the embedding with the output head")
    dtype: FloatType = Field("bfloat16", description="Storage and compute type of the weights")
    attn_implementation: Literal["sdpa", "flash_attention_2", "eager"] = execution(
        "sdpa", "Attention kernel; one that cannot run here is refused"
    )

    @property
    def without_effect(self) -> tuple[str, ...]:
        """The fields that say nothing beside the others."""
        if self.name_or_path is not None or self.architecture_of is not None:
            return DIMENSIONS
        return WITHOUT_ATTENTION if self.architecture == "retnet" else ()

    @property
    def modalities(self) -> dict[str, int]:
        """How many codes each modality has beside text."""
        return self.new_tokens if isinstance(self.new_tokens, dict) else {}

    @property
    def tokens_to_add(self) -> list[str]:
        """The tokens that `new_tokens` means, in the order of their ids."""
        if isinstance(self.new_tokens, list):
            return self.new_tokens
        return [token for name, codes in self.new_tokens.items() for token in tokens_of(name, codes)]

    @property
    def has_own_dimensions(self) -> bool:
        """Whether the recipe says them, and no model or network by name."""
        return self.name_or_path is None and self.architecture_of is None

    @property
    def published(self) -> Architecture | None:
        """What `architecture_of` names."""
        return None if self.architecture_of is None else ARCHITECTURES[self.architecture_of]

    @property
    def blocks(self) -> int | None:
        """Decoder blocks; None where a file says how many."""
        if self.name_or_path is not None:
            return None
        return self.num_hidden_layers if self.published is None else self.published.layers

    @property
    def width(self) -> int | None:
        """Size of a token's vector; None where a file says it."""
        if self.name_or_path is not None:
            return None
        return self.hidden_size if self.published is None else self.published.width

    @field_validator("architecture_of")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is not None:
            refuse_unknown(name)
        return name

    @field_validator("new_tokens")
    @classmethod
    def _are_words(cls, tokens: list[str] | dict[str, int]) -> list[str] | dict[str, int]:
        if isinstance(tokens, dict):
            if TEXT in tokens:
                raise ValueError(f"{TEXT} is what has no codes: give the modality another name")
            if odd := [name for name in tokens if not MODALITY.fullmatch(name)]:
                raise ValueError(f"{odd[0]!r} is no name of a modality: write small letters, such as image")
            return tokens
        if blank := [token for token in tokens if not token.strip() or "\0" in token]:
            raise ValueError(f"{blank[0]!r} is white space, or has a NUL byte in it: write a word, such as <|im_end|>")
        if len(set(tokens)) < len(tokens):
            raise ValueError("a token stands in it twice: leave one out")
        return tokens

    @model_validator(mode="after")
    def _one_network(self) -> Self:
        if self.name_or_path is not None and self.architecture_of is not None:
            raise ValueError("architecture_of draws weights and name_or_path reads them: set one to null")
        return self

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        kv = self.num_key_value_heads or self.num_attention_heads
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.num_attention_heads % kv:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads {kv}"
            )
        if self.has_own_dimensions and self.hidden_size // self.num_attention_heads % 2:
            turns = "retention turns" if self.architecture == "retnet" else "rotary positions turn"
            raise ValueError(
                f"hidden_size {self.hidden_size} over num_attention_heads {self.num_attention_heads} is odd: {turns} pairs of "
                "channels"
            )
        if self.architecture == "retnet" and self.name_or_path is None:
            self._require_retention()
        return self

    @property
    def longest(self) -> int:
        """Longest sequence, in tokens, of a LLaMA that is built; the positions of `dynamic` are those of training."""
        rope = self.rope
        factor = (rope.factor or 1) if rope is not None and rope.type == "dynamic" else 1
        return int(self.max_position_embeddings * factor)

    def _require_retention(self) -> None:
        if self.rope is not None:
            raise ValueError("rope scales the positions of attention, and retention counts none: leave rope out")
        if self.num_key_value_heads is not None:
            raise ValueError("heads of retention share no keys and values: leave num_key_value_heads out")
        if self.attn_implementation == "flash_attention_2":
            raise ValueError("retnet has no attention: leave attn_implementation out")


def token_of(modality: str, code: int | str) -> str:
    """What the token of a code is called, and of `begin` and `end`, which stand around codes."""
    return f"<{modality}_{code}>"


def tokens_of(modality: str, codes: int) -> list[str]:
    """The tokens of a modality: its begin and end, and its codes."""
    return [token_of(modality, each) for each in ("begin", "end", *range(codes))]
