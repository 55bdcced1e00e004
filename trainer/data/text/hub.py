"""A split of a Hugging Face data set: its rows streamed from any position, or its files, downloaded once."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from galore.trainer.common.errors import DISK_FULL, RunFailed, UserError, system_error
from galore.trainer.common.printable import listed
from galore.trainer.common.reading import user_path
from galore.trainer.data.text.columns import text_of_table
from galore.trainer.data.text.conversation import columns_of, keys_of
from galore.trainer.data.text.quality import BadRow, BadRows, check, text_of_object
from galore.trainer.data.text.shapes import text_of_row
from galore.trainer.machine.offline import spare_retries
from galore.trainer.recipe.extras import require
from galore.trainer.recipe.schema.data import DataSection

State = dict[str, Any]
"""Where a stream stands: shard and row, as `IterableDataset.state_dict()` writes them (JSON)."""

TABLES = "RebatchedArrowExamplesIterable"  # how `datasets` calls the position in a stream of tables

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)

SplitKey = Literal["split", "validation_split"]
OTHERWISE: dict[SplitKey, str] = {
    "split": "; a local folder in the same layout works too",
    "validation_split": "; validation_split: null holds out a share of `split`, or validation_fraction alone in one of sources",
}


@dataclass(frozen=True)
class HubSplit:
    """One split of a data set on the hub, or of a local folder in the same form."""

    path: str
    config: str | None
    split: str
    field: str
    max_document_bytes: int
    rows: DataSection | None = None  # whose columns are read instead of `field`
    key: SplitKey = "split"  # that names the split

    @classmethod
    def of(cls, section: DataSection, base_dir: Path, key: SplitKey = "split") -> HubSplit:
        """Raises UserError: `data.path` is a list, or files are to be held out."""
        if not isinstance(section.path, str):
            raise UserError("names several data sets", where="data.path", fix="source: hub reads one; name one")
        if section.validation_path is not None:
            fix = "set data.validation_split or data.validation_fraction"
            raise UserError("is for local files", where="data.validation_path", fix=fix)
        local = base_dir / user_path(section.path)
        path = str(local) if local.exists() else section.path
        field, limit = section.one_column, section.max_document_bytes
        return cls(
            path, section.hub_config, getattr(section, key), field or "", limit, section if field is None else None, key
        )

    def open(self) -> Any:
        """An `IterableDataset` of the columns that are read, as tables of one row: a stored string need not be UTF-8.

        Raises:
            UserError: no such data set, configuration, split or column, or no network.
        """
        rows = self._loaded(streaming=True)
        if rows.features is not None:
            rows = rows.select_columns(self._columns_among(rows.features))
        # positions are the same with and without tables; what is made row by row has none, and its texts are Python's
        return rows.with_format("arrow") if rows.state_dict()["examples_iterable"].get("type") == TABLES else rows

    def files(self) -> tuple[Path, ...]:
        """All of it, as the Arrow files that `datasets` keeps, which downloads and writes what is not there yet.

        Raises:
            UserError: as `open`.
            RunFailed: the disk is full, or what is downloaded cannot be kept.
        """
        rows = self._loaded(keep_in_memory=False)
        self._columns_among(rows.features)
        return tuple(Path(each["filename"]) for each in rows.cache_files)

    def _loaded(self, **how: bool) -> Any:
        if not Path(self.path).exists():
            spare_retries()  # before datasets is imported, which asks only once
        datasets = require("datasets")
        datasets.disable_progress_bars()
        where = f"data.path: {self.path}, hub_config: {self.config}, {self.key}: {self.split}"
        try:
            return datasets.load_dataset(self.path, self.config, split=self.split, **how)
        except Exception as raised:  # the library, its loaders and its network raise types of their own
            in_making = isinstance(raised, datasets.exceptions.DatasetGenerationError)
            error = raised.__cause__ or raised if in_making else raised
            refused = system_error(error)
            if refused is not None and refused.errno in DISK_FULL:
                fix = "free some space, or set $HF_HOME to a folder on another disk"
                raise RunFailed("no space left for the data set", where=where, fix=fix) from raised
            if refused is not None and refused.errno in UNWRITABLE and not _lies_in(refused.filename, self.path):
                fix = "set $HF_HOME to a folder that you may write to"
                raise RunFailed(f"cannot keep the data set ({_first_line(error)})", where=where, fix=fix) from raised
            fix = f"check the three names and the network{OTHERWISE[self.key]}"
            raise UserError(f"cannot be opened ({_first_line(error)})", where=where, fix=fix) from raised

    def _columns_among(self, features: Any) -> list[str]:
        """The columns that are read. Raises UserError if one that has to be there is not."""
        required, optional = ([self.field], []) if self.rows is None else columns_of(self.rows)
        for field in required:
            if field not in features:
                what = f"`{field}` is not among the columns {listed(features)}"
                raise UserError(what, where=f"data.{self._key_of(field)}", fix="name the columns as the data set does")
        return [*required, *(field for field in optional if field in features)]

    def _key_of(self, field: str) -> str:
        if self.rows is None:
            return "text_field"
        return next(key for key, names in keys_of(self.rows).items() if field in names)

    def require(self) -> None:
        """Raises UserError unless it can be opened and has the columns."""
        self.open()

    def texts(self, state: State | None, bad: BadRows) -> Iterator[tuple[str, State]]:
        """Good texts after `state` (None: from the start), each with the state after it; bad rows go to `bad`.

        Raises:
            RunFailed: the connection was lost.
            UserError: a shard that cannot be parsed, or a bad row that is refused.
        """
        rows = self.open()
        if state is not None:
            rows.load_state_dict(state)
        with self._reading():
            for number, row in enumerate(rows, start=1):
                try:
                    text = check(self._text(row), self.max_document_bytes)
                except BadRow as fault:
                    bad.add(fault, f"{self.path} [{self.split}], row {number} of this reading")
                else:
                    yield text, rows.state_dict()

    def _text(self, row: Any) -> str:
        if not isinstance(row, dict):
            return text_of_table(row, self.field, self.rows)
        return text_of_object(row, self.field) if self.rows is None else text_of_row(row, self.rows)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        where = f"{self.path} [{self.split}]"
        try:
            yield
        except (UserError, GeneratorExit):
            raise
        except ValueError as error:  # what parsers raise, those of Arrow and JSON among them
            raise UserError(f"a shard cannot be read ({_first_line(error)})", where=where) from error
        except Exception as error:  # the network has types of its own
            fix = "--resume goes on from the last checkpoint"
            raise RunFailed(f"the stream broke off ({_first_line(error)})", where=where, fix=fix) from error


def _lies_in(name: object, folder: str) -> bool:
    return isinstance(name, str) and Path(name).is_relative_to(folder)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
