"""One of several sources of a recipe's data: files or a data set of the hub, its weight, and how it is read where that
differs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

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


OF_FILES = ("validation_path", "format", "delimiter", "encoding", "txt_document", "tokens_field", "labels_field")
OF_THE_HUB = ("hub_config", "split", "validation_split", "streaming")
KEY = re.compile(r"data\.(\w+)")


def _whole(split: str) -> str:
    """Raises ValueError for a part of one, such as `train[:10%]`."""
    if "[" in split:
        what = f"{split[:100]} is a part of a split, and whole ones are read"
        raise ValueError(f"{what}: name it without brackets; data.validation_fraction holds out a share of it")
    return split


Split = Annotated[str, AfterValidator(_whole)]


class SourceSection(Section):
    """A source, its weight among the others, and what of section data is different for it; null is as there."""

    path: str | list[str] | None = Field(
        None,
        description="File, folder or glob, or a list of them, relative to the recipe; with source: hub the name of a data set there, or a folder in the layout of one",
    )
    name: ColumnName | None = Field(
        None,
        max_length=200,
        description="What metrics and notes call it; null takes the last part of `path`. Without `path`: the name of a data set on the hub",
    )
    weight: Positive = Field(1.0, description="Its share of the training sequences, beside the weights of the others")
    loss_weight: float = Field(
        1.0,
        ge=1e-6,
        le=1e6,
        description="What a target of its rows counts in what is optimized; reported losses stay unweighted",
    )
    source: Literal["local", "hub"] | None = Field(None, description="local: files at `path`; hub: a data set there")
    hub_config: str | None = Field(None, description="hub: configuration name, such as `en`")
    split: Split | None = Field(None, description="hub: split to train on")
    validation_split: Split | None = Field(None, description="hub: split to evaluate on")
    streaming: bool | None = Field(None, description="hub: read while the run goes on, or whole before it")
    validation_path: str | list[str] | None = Field(None, description="Files to hold out instead of a share")
    validation_fraction: float | None = Field(
        None, ge=0, lt=1, description="Share of its documents that is held out; of the hub then no split is"
    )
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

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if not self.path and not self.name:
            raise ValueError("it names nothing: give it a path, or the name of a data set on the hub")
        return self

    @model_serializer(mode="wrap")
    def _said(self, every: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is not null: a resolved recipe says no more of a source than somebody wrote."""
        said = {key: value for key, value in every(self).items() if value is not None}
        # runs that began before there was one have none, and go on
        return said if self.loss_weight != 1 else {key: said[key] for key in said if key != "loss_weight"}

    @property
    def label(self) -> str:
        """The name it has, or that of its first file or folder; of the hub with its configuration."""
        first = self.path if isinstance(self.path, str) else next(iter(self.path or []), "")
        named = self.path is None or (self.source == "hub" and not self.name)  # by itself, not by its user
        config = f":{self.hub_config}" if self.hub_config and named else ""
        own = Path(first).name if self.source == "hub" else Path(first).name.partition(".")[0]
        return (self.name or own or first) + config

    @property
    def settings(self) -> dict[str, object]:
        """What it sets of section data."""
        told = {
            key: getattr(self, key)
            for key in type(self).model_fields
            if key not in ("name", "weight", "loss_weight") and getattr(self, key) is not None
        }
        if self.path is None:
            told |= {"source": "hub", "path": self.name}
        if self.validation_fraction is not None:
            told.setdefault("validation_split", None)
        return told

    def place(self, number: int, where: str) -> str:
        """Where an error is, said of section data, as the key of this source, which is the one of that number."""
        found, here = KEY.match(where), f"data.sources[{number}]"
        key = found[1] if found else ""
        key = "name" if key == "path" and self.path is None else key
        if found and (key == "name" or getattr(self, key, None) is not None):
            return f"{here}.{key}{where[found.end() :]}"
        return f"{where} ({here}: {self.label})"
