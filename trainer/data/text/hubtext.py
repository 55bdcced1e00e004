"""The texts of a streamed data set, each on its side of the split."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

from galore.trainer.data.batch import Progress
from galore.trainer.data.text.conversation import spoken
from galore.trainer.data.text.holdout import Holdout
from galore.trainer.data.text.hub import HubSplit, State
from galore.trainer.data.text.quality import BadRows
from galore.trainer.recipe.schema.data import DataSection

CHARS_PER_TOKEN = 6  # more than any usual tokenizer reaches, so that enough text is held out
SCANNED_DOCUMENTS = 100_000
TOKENIZER_TRAINING_CHARS = 1 << 25


@dataclass(frozen=True)
class HubText:
    """A split to train on, and a held-out part that is never trained on.

    Held out is the beginning of `data.validation_split`, or without one the share `data.validation_fraction` of all
    contents of `data.split`, of which those among its first 100,000 documents are scored.
    """

    section: DataSection
    train: HubSplit
    validation: HubSplit | None
    holdout: Holdout
    bad: BadRows

    @classmethod
    def of(cls, section: DataSection, base_dir: Path) -> HubText:
        """Raises UserError."""
        train = HubSplit.of(section, base_dir)
        named = section.validation_split is not None
        validation = HubSplit.of(section, base_dir, "validation_split") if named else None
        holdout = Holdout(None if validation else section.validation_fraction)
        return cls(section, train, validation, holdout, BadRows(section.on_bad_rows))

    def uncounted(self) -> HubText:
        """The texts for another reading, whose bad rows are not counted again."""
        return replace(self, bad=BadRows(self.section.on_bad_rows), holdout=copy(self.holdout))

    @property
    def holds_out(self) -> bool:
        return self.validation is not None or self.section.validation_fraction > 0

    def held_out(self, max_tokens: int | None, progress: Progress) -> list[str]:
        """Texts to evaluate on, enough for `max_tokens`; from now on `training` leaves them out."""
        texts, size = list[str](), 0
        limit = CHARS_PER_TOKEN * max_tokens if max_tokens is not None else None
        for text in self._candidates():
            self.holdout.reserve(text)
            texts.append(text)
            size += len(text)
            progress(size, 0, "reading the held-out text")
            if limit is not None and size >= limit:
                break
        return texts

    def hold_out(self, count: int) -> None:
        """Leave the first `count` texts of `data.validation_split` out of `training`, however many are evaluated on."""
        if self.validation is None or count == self.holdout.num_reserved:
            return
        self.holdout.release()
        for text, _ in itertools.islice(self.validation.texts(None, BadRows(self.section.on_bad_rows)), count):
            self.holdout.reserve(text)

    def _candidates(self) -> Iterator[str]:
        if self.validation is not None:
            yield from (text for text, _ in self.validation.texts(None, self.bad))
        elif self.holds_out:
            scanned = itertools.islice(self.train.texts(None, BadRows(self.section.on_bad_rows)), SCANNED_DOCUMENTS)
            yield from (text for text, _ in scanned if self.holdout.side(text) == "validation")

    def training(self, state: State | None) -> Iterator[tuple[str, State]]:
        """Texts to train on after `state`, each with the state after it."""
        for text, after in self.train.texts(state, self.bad):
            if self.holdout.side(text) == "train":
                yield text, after

    def tokenizer_sample(self, progress: Progress) -> Iterator[str]:
        """The first 32 MB to train on."""
        size = 0
        for text, _ in self.uncounted().training(None):
            yield spoken(text) if self.section.instruct else text
            size += len(text)
            progress(size, TOKENIZER_TRAINING_CHARS, "reading text to train the tokenizer")
            if size >= TOKENIZER_TRAINING_CHARS:
                return
