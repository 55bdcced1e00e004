"""What every section of a recipe is built from: frozen models, bounded numbers, fields of execution."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, create_model, field_validator
from pydantic_core import PydanticCustomError

from galore.kernels.family import LARGEST, MOST_STEPS, SMALLEST

# The kinds of number, each with its end. Beyond it lies nothing but a slip, which would cost work or memory without
# end.
Layers = Annotated[int, Field(gt=0, le=2_000)]
Blocks = Annotated[int, Field(ge=2, le=2_000)]  # on the device at a time: one is used, others are on their way
Width = Annotated[int, Field(gt=0, le=2**24)]  # of a matrix; heads and ranks too
Length = Annotated[int, Field(gt=0, le=2**24)]  # of a sequence, in tokens
Vocabulary = Annotated[int, Field(gt=0, le=2**31 - 1)]
Pieces = Annotated[int, Field(gt=0, le=2**24)]  # of a vocabulary that is made here
Rows = Annotated[int, Field(gt=0, le=2**24)]  # sequences or documents, which are numbered in memory
Steps = Annotated[int, Field(gt=0, le=MOST_STEPS)]
StepsOrNone = Annotated[int, Field(ge=0, le=MOST_STEPS)]
Checkpoints = Annotated[int, Field(ge=2, le=1_000_000)]
Snapshots = Annotated[int, Field(ge=1, le=100_000)]
PathPart = Annotated[str, Field(min_length=1, max_length=200)]  # of the dotted name of a module or parameter
Threads = Annotated[int, Field(gt=0, le=1024)]
Bytes = Annotated[int, Field(gt=0, le=2**40)]
Tokens = Annotated[int, Field(gt=0, le=2**63 - 1)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Epochs = Annotated[float, Field(gt=0, le=1_000_000)]
Positive = Annotated[float, Field(gt=0, ge=SMALLEST, le=LARGEST)]
Multiple = Annotated[
    str, Field(pattern=r"^([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?x$", max_length=24, examples=["5x"])
]  # of another key
NonNegative = Annotated[float, Field(ge=0, le=LARGEST)]
Deviation = Annotated[float, Field(gt=0, ge=SMALLEST, le=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]
FloatType = Literal["float32", "bfloat16"]


def execution(default: Any, description: str, **constraints: Any) -> Any:
    """A field that changes how a run is executed but not its mathematics."""
    return Field(default, description=description, json_schema_extra={"execution": True}, **constraints)


class Section(BaseModel):
    """The settings of one kind; pydantic alone would read `true` as 1, in a list and a mapping of numbers, too."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        if _holds_boolean(value) and _takes_numbers_alone(cls, str(info.field_name)):
            raise PydanticCustomError("number_type", "true and false are no numbers")
        return value


def _holds_boolean(value: Any) -> bool:
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return isinstance(value, bool) or any(isinstance(each, bool) for each in items)


@functools.cache
def _takes_numbers_alone(section: type[Section], name: str) -> bool:
    """Whether a field, or what it lists, may be a number and no boolean."""
    leaves = _leaves(section.model_fields[name].annotation)
    return bool(leaves & {int, float}) and bool not in leaves


def _leaves(annotation: Any) -> set[Any]:
    """The types that an annotation is made of."""
    if get_origin(annotation) is Literal:
        return {type(each) for each in get_args(annotation)}
    inner = get_args(annotation)
    return {annotation} if not inner else {leaf for each in inner for leaf in _leaves(each)}


def with_options(section: type[Section], options: type[Any]) -> type[Section]:
    """`section`, and after its own fields those of a dataclass, whose metadata are keywords of pydantic's Field."""
    types = get_type_hints(options)
    fields: dict[str, Any] = {
        each.name: (types[each.name], Field(each.default, **each.metadata)) for each in dataclasses.fields(options)
    }
    return create_model(options.__name__, __base__=section, __module__=section.__module__, **fields)
