"""Rows of a Hugging Face data set, streamed, from any position."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.common.printable import listed
from galore.trainer.common.reading import user_path
from galore.trainer.data.text.conversation import columns_of, keys_of
from galore.trainer.data.text.quality import BadRow, BadRows, check, decode, text_of_object
from galore.trainer.data.text.shapes import text_of_row
from galore.trainer.machine.offline import spare_retries
from galore.trainer.recipe.extras import require
from galore.trainer.recipe.schema.data import DataSection

State = dict[str, Any]
"""Where a stream stands: shard and row, as `IterableDataset.state_dict()` writes them (JSON)."""

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
        """Raises UserError: `data.path` is a list."""
        if not isinstance(section.path, str):
            raise UserError("names several data sets", where="data.path", fix="source: hub streams one; name one")
        local = base_dir / user_path(section.path)
        path = str(local) if local.exists() else section.path
        field, limit = section.one_column, section.max_document_bytes
        return cls(
            path, section.hub_config, getattr(section, key), field or "", limit, section if field is None else None, key
        )

    def open(self) -> Any:
        """An `IterableDataset` of the text column alone, as bytes: a stored string need not be UTF-8; or of those of
        prompts and responses.

        Raises:
            UserError: no such data set, configuration, split or column, or no network.
        """
        if not Path(self.path).exists():
            spare_retries()  # before datasets is imported, which asks only once
        datasets = require("datasets")
        datasets.disable_progress_bars()
        try:
            rows = datasets.load_dataset(self.path, self.config, split=self.split, streaming=True)
        except Exception as error:  # the library, its loaders and its network raise types of their own
            raise UserError(
                f"cannot be opened ({_first_line(error)})",
                where=f"data.path: {self.path}, hub_config: {self.config}, {self.key}: {self.split}",
                fix=f"check the three names and the network{OTHERWISE[self.key]}",
            ) from error
        return self._text_column(rows, datasets) if self.rows is None else _columns(rows, self.rows)

    def _text_column(self, rows: Any, datasets: Any) -> Any:
        if rows.features is None:
            return rows
        if self.field not in rows.features:
            what = f"`{self.field}` is not among the columns {listed(rows.features)}"
            raise UserError(what, where="data.text_field", fix="name the column that holds the text")
        rows = rows.select_columns([self.field])
        kind = getattr(rows.features[self.field], "dtype", "")
        return rows.cast_column(self.field, datasets.Value("binary")) if kind == "string" else rows

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

    def _text(self, row: dict[str, Any]) -> str:
        if self.rows is not None:
            return text_of_row(row, self.rows)
        value = row.get(self.field)
        return decode(value) if isinstance(value, bytes) else text_of_object(row, self.field)

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


def _columns(rows: Any, section: DataSection) -> Any:
    """The columns of prompts and responses, or of messages, alone. Raises UserError if one is not there."""
    if rows.features is None:
        return rows
    required, optional = columns_of(section)
    for field in required:
        if field not in rows.features:
            key = next(key for key, names in keys_of(section).items() if field in names)
            what = f"`{field}` is not among the columns {listed(rows.features)}"
            raise UserError(what, where=f"data.{key}", fix="name the columns as the data set does")
    return rows.select_columns([*required, *(field for field in optional if field in rows.features)])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
