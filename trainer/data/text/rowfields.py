"""One column of a row that was parsed, or the reason it cannot be used."""

from __future__ import annotations

from typing import Any

from galore.trainer.common.printable import listed
from galore.trainer.data.text.quality import BadRow


def value_of(row: Any, field: str) -> Any:
    """What the column holds, never None. Raises BadRow."""
    if not isinstance(row, dict):
        raise BadRow("wrong_type", f"the row is {type(row).__name__}, not an object")
    value = row.get(field)
    if value is None:
        raise BadRow("missing_field", f"`{field}` is not among {listed(row) or 'no fields'}")
    return value


def text_of_object(row: Any, field: str) -> str:
    """The text that the column holds. Raises BadRow."""
    text = value_of(row, field)
    if not isinstance(text, str):
        raise BadRow("wrong_type", f"`{field}` is {type(text).__name__}")
    return text
