"""Training data in files: every batch is a function of (seed, step)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from galore.trainer.common.errors import UserError
from galore.trainer.data.rows.modality import Modalities
from galore.trainer.data.rows.order import rows_of_step
from galore.trainer.data.rows.packing import Rows
from galore.trainer.data.rows.textdata import TextData, batch_of, read_rows
from galore.trainer.data.rows.tokenbatch import TokenBatch, count_targets
from galore.trainer.data.tokens.store import Ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COUNT_ROWS = 1024


@dataclass(frozen=True)
class Order:
    """What decides which rows a step sees."""

    seed: int
    global_batch_size: int
    shuffle: bool

    def rows(self, step: int, num_sequences: int) -> Ids:
        return rows_of_step(step, self.global_batch_size, num_sequences, self.seed, self.shuffle)


@dataclass(frozen=True)
class MappedData(TextData):
    """See `batch.Data`."""

    tokenizer: PreTrainedTokenizerBase
    vocab_size: int
    train: Rows
    validation: Rows
    max_length: int
    order: Order
    facts: dict[str, Any]
    notes: tuple[str, ...] = ()
    modalities: Modalities | None = None
    cache: Path | None = None  # the folder that holds the tokens; each of several sources has its own

    @property
    def num_sequences(self) -> int:
        return len(self.train)

    @property
    def counted_rows(self) -> int:
        """How many rows `token_counts` is of."""
        return len(self.train)

    def global_batch(self, step: int) -> TokenBatch:
        return batch_of(self.train, self.order.rows(step, len(self.train)), self.vocab_size, self.modalities)

    def token_counts(self) -> npt.NDArray[np.int64]:
        counts = np.zeros(self.vocab_size, np.int64)
        for start in range(0, len(self.train), COUNT_ROWS):
            numbers = np.arange(start, min(start + COUNT_ROWS, len(self.train)))
            counts += count_targets(read_rows(self.train, numbers, self.vocab_size)[1], self.vocab_size)
        return counts

    def position(self) -> dict[str, Any]:
        return {"fingerprint": self.summary["fingerprint"]}

    def seek(self, position: dict[str, Any], step: int) -> None:
        require_same_data(position, self.summary)

    def place(self) -> None:
        """No place: every row is found by its number."""

    def go_to(self, place: dict[str, Any], row: int) -> None:
        """Nothing is to be done: mapped data stand before every row."""


def require_same_data(position: dict[str, Any], summary: dict[str, Any]) -> None:
    """Raises UserError unless the position was written over the data of `summary`."""
    if position.get("fingerprint") != summary["fingerprint"]:
        raise UserError(
            "the checkpoint was trained on other data: its files, tokenizer, packing, seed or global batch size differ, or it "
            "is of a galore that made other tokens of the same text",
            where=f"data fingerprint {summary['fingerprint']}, the checkpoint has {position.get('fingerprint')}",
            fix="restore the files and the recipe of the run, or start a new run in another --output-dir",
        )
