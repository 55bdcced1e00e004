"""Which column of a table is which: under the hub's names, or under those of GLUE's own files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from galore.trainer.data.glue.rows import Fault
from galore.trainer.tasks.glue import Task

INDEX_NAMES = ("idx", "index")
# By task: {the hub's name: that of GLUE's own files}.
GLUE_NAMES: Mapping[str, Mapping[str, str]] = {
    "mrpc": {"sentence1": "#1 String", "sentence2": "#2 String", "label": "Quality"},
    "stsb": {"label": "score"},
    "qqp": {"label": "is_duplicate", "idx": "id"},
    "mnli": {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"},
}


class Columns(NamedTuple):
    """Names of columns; None for what the table does not have, and need not."""

    text_a: str
    text_b: str | None
    label: str | None
    idx: str | None


def find_columns(task: Task, names: Sequence[str], labelled: bool) -> Columns:
    """The columns of a task among `names`.

    Raises:
        Fault: one of them is missing; of labels, where the split is `labelled`.
    """
    text_a = _required(task, task.text_a, names)
    text_b = None if task.text_b is None else _required(task, task.text_b, names)
    label = _required(task, "label", names) if labelled else _among(task, "label", names)
    index = next((name for name in INDEX_NAMES if name in names), None) or _among(task, "idx", names)
    return Columns(text_a, text_b, label, index)


def _required(task: Task, wanted: str, names: Sequence[str]) -> str:
    name = _among(task, wanted, names)
    if name is None:
        other = GLUE_NAMES.get(task.name, {}).get(wanted)
        also = f" (or `{other}`)" if other else ""
        there = ", ".join(name[:40] for name in names[:20]) or "none"
        fix = f"rename the columns, or name the folder of {task.folder}; in TSV, tabs part the columns"
        raise Fault(f"no column `{wanted}`{also} among {there}", fix)
    return name


def _among(task: Task, wanted: str, names: Sequence[str]) -> str | None:
    accepted = (wanted, GLUE_NAMES.get(task.name, {}).get(wanted))
    return next((name for name in accepted if name in names), None)
