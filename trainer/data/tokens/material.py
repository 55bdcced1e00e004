"""The documents of a recipe's files, each on its side of the split."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from galore.trainer.common.errors import UserError
from galore.trainer.data.batch import Progress
from galore.trainer.data.text.conversation import identity_of, names_of, spoken
from galore.trainer.data.text.holdout import Holdout, content_hash
from galore.trainer.data.text.quality import BadRows
from galore.trainer.data.text.sources import Corpus, Document, training_corpus, validation_corpus
from galore.trainer.data.tokens.cache import file_digests
from galore.trainer.data.tokens.tokenize import Piece, pieces
from galore.trainer.recipe.schema.data import UTF8, DataSection

TOKENIZER_TRAINING_BYTES = 1 << 26
SAMPLE_BITS = 20  # the low ones of the content hash; the split goes by the high ones


@dataclass(frozen=True)
class Material:
    """Files to train on, and files to hold out if the recipe names some."""

    section: DataSection
    train: Corpus
    validation: Corpus | None
    digests: tuple[str, ...]  # of all files, those held out first
    cache: Path

    @classmethod
    def of(cls, section: DataSection, base_dir: Path, cache: Path, progress: Progress) -> Material:
        """Find and fingerprint the files. Raises UserError."""
        train, validation = training_corpus(section, base_dir), validation_corpus(section, base_dir)
        paths = [file.path for corpus in (validation, train) if corpus for file in corpus.files]
        return cls(section, train, validation, tuple(file_digests(paths, cache, progress)), cache)

    @property
    def identity(self) -> dict[str, Any]:
        """JSON that is the same if and only if the documents and their split are."""
        section = self.section
        return {
            "files": self.digests,
            "formats": [file.format for corpus in self._corpora for file in corpus.files],
            "held_out": len(self.validation.files) if self.validation else section.validation_fraction,
            "text_field": section.text_field,
            "txt_document": section.txt_document,
            "max_document_bytes": section.max_document_bytes,
            "on_bad_rows": section.on_bad_rows,
            **({} if section.encoding == UTF8 else {"encoding": section.encoding}),
            **({"delimiter": section.delimiter} if section.delimiter else {}),
            **(
                {
                    "tokens": [
                        section.tokens_field,
                        section.labels_field,
                        section.examples,
                        *names_of(section.extra_field),
                    ]
                }
                if section.tokens_field
                else {}
            ),
            **({"conversations": identity_of(section)} if section.instruct else {}),
        }

    @property
    def _corpora(self) -> list[Corpus]:
        return [corpus for corpus in (self.validation, self.train) if corpus]

    @property
    def passed_over(self) -> list[str]:
        """Names of files that lie beside those that are read."""
        return sorted({name for corpus in self._corpora for name in corpus.passed_over})

    @property
    def extent(self) -> dict[str, Any]:
        """JSON: files, bytes, splits that are read together; how many files are cut into paragraphs unasked."""
        files = [file for corpus in self._corpora for file in corpus.files]
        told = "txt_document" in self.section.model_fields_set or any(file.format != "txt" for file in files)
        splits = {"splits": list(self.train.splits)} if self.train.splits else {}
        paragraphs = {} if told else {"files_of_paragraphs": len(files)}
        return {"files": len(files), "bytes": self.total_bytes, **splits, **paragraphs}

    @property
    def total_bytes(self) -> int:
        return sum(corpus.total_bytes for corpus in self._corpora)

    def holdout(self) -> Holdout:
        return Holdout(None if self.validation else self.section.validation_fraction)

    def documents(self, bad: BadRows, holdout: Holdout) -> Iterator[tuple[str, Document]]:
        """(side, document): those of held-out files first, so that their contents are known when training ones come."""
        before = 0
        if self.validation:
            before = self.validation.total_bytes
            for document in self.validation.documents(bad):
                holdout.reserve(document.text)
                yield "validation", document
        for document in self.train.documents(bad):
            side = holdout.side(document.text)
            if side is not None:
                yield side, document._replace(consumed=before + document.consumed)

    def pieces(self, bad: BadRows, holdout: Holdout) -> Iterator[Piece]:
        """Documents in parts that are tokenized one by one; conversations in one."""
        for side, document in self.documents(bad, holdout):
            # a template wants all of a conversation, and tokens are in one piece
            whole = self.section.instruct or self.section.tokens_field is not None
            for part, last in [(document.text, True)] if whole else pieces(document.text):
                yield Piece(part, side, last, document.where, document.consumed)

    def training_texts(self, progress: Progress) -> Iterator[str]:
        """What a tokenizer is trained on: the training side, or of a large corpus a share of it, chosen by content."""
        total = self.total_bytes
        share = int(min(1.0, TOKENIZER_TRAINING_BYTES / max(total, 1)) * 2**SAMPLE_BITS)
        for side, document in self.documents(BadRows(self.section.on_bad_rows), self.holdout()):
            progress(document.consumed, total, "training the tokenizer")
            if side == "train":
                text = spoken(document.text) if self.section.instruct else document.text
                yield from (part for part, _ in pieces(text) if content_hash(part) % 2**SAMPLE_BITS < share)

    def require_unchanged(self, progress: Progress) -> None:
        """Raises UserError if a file is no longer what was fingerprinted."""
        paths = [file.path for corpus in self._corpora for file in corpus.files]
        for path, before, now in zip(paths, self.digests, file_digests(paths, self.cache, progress), strict=True):
            if before != now:
                raise UserError(
                    "changed while it was being read", where=str(path), fix="start again once it is written"
                )


class TokenizedText(Protocol):
    """What a tokenizer is trained on. Kinds: `Material`, `beforehand.StreamMaterial`."""

    @property
    def identity(self) -> Any:
        """JSON that is the same if and only if the texts are."""

    def training_texts(self, progress: Progress) -> Iterator[str]: ...


@dataclass(frozen=True)
class Materials:
    """The sources of a recipe, as far as their tokenizer goes."""

    parts: tuple[TokenizedText, ...]

    @property
    def identity(self) -> Any:
        """JSON that names them; of a single one its own."""
        return self.parts[0].identity if len(self.parts) == 1 else [part.identity for part in self.parts]

    def training_texts(self, progress: Progress) -> Iterator[str]:
        """What a tokenizer is trained on, source after source; weights do not count here."""
        return itertools.chain.from_iterable(part.training_texts(progress) for part in self.parts)
