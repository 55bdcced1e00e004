"""One of several sources of a recipe's data: its files, its weight, and how it is read where that differs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from galore.trainer.recipe.schema.section import Positive, Section

FileFormat = Literal["auto", "txt", "jsonl", "csv", "tsv", "parquet", "arrow"]
TxtDocument = Literal["file", "paragraph", "line"]
ColumnName = Annotated[str, Field(min_length=1)]
Columns = ColumnName | Annotated[list[ColumnName], Field(min_length=1)]

FIELDS = (
    "text_field",
    "prompt_field",
    "input_field",
    "response_field",
    "messages_field",
    "tokens_field",
    "labels_field",
    "extra_field",
)
"""Keys of columns: a source that sets one takes none of the section's."""


class SourceSection(Section):
    """Files, their weight among the others, and what of section data is different for them; null is as there."""

    path: str | list[str] = Field(description="File, folder or glob, or a list of them, relative to the recipe")
    name: ColumnName | None = Field(
        None, max_length=80, description="What metrics and notes call it; null takes the last part of `path`"
    )
    weight: Positive = Field(1.0, description="Its share of the training sequences, beside the weights of the others")
    validation_path: str | list[str] | None = Field(None, description="Files to hold out instead of a share")
    validation_fraction: float | None = Field(None, ge=0, lt=1, description="Share of its documents that is held out")
    format: FileFormat | None = None
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    encoding: str | None = Field(None, max_length=40)
    txt_document: TxtDocument | None = None
    text_field: Columns | None = None
    prompt_field: Columns | None = None
    input_field: str | None = None
    response_field: str | None = None
    messages_field: str | None = None
    tokens_field: str | None = None
    labels_field: str | None = None
    extra_field: str | None = None

    @model_serializer(mode="wrap")
    def _said(self, every: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is not null: a resolved recipe says no more of a source than somebody wrote."""
        return {key: value for key, value in every(self).items() if value is not None}

    @property
    def label(self) -> str:
        """The name it has, or that of its first file or folder."""
        first = self.path if isinstance(self.path, str) else next(iter(self.path), "")
        return self.name or Path(first).name.partition(".")[0] or first

    @property
    def settings(self) -> dict[str, object]:
        """What it sets of section data."""
        return {
            key: getattr(self, key)
            for key in type(self).model_fields
            if key not in ("name", "weight") and getattr(self, key) is not None
        }
