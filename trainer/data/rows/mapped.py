"""Training data in files: every batch is a function of (seed, step)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.data.batch import Batch
from galore.trainer.data.rows.order import rows_of_step
from galore.trainer.data.rows.packing import Rows
from galore.trainer.data.tokens.store import Ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COUNT_ROWS = 1024


def read_rows(rows: Rows, numbers: Ids, vocab_size: int) -> tuple[Ids, Ids]:
    """input_ids and labels, (b, max_length) each, of the rows `numbers`: no id is outside the embedding.

    Raises:
        RunFailed: one is, for the files are no longer what was verified when they were opened.
    """
    input_ids, labels = rows.read(numbers)
    if input_ids.size and not 0 <= (worst := int(input_ids.max())) < vocab_size:
        raise RunFailed(
            f"the prepared data hold the token {worst}, and the tokenizer has {vocab_size}: they changed while in use",
            fix="go on with --resume: what is no longer as it was kept is made anew",
        )
    return input_ids, labels


def batch_of(rows: Rows, numbers: Ids, vocab_size: int) -> Batch:
    """The rows `numbers`, (b,), as tensors."""
    input_ids, labels = read_rows(rows, numbers, vocab_size)
    return Batch(torch.from_numpy(input_ids), torch.from_numpy(labels), tuple(numbers.tolist()))


def evaluation_batches(
    rows: Rows, max_length: int, micro_batch_size: int, max_tokens: int | None, vocab_size: int
) -> Iterator[Batch]:
    """All rows in stored order, or as many as `max_tokens` allows (at least one), evenly spread over all of them."""
    total = len(rows)
    count = total if max_tokens is None else min(total, max(1, max_tokens // max_length))
    numbers = np.arange(count, dtype=np.int64) * total // max(count, 1)
    for start in range(0, count, micro_batch_size):
        yield batch_of(rows, numbers[start : start + micro_batch_size], vocab_size)


def count_targets(labels: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """How often each id is a target in labels (b, s): the first of a row never is, for nothing predicts it."""
    targets = labels[:, 1:]
    return np.bincount(targets[targets >= 0], minlength=size)


@dataclass(frozen=True)
class Order:
    """What decides which rows a step sees."""

    seed: int
    global_batch_size: int
    shuffle: bool

    def rows(self, step: int, num_sequences: int) -> Ids:
        return rows_of_step(step, self.global_batch_size, num_sequences, self.seed, self.shuffle)


@dataclass(frozen=True)
class MappedData:
    """See `batch.TrainingData`."""

    tokenizer: PreTrainedTokenizerBase
    vocab_size: int
    train: Rows
    validation: Rows
    max_length: int
    order: Order
    summary: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def num_sequences(self) -> int:
        return len(self.train)

    def global_batch(self, step: int) -> Batch:
        return batch_of(self.train, self.order.rows(step, len(self.train)), self.vocab_size)

    def validation_batches(self, micro_batch_size: int, max_tokens: int | None) -> Iterator[Batch]:
        return evaluation_batches(self.validation, self.max_length, micro_batch_size, max_tokens, self.vocab_size)

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


def require_same_data(position: dict[str, Any], summary: dict[str, Any]) -> None:
    """Raises UserError unless the position was written over the data of `summary`."""
    if position.get("fingerprint") != summary["fingerprint"]:
        raise UserError(
            "the checkpoint was trained on other data: its files, tokenizer, packing, seed or global batch size differ, or it "
            "is of a galore that made other tokens of the same text",
            where=f"data fingerprint {summary['fingerprint']}, the checkpoint has {position.get('fingerprint')}",
            fix="restore the files and the recipe of the run, or start a new run in another --output-dir",
        )
