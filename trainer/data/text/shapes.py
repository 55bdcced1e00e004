"""What a row of columns is to train on, as the recipe names its columns: a text, a conversation, or tokens."""

from __future__ import annotations

import json
import math
from typing import Any

from galore.trainer.common.printable import listed
from galore.trainer.data.batch import IGNORED
from galore.trainer.data.text.conversation import MASK, conversation_of, from_text
from galore.trainer.data.text.quality import BadRow, text_of_object, value_of
from galore.trainer.recipe.schema.data import DataSection
from galore.trainer.recipe.schema.model import TEXT

LARGEST = (2 - 2**-23) * 2.0**127  # of float32


def text_of_row(row: Any, section: DataSection) -> str:
    """The text of one parsed row; or its conversation, or its tokens, as JSON. Raises BadRow."""
    if section.tokens_field is not None:
        return tokens_of_row(row, section.tokens_field, section.labels_field, section.extra_field)
    return conversation_of(row, section) if section.instruct else text_of_object(row, section.text_field)


def tokens_of_row(row: Any, tokens_field: str, labels_field: str | None, extra_field: str | None = None) -> str:
    """JSON: the ids that the row's `attention_mask` leaves in, and for each whether it is a target; or the parts, texts
    and codes, that a list of mappings is. Raises BadRow."""
    value = from_text(value_of(row, tokens_field))
    extra = {} if extra_field is None or row.get(extra_field) is None else {"extra": _floats(row, extra_field)}
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        if labels_field is not None:
            raise BadRow("wrong_type", f"`{tokens_field}` has parts, and `{labels_field}` goes with ids")
        return json.dumps({"parts": [_part(each, tokens_field) for each in value], **extra})
    ids = _numbers(row, tokens_field)
    mask = _numbers(row, MASK) if row.get(MASK) is not None else [1] * len(ids)
    labels = ids if labels_field is None else _numbers(row, labels_field)
    if not len(ids) == len(mask) == len(labels):
        lengths = f"{len(ids)} tokens, {len(labels)} labels and {len(mask)} of {MASK}"
        raise BadRow("wrong_type", f"{lengths} are not of one length")
    for token, label in zip(ids, labels, strict=True):
        if label not in (IGNORED, token):
            raise BadRow("wrong_type", f"a label is {label}, which is neither {IGNORED} nor its token, {token}")
    there = [(token, label) for token, label, seen in zip(ids, labels, mask, strict=True) if seen]
    if not there:
        raise BadRow("empty")
    targets = {} if labels_field is None else {"targets": "".join("01"[label != IGNORED] for _, label in there)}
    return json.dumps({"ids": [token for token, _ in there], **targets, **extra})


def _part(part: Any, field: str) -> tuple[str, Any]:
    """(text, what it says), or (modality, its codes). Columns of structs have a null for what a part is not."""
    given = {name: value for name, value in part.items() if value is not None} if isinstance(part, dict) else {}
    if len(given) != 1:
        what = f"has a part with {listed(given) or 'no name'}" if isinstance(part, dict) else "has parts and others"
        raise BadRow("wrong_type", f"`{field}` {what}, not one of {{text: …}} and {{modality: [codes]}}")
    ((name, content),) = given.items()
    codes = isinstance(content, list) and all(type(each) is int for each in content)
    if not (isinstance(content, str) if name == TEXT else codes):
        raise BadRow(
            "wrong_type", f"`{field}` has a part whose {name} is not {'a text' if name == TEXT else 'a list of codes'}"
        )
    return name, content


def _floats(row: Any, field: str) -> list[float]:
    """Numbers in their order, of a list or of lists in it, that are finite where they are kept, in float32."""
    value = from_text(row[field])
    rows = value if isinstance(value, list) else [value]
    flat = [each for part in rows for each in (part if isinstance(part, list) else [part])]
    # math.isfinite raises for whole numbers that no float holds
    numbers = all(type(each) is int or (type(each) is float and math.isfinite(each)) for each in flat)
    if not isinstance(value, list) or not numbers:
        raise BadRow("wrong_type", f"`{field}` is not a list of numbers, or of lists of them")
    if (beyond := next((each for each in flat if abs(each) > LARGEST), None)) is not None:
        raise BadRow("wrong_type", f"`{field}` has a number that float32 cannot hold: {beyond}")
    return [float(each) for each in flat]


def _numbers(row: Any, field: str) -> list[int]:
    value = from_text(value_of(row, field))
    if not isinstance(value, list) or not all(type(each) is int for each in value):
        found = (
            f"has {next(type(each) for each in value if type(each) is not int).__name__}"
            if isinstance(value, list)
            else f"is {type(value).__name__}"
        )
        raise BadRow("wrong_type", f"`{field}` {found}, not a list of whole numbers")
    return value
