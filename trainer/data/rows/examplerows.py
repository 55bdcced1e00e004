"""Rows of a fixed length out of examples: several whole ones per row, or one, and padding after them.

Isolated examples of a row have positions of their own and do not see each other; padding is one more of them. The
others attend to those before them, as documents do in pre-training: attention is plainly causal and positions count
from the start of the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from galore.trainer.data.batch import IGNORED
from galore.trainer.data.rows.binpack import best_fit
from galore.trainer.data.rows.packing import Extras, Rows, padded, restarting, rows_of
from galore.trainer.data.tokens.examplestore import ExampleStore
from galore.trainer.data.tokens.given import map_places
from galore.trainer.data.tokens.store import Ids, TokenStore
from galore.trainer.data.tokens.tokenizer import frame_of
from galore.trainer.recipe.schema.data import DataSection

NO_NUMBERS = np.empty(0, np.float32)


@dataclass(frozen=True)
class ExampleRows:
    """See `packing.Rows`. An example longer than a row is cut at its end; one with no target left in it is dropped."""

    store: ExampleStore
    max_length: int
    pad: int
    kept: Ids  # (kept,) examples, row after row
    bounds: Ids  # (rows + 1,): row r holds kept[bounds[r]:bounds[r + 1]]
    truncated: int
    isolated: bool = False
    unmapped: frozenset[int] | None = None  # examples that are cut so that their maps fit no more; None: no maps at all

    @classmethod
    def of(
        cls,
        store: ExampleStore,
        max_length: int,
        pad: int,
        packed: bool,
        isolated: bool = False,
        codes: Tensor | None = None,
    ) -> ExampleRows:
        """`codes`, (V,) bool: which ids are codes, where the numbers beside examples are maps of their codes."""
        lengths = np.diff(store.offsets[:])
        long = np.flatnonzero(lengths > max_length)
        hopeless = [number for number in long if not _targets(store, int(number), max_length).any()]
        kept = np.setdiff1d(np.arange(len(lengths)), hopeless)
        sizes = np.minimum(lengths[kept], max_length)
        bins = best_fit(sizes, max_length) if packed else np.arange(len(kept))
        bounds = np.concatenate([[0], np.cumsum(np.bincount(bins))]).astype(np.int64)
        truncated = len(long) - len(hopeless)
        unmapped = None
        if codes is not None:
            cut = map(int, np.setdiff1d(long, hopeless))
            unmapped = frozenset(number for number in cut if _loses_map(store, number, max_length, codes))
        kept = kept[np.argsort(bins, kind="stable")]
        return cls(store, max_length, pad, kept, bounds, truncated, isolated, unmapped)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def read(self, numbers: Ids) -> tuple[Ids, Ids]:
        input_ids = np.full((len(numbers), self.max_length), self.pad, np.int64)
        labels = np.full_like(input_ids, IGNORED)
        for row, number in enumerate(numbers.tolist()):
            at = 0
            for example in self._examples(number):
                start, _ = self.store.span(example)
                length = self._length(example)
                ids = self.store.tokens[start : start + length].astype(np.int64)
                here = slice(at, at + length)
                input_ids[row, here] = ids
                labels[row, here] = np.where(_targets(self.store, example, length), ids, IGNORED)
                at += length
        return input_ids, labels

    def positions(self, numbers: Ids) -> Ids | None:
        if not self.isolated:
            return None
        ends = (np.cumsum([self._length(each) for each in self._examples(number)]) for number in numbers.tolist())
        return restarting(self.max_length, [row[row < self.max_length] for row in ends])

    def extras(self, numbers: Ids) -> Extras | None:
        if self.store.extra is None:
            return None
        # of rows with one example each, as data.extra_field asks for
        found = [self._extra(self._examples(number)[0]) for number in numbers.tolist()]
        return padded(found) if any(len(each) for each in found) else None

    def _extra(self, example: int) -> Extras:
        return NO_NUMBERS if self.unmapped and example in self.unmapped else self.store.extra_of(example)

    def _examples(self, row: int) -> list[int]:
        examples: list[int] = self.kept[self.bounds[row] : self.bounds[row + 1]].tolist()
        return examples

    def _length(self, example: int) -> int:
        start, stop = self.store.span(example)
        return min(stop - start, self.max_length)

    @property
    def used(self) -> int:
        return int(np.minimum(np.diff(self.store.offsets[:])[self.kept], self.max_length).sum())

    def lengths(self) -> Iterator[Ids]:
        return self.store.lengths()

    @property
    def summary(self) -> dict[str, Any]:
        lengths, used = np.diff(self.store.offsets[:]), self.used
        return {
            "sequences": len(self),
            "examples": len(self.kept),
            "truncated_examples": self.truncated,
            "dropped_examples": len(lengths) - len(self.kept),
            "dropped_tokens": int(lengths.sum()) - used,
            "padding_tokens": len(self) * self.max_length - used,
            **({} if self.unmapped is None else {"cut_maps": len(self.unmapped)}),
        }


def _targets(store: ExampleStore, number: int, length: int) -> Any:
    """Which of the first `length` tokens of an example are targets, (at most length,)."""
    start, stop = store.span(number)
    return store.targets[start : min(stop, start + length)] != 0


def _loses_map(store: ExampleStore, number: int, length: int, codes: Tensor) -> bool:
    """Whether an example has maps, and its first `length` tokens not all codes that they are of, or no target after
    these."""
    start, stop = store.span(number)
    ids = torch.from_numpy(store.tokens[start:stop].astype(np.int64))
    targets = torch.from_numpy(_targets(store, number, stop - start))
    whole, _ = map_places(ids, targets, codes)
    left, queries = map_places(ids[:length], targets[:length], codes)
    return bool(len(store.extra_of(number))) and (len(left) < len(whole) or not len(queries))


def rows_over(
    store: TokenStore, section: DataSection, tokenizer: PreTrainedTokenizerBase, codes: Tensor | None = None
) -> Rows:
    """Sequences of `data.max_length` out of a store, as `data.packing` says. Raises UserError.

    Args:
        codes: see `ExampleRows.of`.
    """
    if isinstance(store, ExampleStore):
        pad, packed = int(tokenizer.pad_token_id), section.packing == "packed"
        codes = codes if section.extra_field is not None else None
        return ExampleRows.of(store, section.max_length, pad, packed, section.isolates, codes)
    frame = frame_of(tokenizer, section.max_length) if section.packing == "paper" else None
    return rows_of(store, section.max_length, frame, section.isolates)
