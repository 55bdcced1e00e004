"""Labelled examples of any length, in batches that are padded as late as possible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from galore.kernels.model.cross_entropy import LossSums
from galore.trainer.data.batch import PLAIN, Measures, Objective, SplitHead
from galore.trainer.data.tokens.store import Ids


@dataclass(frozen=True)
class Padding:
    """What fills up a short row: of ids and of segments."""

    token: int
    segment: int = 0


@dataclass(frozen=True)
class Examples:
    """Encoded examples one after another: number i is `tokens[offsets[i]:offsets[i + 1]]`.

    `labels` are class numbers (int64) or scores (float32); `segments` is None for a model that knows none.
    `truncated` counts the examples that were longer than allowed; `identity` tells what they were made from, and
    `passed_over` where lines were that could not be read.
    """

    tokens: npt.NDArray[np.int32]
    segments: npt.NDArray[np.uint8] | None
    offsets: Ids  # (n + 1,)
    labels: npt.NDArray[Any]  # (n,)
    padding: Padding
    truncated: int = 0
    identity: str = ""
    passed_over: tuple[str, ...] = ()  # file:line

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def used(self) -> int:
        """Tokens of all examples."""
        return len(self.tokens)

    def lengths(self) -> Iterator[Ids]:
        """Tokens of the examples as they are fed, all of them at once."""
        yield np.diff(self.offsets)

    def batch(self, numbers: Ids) -> LabelledBatch:
        """The examples `numbers`, (b,)."""
        return LabelledBatch(self, numbers, torch.from_numpy(self.labels[numbers]))


@dataclass(frozen=True)
class LabelledBatch:
    """See `batch.Batch`. Every example is a target."""

    examples: Examples
    numbers: Ids  # (b,)
    labels: Tensor  # (b,) int64 classes, or float32 scores

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def skips(self) -> None:
        return None

    @property
    def sequence_ids(self) -> tuple[int, ...]:
        return tuple(self.numbers.tolist())

    @property
    def targets(self) -> int:
        return len(self)

    @property
    def tokens(self) -> int:
        """How many tokens the rows hold, padding apart."""
        return int(self._lengths.sum())

    def losses(self, model: nn.Module, split_head: SplitHead, objective: Objective = PLAIN) -> LossSums:
        """Cross-entropy of the labels, or squared errors where they are scores. There is no z-loss of so few logits."""
        total = self.summed_loss(model(**self.inputs(model)).logits)
        return LossSums(total, total.detach(), total.new_zeros(()))

    def rows_at_once(self, model: nn.Module, split_head: SplitHead) -> int:
        """All rows: each has as many logits as there are labels."""
        return len(self)

    def measures(self, loss: float) -> Measures:
        if self.labels.is_floating_point():
            return {"squared_error": loss, "perplexity": None}
        return {"loss_nats": loss, "perplexity": None}

    @property
    def modality_names(self) -> tuple[str, ...]:
        return ()

    def by_modality(self, sums: Sequence[float]) -> dict[str, tuple[float, int]]:
        """Nothing by name: labels are of one kind."""
        return {}

    def summed_loss(self, logits: Tensor) -> Tensor:
        """Σ -log p(label), nats, of logits (b, classes); Σ (output - score)² of outputs (b, 1). In fp32, ()."""
        labels = self.labels.to(logits.device, non_blocking=True)
        if labels.is_floating_point():
            return nn.functional.mse_loss(logits.float().squeeze(1), labels, reduction="sum")
        return nn.functional.cross_entropy(logits.float(), labels, reduction="sum")

    @property
    def _lengths(self) -> Ids:
        return self.examples.offsets[self.numbers + 1] - self.examples.offsets[self.numbers]

    def rows(self, start: int, stop: int) -> LabelledBatch:
        return LabelledBatch(self.examples, self.numbers[start:stop], self.labels[start:stop])

    def longest_first(self) -> LabelledBatch:
        """The rows as they come: examples are short, and dropout is drawn by their order."""
        return self

    def fitted(self) -> LabelledBatch:
        """The rows themselves: they are padded to the longest of them as they are fed."""
        return self

    def inputs(self, model: nn.Module) -> dict[str, Tensor]:
        """What `model` takes, (b, s) each on its device, s the length of the longest example here.

        Rows are filled up at their end, whatever side generation pads on: so positions, the first token and the last
        one that is no padding stay where they are, however long the rows beside.
        """
        lengths, device = self._lengths, next(model.parameters()).device
        width, padding = int(lengths.max()), self.examples.padding
        columns = np.arange(width) + (lengths[:, None] - width if _reads_last_column(model) else 0)
        real = (columns >= 0) & (columns < lengths[:, None])  # (b, s)
        at = np.where(real, self.examples.offsets[self.numbers][:, None] + columns, 0)
        arrays = {
            "input_ids": np.where(real, self.examples.tokens[at], padding.token).astype(np.int64),
            "attention_mask": real.astype(np.int64),
        }
        if self.examples.segments is not None:
            arrays["token_type_ids"] = np.where(real, self.examples.segments[at], padding.segment).astype(np.int64)
        return {name: torch.from_numpy(array).to(device, non_blocking=True) for name, array in arrays.items()}


def _reads_last_column(model: nn.Module) -> bool:
    """Whether the class is told from the last column, padding or not, as by XLNet, whose positions are relative."""
    return getattr(getattr(model, "sequence_summary", None), "summary_type", None) == "last"


def batches(examples: Examples, size: int) -> Iterator[LabelledBatch]:
    """All of `examples`, the longest first: like lengths need little padding, and memory runs out at once or never."""
    longest_first = np.argsort(-np.diff(examples.offsets), kind="stable")
    for start in range(0, len(examples), size):
        yield examples.batch(longest_first[start : start + size])


def full_batch(ids: npt.NDArray[np.int64], labels: type[np.generic]) -> LabelledBatch:
    """Rows (b, s) of full length with label 0 each, of type `labels`: what needs the most memory."""
    offsets = np.arange(len(ids) + 1, dtype=np.int64) * ids.shape[1]
    examples = Examples(ids.ravel().astype(np.int32), None, offsets, np.zeros(len(ids), labels), Padding(0))
    return examples.batch(np.arange(len(ids)))
