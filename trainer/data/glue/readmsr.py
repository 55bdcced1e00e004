"""MRPC as Microsoft publishes it: `msr_paraphrase_train.txt`, whose rows GLUE parts by `dev_ids.tsv`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from galore.trainer.common.errors import UserError
from galore.trainer.data.formats.bytestream import bounded_lines, opened
from galore.trainer.data.glue.examples import Raw
from galore.trainer.data.glue.readlines import LONGEST_LINE, Ragged, read_cells
from galore.trainer.data.glue.rows import Fault
from galore.trainer.tasks.glue import Task

FILES = {
    "train": "msr_paraphrase_train.txt",
    "validation": "msr_paraphrase_train.txt",
    "test": "msr_paraphrase_test.txt",
}
DEV_IDS = "dev_ids.tsv"
ID_COLUMNS = ("#1 ID", "#2 ID")


def read_msr(path: Path, task: Task, split: str) -> Iterator[Raw | Ragged]:
    """The rows of one split. Raises Fault, and UserError: the list of GLUE's validation rows is not there."""
    held_out = frozenset[tuple[str, str]]() if split == "test" else dev_ids(path.with_name(DEV_IDS))
    for row in read_cells(path, task, labelled=split != "test"):
        if isinstance(row, Ragged):
            yield row
        elif (_ids(row.by_name) in held_out) == (split == "validation"):
            cells = row.by_name
            yield Raw(row.line, cells["#1 String"], cells["#2 String"], cells.get("Quality"), None)


def dev_ids(path: Path) -> frozenset[tuple[str, str]]:
    """Pairs of ids that are GLUE's validation split."""
    if not path.is_file():
        fix = f"put GLUE's {DEV_IDS} there: it says which rows of {FILES['train']} are the validation split"
        raise UserError("is missing", where=str(path), fix=fix)
    pairs = set[tuple[str, str]]()
    with opened(path) as stream:
        for number, raw in bounded_lines(stream.plain, LONGEST_LINE):
            ids = (raw or b"").decode("latin-1").strip().split("\t")
            if len(ids) != 2:
                raise UserError("is not two ids with a tab between", where=f"{path}:{number}", fix="fetch it again")
            pairs.add((ids[0], ids[1]))
    return frozenset(pairs)


def _ids(cells: dict[str, str]) -> tuple[str, str]:
    try:
        return cells[ID_COLUMNS[0]], cells[ID_COLUMNS[1]]
    except KeyError as error:
        raise Fault(f"no column `{error.args[0]}`", f"fetch {FILES['train']} again", line=1) from None
