"""A recipe's `model.rope`: how rotary positions are scaled, under transformers' names."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from galore.trainer.recipe.schema.section import Length, Positive, Section

RopeType = Literal["default", "linear", "dynamic", "yarn", "longrope", "llama3"]
Factor = Annotated[float, Field(ge=1, le=1_000_000)]
Factors = Annotated[list[Positive], Field(min_length=1, max_length=4096)]  # one for each pair of dimensions

# type: the keys that it needs, the keys that it takes beside them and `rope_theta`
KEYS: dict[RopeType, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ("factor", "original_max_position_embeddings")),
    "linear": (("factor",), ("original_max_position_embeddings",)),
    "dynamic": (("factor",), ("original_max_position_embeddings",)),
    "yarn": (
        ("factor",),
        (
            "original_max_position_embeddings",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        ),
    ),
    "longrope": (
        (),
        (
            "factor",
            "original_max_position_embeddings",
            "attention_factor",
            "long_factor",
            "short_factor",
            "factors",
            "start_tokens",
        ),
    ),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor"), ("original_max_position_embeddings",)),
}


class RopeSection(Section):
    """How rotary positions are scaled beyond the length that a model was trained at; null is as the model has it."""

    type: RopeType = Field(description="transformers' rope_type")
    factor: Factor | None = Field(None, description="The longest sequence, as a multiple of the original length")
    original_max_position_embeddings: Length | None = Field(
        None,
        description="Length the model was trained at, in tokens; null is that of the pretrained model, or max_position_embeddings / factor",
    )
    rope_theta: Positive | None = Field(
        None, description="Base of the frequencies; null is the model's own, or model.rope_theta"
    )
    attention_factor: Positive | None = Field(
        None, description="yarn, longrope: factor on cos and sin; null is as published, from `factor`"
    )
    beta_fast: Positive | None = Field(
        None, description="yarn: turns above which a dimension is left alone; null is 32"
    )
    beta_slow: Positive | None = Field(
        None, description="yarn: turns below which a dimension is interpolated; null is 1"
    )
    mscale: Positive | None = Field(
        None, description="yarn: with mscale_all_dim, another attention factor, as DeepSeek has it"
    )
    mscale_all_dim: Positive | None = Field(None, description="yarn: see mscale")
    truncate: bool | None = Field(None, description="yarn: round the ends of the ramp to whole dimensions; null does")
    low_freq_factor: Positive | None = Field(None, description="llama3: original length / longest wavelength kept")
    high_freq_factor: Positive | None = Field(
        None, description="llama3: original length / shortest wavelength that changes"
    )
    long_factor: Factors | None = Field(
        None, description="longrope: what each pair of dimensions is slowed by, beyond the original length"
    )
    short_factor: Factors | None = Field(
        None, description="longrope: the same up to the original length; null is 1 throughout"
    )
    factors: str | None = Field(
        None, min_length=1, description="longrope: a file of `galore rope-search` that holds the values of this mapping"
    )
    start_tokens: Annotated[int, Field(ge=0, le=2**24)] | None = Field(
        None, description="longrope: the first so many tokens keep their unscaled positions; transformers knows none"
    )

    @model_serializer(mode="wrap")
    def _said(self, every: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is not null: a resolved recipe says no more than somebody wrote."""
        return {key: value for key, value in every(self).items() if value is not None}

    @model_validator(mode="after")
    def _keys_go_together(self) -> Self:
        needed, taken = KEYS[self.type]
        given = self.settings
        if absent := [key for key in needed if key not in given]:
            raise ValueError(
                f"type: {self.type} needs {' and '.join(absent)}, such as {absent[0]}: {EXAMPLES[absent[0]]}"
            )
        if foreign := [key for key in given if key not in (*needed, *taken, "rope_theta")]:
            takes = ", ".join((*needed, *taken, "rope_theta"))
            raise ValueError(f"{foreign[0]} is not for type: {self.type}, which takes {takes}: leave it out")
        if self.type == "longrope":
            check_longrope(self)
        if (self.low_freq_factor or 0) >= (self.high_freq_factor or 1):
            raise ValueError(
                f"high_freq_factor {self.high_freq_factor:g} must exceed low_freq_factor {self.low_freq_factor:g}, as 4 and 1 do"
            )
        if (self.beta_fast or 32) < (self.beta_slow or 1):
            raise ValueError(
                f"beta_fast {self.beta_fast or 32:g} must not be below beta_slow {self.beta_slow or 1:g}, as 32 and 1 are not"
            )
        if (self.mscale is None) != (self.mscale_all_dim is None):
            raise ValueError("mscale and mscale_all_dim come together: set both, or neither")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """What is written beside the type."""
        return {key: value for key, value in self if key != "type" and value is not None}


EXAMPLES = {"factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}


def check_longrope(rope: RopeSection) -> None:
    """Raise ValueError for the first contradiction."""
    if (rope.factors is None) == (rope.long_factor is None):
        what = "type: longrope needs one of" if rope.factors is None else "only one of these says what longrope does:"
        raise ValueError(f"{what} factors, a file of `galore rope-search`, and long_factor, a list of numbers")
    if rope.long_factor is None:
        return
    if rope.factor is None:
        raise ValueError("long_factor needs factor, the longest sequence as a multiple of the original one: factor: 8")
    if rope.short_factor is not None and len(rope.short_factor) != len(rope.long_factor):
        raise ValueError(
            f"short_factor has {len(rope.short_factor)} numbers, and long_factor {len(rope.long_factor)}: one for each pair of dimensions"
        )
