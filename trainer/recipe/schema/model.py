"""A recipe's `model` section: which network."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from galore.trainer.recipe.architectures import ARCHITECTURES, Architecture, refuse_unknown
from galore.trainer.recipe.schema.section import (
    Deviation,
    FloatType,
    Layers,
    Length,
    Positive,
    Section,
    Vocabulary,
    Width,
    execution,
)

NewToken = Annotated[str, Field(min_length=1, max_length=200)]

DIMENSIONS = (
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
)  # of a LLaMA that is built; a model or an architecture by name brings its own


class ModelSection(Section):
    """Which network: `name_or_path` (its weights), or random weights of `architecture_of` or of the LLaMA dimensions
    below."""

    name_or_path: str | None = Field(
        None,
        description="Local folder or hub name of a causal LM (source: glue: of any model that can classify) to start from; null builds a LLaMA from the dimensions below",
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
    new_tokens: list[NewToken] = Field(
        [],
        max_length=10_000,
        description="Tokens that are added to the tokenizer, such as <|im_end|>; embedding and head get a row for each, which starts at the mean of the others",
    )
    hidden_size: Width = Field(512, description="Width of the residual stream")
    intermediate_size: Width = Field(1376, description="Width of the SwiGLU MLP")
    num_hidden_layers: Layers = Field(8, description="Number of decoder blocks")
    num_attention_heads: Width = Field(8, description="Query heads")
    num_key_value_heads: Width | None = Field(
        None, description="Key/value heads (GQA); null means as many as query heads"
    )
    max_position_embeddings: Length = Field(2048, description="Longest sequence, in tokens, that RoPE is set up for")
    rms_norm_eps: Positive = Field(1e-6, description="Epsilon of RMSNorm")
    rope_theta: Positive = Field(10000.0, description="Base of the rotary frequencies")
    initializer_range: Deviation = Field(0.02, description="Standard deviation of the initial weights")
    tie_word_embeddings: bool = Field(False, description="Share the embedding with the output head")
    dtype: FloatType = Field("bfloat16", description="Storage and compute type of the weights")
    attn_implementation: Literal["sdpa", "flash_attention_2", "eager"] = execution(
        "sdpa", "Attention kernel; one that cannot run here is refused"
    )

    @property
    def without_effect(self) -> tuple[str, ...]:
        """The fields that say nothing beside the others."""
        return () if self.name_or_path is None and self.architecture_of is None else DIMENSIONS

    @property
    def published(self) -> Architecture | None:
        """What `architecture_of` names."""
        return None if self.architecture_of is None else ARCHITECTURES[self.architecture_of]

    @field_validator("architecture_of")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is not None:
            refuse_unknown(name)
        return name

    @field_validator("new_tokens")
    @classmethod
    def _are_words(cls, tokens: list[str]) -> list[str]:
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
        return self
