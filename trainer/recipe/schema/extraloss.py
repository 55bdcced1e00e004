"""A recipe's `extra_loss` section: a second loss beside the cross-entropy."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from galore.trainer.recipe.schema.section import NonNegative, Positive, Section, Width

DISTILLATION, ATTENTION = "distillation", "attention_alignment"
Block = Annotated[int, Field(ge=-2_000, lt=2_000)]


class ExtraLossSection(Section):
    """A second loss, `weight` times whose mean is added to what is optimized; it is reported apart."""

    name: str | None = Field(
        None,
        max_length=80,
        description=f"Which: {DISTILLATION}, {ATTENTION}, or one that galore.train was given from Python; null goes without",
    )
    weight: NonNegative = Field(
        1.0, description="What its mean counts beside that of the cross-entropy; 0 goes without"
    )
    layers: Annotated[list[Block], Field(min_length=1, max_length=2_000)] | None = Field(
        None, description="Blocks that it looks into, counted from 0, or from -1 backwards; null is the last one"
    )
    teacher: str | None = Field(
        None,
        description=f"{DISTILLATION}: folder or hub name of the model whose predictions are learned, of the same tokenizer",
    )
    temperature: Positive = Field(
        1.0,
        description=f"{DISTILLATION}: what logits are divided by, the teacher's and the model's; the loss is multiplied by its square",
    )
    top_k: Width | None = Field(
        None, description=f"{DISTILLATION}: learn the teacher's so many most probable tokens only; null takes all"
    )

    @property
    def is_on(self) -> bool:
        return self.name is not None and self.weight > 0

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if self.name == DISTILLATION and self.teacher is None:
            raise ValueError(f"name: {DISTILLATION} learns from another model: set teacher to its folder")
        if self.name != DISTILLATION:
            given = {"teacher": self.teacher, "top_k": self.top_k, "temperature": self.temperature != 1.0 or None}
            if odd := [key for key, value in given.items() if value is not None]:
                raise ValueError(f"{odd[0]} goes with name: {DISTILLATION}: set that name, or leave it out")
        if self.name is None and self.layers is not None:
            raise ValueError("layers is set, but name is not: say which loss")
        return self
