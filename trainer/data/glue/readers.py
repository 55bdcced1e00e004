"""The rows of one split of one task: from the hub, or from a local folder in any layout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from galore.trainer.common.errors import UserError
from galore.trainer.common.reading import user_path
from galore.trainer.data.glue.examples import Raw, example_of
from galore.trainer.data.glue.locate import SplitFiles, find_split
from galore.trainer.data.glue.readarrow import read_hub, read_parquet
from galore.trainer.data.glue.readlines import Ragged, read_jsonl, read_tsv
from galore.trainer.data.glue.readmsr import read_msr
from galore.trainer.data.glue.rows import Fault, Rows
from galore.trainer.data.text.locate import HUB_NAME
from galore.trainer.tasks.glue import Task

MOST_BROKEN = 0.001  # of the lines of QQP, where two dozen questions hold a line break that nothing quotes


def read_split(task: Task, split: str, source: str | Path, cache_dir: Path | None = None) -> Rows:
    """Every example of a split; nothing is shuffled, cut or changed.

    Lines that GLUE's own file of QQP is known to have broken are passed over, as the hub does; `Rows.broken` has them.

    Args:
        split: one of `task.sizes`; only rows of test splits may lack a label.
        source: a local folder, of all tasks or of this one, or a data set on the hub such as `nyu-mll/glue`.
        cache_dir: where the hub's files are kept; None: where `datasets` keeps them.

    Raises:
        UserError: the first thing that is wrong, with file and line.
    """
    if split not in task.sizes:
        fix = f"its splits are {', '.join(task.sizes)}"
        raise UserError(f"{task.folder} has no split `{split}`", fix=fix)
    rows, files = Rows(task, split), local_split(task, split, source)
    if files is None:
        _add(rows, f"{source} [{task.name}, {split}]", read_hub(str(source), task, split, cache_dir))
        return rows
    for path in files.paths:
        _add(rows, str(path), _local(files.format, path, task, split))
    return rows


def local_split(task: Task, split: str, source: str | Path) -> SplitFiles | None:
    """The files of a split; None for a data set on the hub, whose name `source` is.

    Raises:
        UserError: there is no such folder, or not the split in it.
    """
    folder = user_path(str(source))
    if folder.is_dir():
        return find_split(task, split, folder)
    if HUB_NAME.fullmatch(str(source)) and not folder.exists():
        return None
    what = "is a file, not a folder" if folder.exists() else "no such folder"
    raise UserError(what, where=str(source), fix="name a folder of GLUE, or a data set of the hub such as nyu-mll/glue")


def _local(format: str, path: Path, task: Task, split: str) -> Iterator[Raw | Ragged]:
    labelled = not split.startswith("test")
    if format == "msr":
        return read_msr(path, task, split)
    if format == "parquet":
        return read_parquet(path, task, labelled)
    return (read_jsonl if format == "jsonl" else read_tsv)(path, task, labelled)


def _add(rows: Rows, file: str, raws: Iterator[Raw | Ragged]) -> None:
    """Append what a reader gives. Raises UserError."""
    rows.open_file(file)
    before, ragged, line = len(rows), list[Ragged](), None
    labelled = not rows.split.startswith("test")
    try:
        for raw in raws:
            line = raw.line
            if isinstance(raw, Ragged):
                _refuse_unless_known(rows, raw)
                ragged.append(raw)
                continue
            rows.append(example_of(rows.task, raw, len(rows), labelled), line)
    except Fault as fault:
        raise fault.at(file, line) from fault.__cause__
    except UnicodeEncodeError as error:  # a lone surrogate, which JSON can spell
        raise Fault("not valid Unicode (a lone surrogate)").at(file, line) from error
    if len(ragged) > MOST_BROKEN * (len(rows) - before):
        raise _ragged(ragged[0]).at(file, None)
    if len(rows) == before:
        raise UserError("holds no rows", where=file, fix="fetch it again")
    rows.broken += [f"{file}:{row.line}" for row in ragged]


def _refuse_unless_known(rows: Rows, row: Ragged) -> None:
    if rows.task.name != "qqp" or rows.split == "test":
        raise _ragged(row)


def _ragged(row: Ragged) -> Fault:
    what = f"{row.columns} columns where there should be {row.expected}"
    return Fault(what, "tabs part the columns, and quotes mean nothing; mend or remove the row", row.line)
