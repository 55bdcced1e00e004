"""From the values of one row to an example, or the fault that is in them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from galore.trainer.data.glue.rows import UNLABELLED, Example, Fault
from galore.trainer.tasks.glue import HIGHEST_SCORE, LOWEST_SCORE, Task


class Raw(NamedTuple):
    """The values of a row as a file has them; None for a column that is not there."""

    line: int  # or row of a table; from 1
    text_a: Any
    text_b: Any
    label: Any
    idx: Any


def example_of(task: Task, raw: Raw, position: int, labelled: bool) -> Example:
    """One example.

    Args:
        position: number of the row in its split, which is its index where the file gives none.
        labelled: whether a row without a label is a fault.

    Raises:
        Fault: a text, label or index that cannot be one of this task.
    """
    text_a = _text(raw.text_a, task.text_a)
    text_b = None if task.text_b is None else _text(raw.text_b, task.text_b)
    if not text_a.strip() and not (text_b or "").strip():  # one of a pair may be: QQP has such rows
        raise Fault("no text")
    return Example(text_a, text_b, _label(task, raw.label, labelled), _index(raw.idx, position))


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise Fault(f"`{column}` is {_shown(value)}, not a text")
    return value


def _label(task: Task, value: Any, labelled: bool) -> int | float | None:
    if _is_absent(value):
        if labelled:
            raise Fault("no label", "only rows of test splits may have none; mend or remove the row")
        return None
    return score_of(value) if task.is_regression else class_of(task, value)


def _is_absent(value: Any) -> bool:
    return value is None or value in ("", "-1", UNLABELLED) or value != value  # the last is NaN


def class_of(task: Task, value: Any) -> int:
    """The id of a class given by id, as number or text, or by name. Raises Fault."""
    if isinstance(value, str) and value in task.labels:
        return task.labels.index(value)
    number = _number(value)
    if number is None or number not in range(task.num_labels):
        known = ", ".join(f"{number} = {name}" for number, name in enumerate(task.labels))
        raise Fault(f"the label is {_shown(value)}, which {task.folder} does not have", f"its labels are {known}")
    return int(number)


def score_of(value: Any) -> float:
    """A similarity between 0 and 5, given as number or text. Raises Fault."""
    number = _number(value)
    if number is None or not LOWEST_SCORE <= number <= HIGHEST_SCORE:
        raise Fault(f"the score is {_shown(value)}, not a number from 0 to 5")
    return number


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _index(value: Any, position: int) -> int:
    if value is None:
        return position
    number = _number(value)
    if number is None or not number.is_integer() or not 0 <= number < 2**53:
        raise Fault(f"the index is {_shown(value)}, not the number of a row")
    return int(number)


def _shown(value: Any) -> str:
    text = repr(value)
    return "missing" if value is None else text if len(text) <= 40 else f"{text[:37]}…"
