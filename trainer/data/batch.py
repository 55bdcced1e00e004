"""What data looks like to the training loop: batches of token ids, and the promise they come with."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of a position that is no target."""


SECONDS_BETWEEN_REPORTS = 0.1


class Progress(Protocol):
    """Told how far a long preparation is. `total_bytes` is 0 where the end is not known."""

    def __call__(self, done_bytes: int, total_bytes: int, what: str) -> None: ...


def silent(done_bytes: int, total_bytes: int, what: str) -> None:
    """The progress nobody watches."""


def throttled(progress: Progress) -> Progress:
    """The same progress, told ten times a second at most: there are many documents in a second."""
    last = dict[str, float]()

    def report(done_bytes: int, total_bytes: int, what: str) -> None:
        now = time.monotonic()
        if now - last.get(what, -1.0) >= SECONDS_BETWEEN_REPORTS or done_bytes == total_bytes:
            last[what] = now
            progress(done_bytes, total_bytes, what)

    return report


@dataclass(frozen=True)
class Batch:
    """Sequences of one forward pass, or of a whole optimizer step."""

    input_ids: Tensor  # (b, s) int64
    labels: Tensor  # (b, s) int64, not shifted: the loss shifts; IGNORED is no target
    sequence_ids: tuple[int, ...]  # which rows of the training data, length b

    def __len__(self) -> int:
        return len(self.sequence_ids)

    @property
    def targets(self) -> int:
        """Positions that are predicted: the first of a row never is."""
        return int((self.labels[:, 1:] != IGNORED).sum())

    @property
    def tokens(self) -> int:
        """Positions that are fed, padding included."""
        return self.input_ids.numel()

    @property
    def loss_name(self) -> str:
        """What the loss is called in the metrics."""
        return "loss_nats"

    def rows(self, start: int, stop: int) -> Batch:
        """Rows `start` to `stop`: one micro-batch."""
        return Batch(self.input_ids[start:stop], self.labels[start:stop], self.sequence_ids[start:stop])

    def shard(self, worker: int, workers: int) -> Batch:
        """Rows `worker`, `worker + workers`, …: what one of `workers` data-parallel workers takes of a global batch.

        The global batch is a function of the step alone, so the union over workers is the same for any number of them.
        """
        if not 0 <= worker < workers:
            raise ValueError(f"worker {worker} of {workers}")
        return Batch(self.input_ids[worker::workers], self.labels[worker::workers], self.sequence_ids[worker::workers])


class TrainingData(Protocol):
    """Training and held-out sequences of one recipe. Two kinds: `mapped.MappedData` and `stream.StreamedData`."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """A fast tokenizer with an EOS and a token to pad with."""

    @property
    def summary(self) -> dict[str, Any]:
        """JSON: source, documents, tokens, sequences, bad rows by kind, fingerprint."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know."""

    @property
    def num_sequences(self) -> int | None:
        """Training rows per epoch; None for a stream."""

    def global_batch(self, step: int) -> Batch:
        """All sequences of optimizer step `step`, counted from 0.

        Mapped data: a pure function of (seed, step). Streamed data: steps must be asked for in order.
        """

    def validation_batches(self, micro_batch_size: int, max_tokens: int | None) -> Iterator[Batch]:
        """Held-out rows in a fixed order, the same every time; at most `max_tokens` tokens, but at least one row."""

    def token_counts(self) -> npt.NDArray[np.int64]:
        """How often each token is a training target, (vocabulary,); a stream counts a fixed prefix of itself."""

    def position(self) -> dict[str, Any]:
        """JSON that `seek` takes to go on after the last batch given out."""

    def seek(self, position: dict[str, Any], step: int) -> None:
        """Go to `position`, so that the next batch is that of `step`.

        Raises:
            UserError: the position was written over other data.
        """
