"""What text to continue has in common, wherever its training rows come from: held-out rows and how they are scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from galore.trainer.common.errors import RunFailed
from galore.trainer.data.batch import Scoring
from galore.trainer.data.rows.lengths import fed
from galore.trainer.data.rows.modality import Modalities
from galore.trainer.data.rows.packing import Rows
from galore.trainer.data.rows.tokenbatch import TokenBatch, count_targets
from galore.trainer.data.score import EvalResult, evaluate, unigram_loss_nats
from galore.trainer.data.tokens.bytelengths import byte_lengths
from galore.trainer.data.tokens.store import Ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BASELINE_ROWS = 256


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


def batch_of(rows: Rows, numbers: Ids, vocab_size: int, modalities: Modalities | None = None) -> TokenBatch:
    """The rows `numbers`, (b,), as tensors, without the columns at their end that are padding in each of them."""
    input_ids, labels = read_rows(rows, numbers, vocab_size)
    positions = rows.positions(numbers)
    if positions is None:
        longest = int(fed(labels).max())
        input_ids, labels = (np.ascontiguousarray(each[:, :longest]) for each in (input_ids, labels))
    batch = TokenBatch.of(input_ids, labels, numbers.tolist(), positions, modalities)
    extras = rows.extras(numbers)
    return batch if extras is None else replace(batch, extras=torch.from_numpy(extras))


def evaluation_rows(total: int, max_length: int, max_tokens: int | None) -> Ids:
    """Numbers of the rows that are scored: all, or as many as `max_tokens` allows (at least one), evenly spread."""
    count = total if max_tokens is None else min(total, max(1, max_tokens // max_length))
    return np.arange(count, dtype=np.int64) * total // max(count, 1)


def evaluation_batches(
    rows: Rows,
    max_length: int,
    micro_batch_size: int,
    max_tokens: int | None,
    vocab_size: int,
    modalities: Modalities | None = None,
) -> Iterator[TokenBatch]:
    """The `evaluation_rows` in stored order."""
    numbers = evaluation_rows(len(rows), max_length, max_tokens)
    for start in range(0, len(numbers), micro_batch_size):
        yield batch_of(rows, numbers[start : start + micro_batch_size], vocab_size, modalities)


class TextData(ABC):
    """What mapped and streamed text share of `batch.Data`. `vocab_size` is one more than the largest token id."""

    tokenizer: PreTrainedTokenizerBase
    vocab_size: int
    validation: Rows
    max_length: int
    modalities: Modalities | None
    facts: dict[str, Any]  # JSON that does not change

    @property
    def summary(self) -> dict[str, Any]:
        """See `batch.Data`."""
        return self.facts

    @property
    def has_validation(self) -> bool:
        return len(self.validation) > 0

    def validation_batches(self, micro_batch_size: int, max_tokens: int | None) -> Iterator[TokenBatch]:
        """Held-out rows in a fixed order, the same every time; at most `max_tokens` tokens, but at least one row."""
        rows, how = self.validation, (self.vocab_size, self.modalities)
        return evaluation_batches(rows, self.max_length, micro_batch_size, max_tokens, *how)

    @abstractmethod
    def token_counts(self) -> npt.NDArray[np.int64]:
        """How often each token is a training target, (vocabulary,); a stream counts a fixed prefix of itself."""

    def score(self, model: nn.Module, scoring: Scoring) -> EvalResult:
        """The mean loss of at most `eval.max_tokens` tokens."""
        batches = self.validation_batches(scoring.micro_batch_size, scoring.settings.max_tokens)
        return self.scored(model, batches, scoring)

    def scored(self, model: nn.Module, batches: Iterable[TokenBatch], scoring: Scoring) -> EvalResult:
        """The mean loss of `batches`, and the bytes that their targets spell."""
        counts = np.zeros(self.vocab_size, np.int64)

        def counted() -> Iterator[TokenBatch]:
            for batch in batches:
                np.add(counts, count_targets(batch.labels.numpy(), len(counts)), out=counts)
                yield batch

        result = evaluate(model, counted(), scoring)
        lengths = byte_lengths(self.tokenizer, len(counts))
        return result if lengths is None else replace(result, bytes=int(counts @ lengths))

    def baseline(self) -> dict[str, Any]:
        """The loss of the frequencies of tokens, on all that is held out."""
        train = self.token_counts()
        held_out = np.zeros_like(train)
        for batch in self.validation_batches(BASELINE_ROWS, None):
            held_out += count_targets(batch.labels.numpy(), len(train))
        return {"unigram_loss_nats": unigram_loss_nats(train, held_out)}
