"""Rows of Arrow tables: parquet files, and data sets of the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from galore.trainer.common.errors import UserError
from galore.trainer.data.formats.bytestream import opened
from galore.trainer.data.glue.columns import Columns, find_columns
from galore.trainer.data.glue.examples import Raw
from galore.trainer.data.glue.rows import Fault
from galore.trainer.recipe.extras import require
from galore.trainer.tasks.glue import Task

BATCH_ROWS = 4096


def read_parquet(path: Path, task: Task, labelled: bool) -> Iterator[Raw]:
    """The rows of one parquet file. Raises Fault."""
    arrow, parquet = require("pyarrow"), require("pyarrow.parquet")
    with opened(path) as stream, stream.seekable() as file:
        try:
            table = parquet.ParquetFile(file)
            schema = table.schema_arrow
            columns = find_columns(task, schema.names, labelled)
            check_label_names(task, _stored_names(schema.metadata or {}))
            wanted = [name for name in columns if name is not None]
            yield from _rows(table.iter_batches(batch_size=BATCH_ROWS, columns=wanted), columns)
        except arrow.ArrowException as error:
            reason = str(error).splitlines()[0]
            raise Fault(f"not a readable parquet file ({reason})", "fetch it again") from error


def read_hub(path: str, task: Task, split: str, cache_dir: Path | None) -> Iterator[Raw]:
    """The rows of one split of a data set on the hub, or of a local folder in the same form, the task as configuration.

    Raises:
        Fault: the columns or labels are not those of the task.
        UserError: no such data set, configuration or split, or no network.
    """
    datasets = require("datasets")
    datasets.disable_progress_bars()
    try:
        table = datasets.load_dataset(path, task.name, split=split, cache_dir=str(cache_dir) if cache_dir else None)
    except Exception as error:  # the library, its loaders and its network raise types of their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"neither a folder here nor a data set of the hub that can be opened ({reason})",
            where=f"{path} [{task.name}, {split}]",
            fix="check the name and the network, or name a local folder of GLUE with --data-dir",
        ) from error
    columns = find_columns(task, table.column_names, labelled=not split.startswith("test"))
    if columns.label is not None:
        check_label_names(task, getattr(table.features[columns.label], "names", None))
    yield from _rows(table.with_format("arrow").iter(batch_size=BATCH_ROWS), columns)


def check_label_names(task: Task, names: Sequence[str] | None) -> None:
    """Raises Fault where a table declares label names, and not those of the task in their order."""
    if names is not None and tuple(names) != task.labels:
        what = f"its label ids mean {', '.join(names)}, those of {task.folder} {', '.join(task.labels) or 'a score'}"
        raise Fault(what, f"name the folder of {task.folder}")


def _stored_names(metadata: dict[bytes, bytes]) -> Sequence[str] | None:
    """What `datasets` notes in a parquet file's metadata about the ids of its labels."""
    try:
        feature = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]["label"]
        return [str(name) for name in feature["names"]]
    except (ValueError, KeyError, TypeError):
        return None


def _rows(batches: Iterator[Any], columns: Columns) -> Iterator[Raw]:
    """`batches`: record batches or tables that hold the columns."""
    done = 0
    for batch in batches:
        values = zip(*(_values(batch, name) for name in columns), strict=True)
        for line, row in enumerate(values, start=done + 1):
            try:
                yield Raw(line, *map(_decoded, row))
            except UnicodeDecodeError as error:
                raise Fault(f"not valid UTF-8 ({error.reason} at byte {error.start})", line=line) from None
        done += batch.num_rows


def _values(batch: Any, name: str | None) -> Sequence[Any]:
    """Python values of a column; texts as bytes, for Arrow does not promise UTF-8."""
    if name is None:
        return [None] * int(batch.num_rows)
    arrow = require("pyarrow")
    column = batch.column(batch.schema.names.index(name))
    if arrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    tests = ("is_string", "is_large_string", "is_string_view")
    textual = any(getattr(arrow.types, test, lambda _: False)(column.type) for test in tests)
    values: list[Any] = (column.cast(arrow.large_binary()) if textual else column).to_pylist()
    return values


def _decoded(value: Any) -> Any:
    return value.decode("utf-8") if isinstance(value, bytes) else value
