"""Documents of a recipe's files, in a fixed order, with bad rows counted or refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from galore.trainer.common.errors import UserError
from galore.trainer.data.formats.bytestream import opened
from galore.trainer.data.formats.encodings import MISREAD, is_misread, transcoded
from galore.trainer.data.text.conversation import later_reading
from galore.trainer.data.text.hub import HubSplit
from galore.trainer.data.text.kinds import KINDS
from galore.trainer.data.text.locate import DataFile, find_files, passed_over, splits_among
from galore.trainer.data.text.packaged import packaged_file
from galore.trainer.data.text.quality import BadRow, BadRows, check
from galore.trainer.recipe.schema.data import UTF8, DataSection


class Document(NamedTuple):
    text: str
    where: str  # file and row, for messages
    consumed: int  # bytes of the corpus read so far, as stored on disk


@dataclass(frozen=True)
class Corpus:
    """Files and how to read them."""

    files: tuple[DataFile, ...]
    section: DataSection
    passed_over: tuple[str, ...] = ()  # names of files beside them that are not read
    splits: tuple[str, ...] = ()  # names of those that are read although one may mean the first alone

    @property
    def total_bytes(self) -> int:
        return sum(file.path.stat().st_size for file in self.files)

    def documents(self, bad: BadRows) -> Iterator[Document]:
        """Every good document, file after file; bad rows go to `bad`.

        Raises:
            UserError: a file that cannot be read, or a bad row that the policy refuses.
        """
        before = 0
        for file in self.files:
            for document in self._documents_of(file, bad):
                yield document._replace(consumed=before + document.consumed)
            before += file.path.stat().st_size

    def _documents_of(self, file: DataFile, bad: BadRows) -> Iterator[Document]:
        encoding, before = self.section.encoding, 0
        with opened(file.path) as stream:
            plain = stream if encoding == UTF8 else transcoded(stream, encoding)
            for number, content, consumed, element in KINDS[file.format].read(plain, self.section):
                where = f"{file.path}:{number}" + (f" (element {element})" if element else "")
                try:
                    text = accepted(content, self.section.max_document_bytes)
                except BadRow as row:
                    bad.add(row, where, str(file.path), consumed - before)
                else:
                    if encoding != UTF8 and is_misread(text, encoding):
                        bad.noted[MISREAD] += 1
                    if self.section.instruct and (reading := later_reading(text)):
                        bad.noted[reading] += 1
                    yield Document(text, where, consumed)
                before = consumed


def accepted(content: str | BadRow, max_bytes: int) -> str:
    """The text of a row. Raises BadRow."""
    if isinstance(content, BadRow):
        raise content
    return check(content, max_bytes)


def training_corpus(section: DataSection, base_dir: Path) -> Corpus:
    """The files of `data.source` packaged, local or hub, those of the hub downloaded. Raises UserError, RunFailed."""
    if section.source == "packaged":
        return Corpus((DataFile(packaged_file(), "verses"),), section)
    if section.source == "hub":
        return _downloaded(HubSplit.of(section, base_dir), section)
    return _local_corpus(section.path or [], section, base_dir, "data.path")


def validation_corpus(section: DataSection, base_dir: Path) -> Corpus | None:
    """The files of `data.validation_path` or `data.validation_split`; None where a share of documents is held out."""
    if section.source == "hub" and section.validation_split is not None:
        return _downloaded(HubSplit.of(section, base_dir, "validation_split"), section)
    if section.validation_path is None:
        return None
    return _local_corpus(section.validation_path, section, base_dir, "data.validation_path")


def _downloaded(split: HubSplit, section: DataSection) -> Corpus:
    return Corpus(tuple(DataFile(path, "arrow") for path in split.files()), section)


def _local_corpus(paths: str | list[str], section: DataSection, base_dir: Path, key: str) -> Corpus:
    files = find_files(paths, base_dir, section.format, key)
    if section.one_column is None and (
        text := next((file.path for file in files if not KINDS[file.format].columns), None)
    ):
        fix = (
            "name files of rows (jsonl, csv, parquet), or leave out the columns of section data to train on plain text"
        )
        raise UserError(f"{text} is plain text: it has no columns", where=key, fix=fix)
    other = next((file for file in files if not KINDS[file.format].encoded), None)
    if other is not None and section.encoding != UTF8:
        fix = "leave out data.encoding, or name txt, jsonl and csv files alone"
        raise UserError(f"{other.path} is {other.format}, whose text is UTF-8", where="data.encoding", fix=fix)
    splits = splits_among(paths, base_dir, files)
    return Corpus(files, section, tuple(passed_over(paths, base_dir, files)), tuple(splits))
