"""What a recipe's training data come to: lengths of documents, what is cut off, rows and tokens of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from galore.trainer.common.errors import UserError
from galore.trainer.data.batch import Progress, silent
from galore.trainer.data.prepare import read_data
from galore.trainer.data.rows.mixture import ENDLESS
from galore.trainer.data.tokens.store import Ids
from galore.trainer.recipe.schema.recipe import Recipe

COUNTED = 1 << 16  # lengths from here on are counted together


class Surveyed(Protocol):
    """What the rows of every kind know of themselves."""

    def __len__(self) -> int: ...

    @property
    def used(self) -> int:
        """Tokens in all rows, padding apart."""

    def lengths(self) -> Iterator[Ids]:
        """Tokens of the documents or examples, before any is cut, a block of them at a time."""


@dataclass(frozen=True)
class Lengths:
    """How long the documents of one side are, in tokens, those of the tokenizer's own included."""

    counts: Ids  # (COUNTED + 1,): documents of each length, the last those of COUNTED and more
    total: int
    longest: int

    @classmethod
    def of(cls, blocks: Iterator[Ids]) -> Lengths:
        counts, total, longest = np.zeros(COUNTED + 1, np.int64), 0, 0
        for block in blocks:
            counts += np.bincount(np.minimum(block, COUNTED), minlength=COUNTED + 1)
            total, longest = total + int(block.sum()), max(longest, int(block.max(initial=0)))
        return cls(counts, total, longest)

    def quantile(self, share: float) -> int:
        """The shortest length that `share` of the documents do not exceed; COUNTED at most."""
        return int(np.searchsorted(np.cumsum(self.counts), share * self.counts.sum()))

    def longer_than(self, length: int) -> int:
        """How many documents are; of lengths up to COUNTED."""
        return int(self.counts[length + 1 :].sum())

    def histogram(self, max_length: int) -> list[tuple[int, int, int]]:
        """(from, to, documents): powers of two, and `max_length`, are where one class ends and the next begins."""
        edges = sorted({*(1 << power for power in range(17)), *([max_length + 1] if max_length < COUNTED else [])})
        classes = [(low, high - 1, int(self.counts[low:high].sum())) for low, high in pairwise(edges)]
        classes.append((COUNTED, max(self.longest, COUNTED), int(self.counts[COUNTED:].sum())))
        filled = [number for number, (*_, documents) in enumerate(classes) if documents]
        return classes[filled[0] : filled[-1] + 1] if filled else []


@dataclass(frozen=True)
class Survey:
    """`summary`: that of the data; `folders`: where the tokens of each source lie, empty where none are kept; `made`:
    whether this call made them; `whole`: how many documents or examples are to stay in one row; `cut_examples`: those
    of them that lose their end, or all of themselves, to `max_length`."""

    summary: dict[str, Any]
    notes: tuple[str, ...]
    lengths: Lengths
    max_length: int
    rows: int
    used: int
    positions: int
    whole: int
    cut_examples: int
    cut_tokens: int | None
    folders: tuple[Path, ...]
    made: bool

    @property
    def cache(self) -> Path | None:
        """The folder that holds the tokens, of several sources those of all; None where none are kept."""
        return self.folders[0].parent if len(self.folders) > 1 else next(iter(self.folders), None)

    @property
    def efficiency(self) -> float:
        """The share of the positions of an epoch that hold a token."""
        return self.used / max(self.positions, 1)

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON."""
        lengths = self.lengths
        return {
            "data": self.summary,
            "notes": list(self.notes),
            "rows_per_epoch": self.rows,
            "tokens_per_epoch": self.used,
            "packing_efficiency": self.efficiency,
            "max_length": self.max_length,
            "cut_documents": self.cut_examples,
            "cut_tokens": self.cut_tokens,
            "lengths": {
                "mean": lengths.total / max(int(lengths.counts.sum()), 1),
                "median": lengths.quantile(0.5),
                "p95": lengths.quantile(0.95),
                "longest": lengths.longest,
                "histogram": [
                    {"from": low, "to": high, "documents": documents}
                    for low, high, documents in lengths.histogram(self.max_length)
                ],
            },
            "cache": None if self.cache is None else str(self.cache),
            "made": self.made,
        }


def survey(recipe: Recipe, base_dir: Path, progress: Progress = silent) -> Survey:
    """Prepare the data of a recipe as a run does, so that the run finds them, and measure what they come to.

    Raises:
        UserError: streams alone, of which nothing can be prepared; or what `read_data` raises.
    """
    section, seen = recipe.data, set[str]()
    if all(map(recipe.streams, section.parts)):
        what = "data of the hub are streamed and tokenized while a run goes on: there is nothing to prepare"
        raise UserError(
            what,
            where=f"data.{'source: hub' if section.sources is None else 'sources'}",
            fix="data.streaming: false reads all of it before the first step",
        )

    def report(done_bytes: int, total_bytes: int, what: str) -> None:
        seen.add(what)
        progress(done_bytes, total_bytes, what)

    data: Any = read_data(recipe, base_dir, report)
    train: Surveyed = data.train  # of a stream among the sources nothing is in it but its endless rows
    lengths, summary = Lengths.of(train.lengths()), data.summary
    rows = sum(len(each.train) for each in _sources(data) if len(each.train) < ENDLESS)
    whole, cut = (sum(counts) for counts in zip(*_fates(recipe, data), strict=True))
    return Survey(
        summary,
        (*data.notes, *_streamed(recipe)),
        lengths,
        section.max_length,
        rows=rows,
        used=train.used,
        positions=train.used if section.task else rows * section.max_length,
        whole=whole,
        cut_examples=cut,
        cut_tokens=None if section.task else int(summary["train"]["dropped_tokens"]),
        folders=tuple(each.cache for each in _sources(data) if getattr(each, "cache", None) is not None),
        made="tokenizing" in seen,
    )


def _fates(recipe: Recipe, data: Any) -> Iterator[tuple[int, int]]:
    """How many documents or examples of each source are to stay whole, and how many of these do not.

    Packed text has none of either: a document goes on in the next row.
    """
    if recipe.data.task:
        yield len(data.train), int(data.summary["truncated_examples"]["train"])
        return
    for section, source in zip(recipe.data.parts, _sources(data), strict=True):
        if recipe.streams(section):
            continue
        rows: dict[str, int] = source.train.summary
        if section.examples:
            dropped = rows["dropped_examples"]
            yield rows["examples"] + dropped, rows["truncated_examples"] + dropped
        elif section.packing == "paper":
            yield len(source.train), Lengths.of(source.train.lengths()).longer_than(section.max_length)
        else:
            yield 0, 0


def _streamed(recipe: Recipe) -> Iterator[str]:
    """A note for each source of which nothing is prepared."""
    for section, label in zip(recipe.data.parts, recipe.data.labels, strict=True):
        if recipe.streams(section):
            yield f"{label} is streamed and tokenized while a run goes on: nothing of it is prepared or counted here"


def _sources(data: Any) -> list[Any]:
    """The data of each source; the whole where there is one."""
    return list(getattr(data, "sources", {"": data}).values())
