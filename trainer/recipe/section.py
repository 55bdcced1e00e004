"""What every section of a recipe is built from: frozen models, bounded numbers, fields of execution."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]


def execution(default: Any, description: str, **constraints: Any) -> Any:
    """A field that changes how a run is executed but not its mathematics."""
    return Field(default, description=description, json_schema_extra={"execution": True}, **constraints)


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)
