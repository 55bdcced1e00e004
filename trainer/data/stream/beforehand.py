"""What is read of a stream before it is trained on: its held-out text, and a sample to train a tokenizer on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from galore.trainer.common.errors import UserError
from galore.trainer.common.lock import awaited
from galore.trainer.data.batch import Progress
from galore.trainer.data.rows.examplerows import rows_over
from galore.trainer.data.rows.packing import Rows
from galore.trainer.data.text.hubtext import HubText
from galore.trainer.data.text.quality import BadRow
from galore.trainer.data.tokens.cache import disk_space
from galore.trainer.data.tokens.chat import ChatEncoder
from galore.trainer.data.tokens.examplestore import ExampleStore, ExampleWriter
from galore.trainer.data.tokens.store import StoreWriter, TokenStore, token_type
from galore.trainer.data.tokens.tokenize import encode_documents, encoder
from galore.trainer.data.tokens.tokenizer import id_bound, packed_beginning
from galore.trainer.recipe.schema.data import DataSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HELD_OUT = "validation"  # how the files of the held-out text are called while they have names


@dataclass(frozen=True)
class StreamMaterial:
    """See `material.Material`, of which this is the stream's."""

    text: HubText
    held_out: list[str]
    cache: Path
    progress: Progress

    @classmethod
    def of(
        cls, section: DataSection, base_dir: Path, cache: Path, max_tokens: int | None, progress: Progress
    ) -> StreamMaterial:
        """Open it, and read what is held out, `max_tokens` at most. Raises UserError."""
        text = HubText.of(section, base_dir)
        text.train.require()
        return cls(text, text.held_out(max_tokens, progress), cache, progress)

    @property
    def section(self) -> DataSection:
        return self.text.section

    @cached_property
    def identity(self) -> list[str]:
        """JSON that names what a tokenizer is trained on: itself."""
        return list(self.text.tokenizer_sample(self.progress))

    def training_texts(self, progress: Progress) -> Iterator[str]:
        """What a tokenizer is trained on: the beginning of the stream."""
        return iter(self.identity)

    def held_out_rows(self, tokenizer: PreTrainedTokenizerBase) -> Rows:
        """What is held out as rows. Raises UserError: it does not fill one."""
        section = self.section
        rows = rows_over(_store(self.held_out, tokenizer, self.cache, self.text, self.progress), section, tokenizer)
        if self.text.holds_out and not len(rows):
            fix = "name another data.validation_split, or set it to null and data.validation_fraction above 0"
            raise UserError("the held-out text does not fill one sequence", where="data.validation_split", fix=fix)
        return rows


def _store(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, cache: Path, source: HubText, progress: Progress
) -> TokenStore:
    """The texts as tokens, in files that have no name any more and vanish with the process."""
    dtype = token_type(id_bound(tokenizer))
    with disk_space(cache), _passing_folder(cache, progress) as folder:
        if source.section.instruct:
            return _example_store(texts, tokenizer, folder, source)
        eos, beginning = int(tokenizer.eos_token_id), packed_beginning(tokenizer, source.section)
        with StoreWriter(folder, HELD_OUT, dtype, eos, beginning) as writer:
            for ids in encode_documents(encoder(tokenizer), texts):
                writer.extend(ids)
                writer.end_document()
        return TokenStore(folder, HELD_OUT, dtype)


@contextmanager
def _passing_folder(cache: Path, progress: Progress) -> Iterator[Path]:
    """A new folder in the cache, gone afterwards, as is any that a kill or a refusing disk left of another."""
    waiting = partial(progress, 0, 0, "waiting for another process that prepares its held-out text")
    with awaited(cache / "held-out.lock", waiting):
        for leftover in cache.glob(".held-out-*.tmp"):
            _take_down(leftover)
        folder = Path(tempfile.mkdtemp(prefix=".held-out-", suffix=".tmp", dir=cache))
        try:
            yield folder
        finally:
            _take_down(folder)


def _take_down(folder: Path) -> None:
    """Delete it as far as the disk allows. On NFS an open file stays, under another name, and must not be touched."""
    with suppress(OSError):
        for path in folder.glob(f"{HELD_OUT}.*"):
            path.unlink()
        folder.rmdir()


def _example_store(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, folder: Path, source: HubText
) -> ExampleStore:
    dtype, places = token_type(id_bound(tokenizer)), [f"held-out document {number + 1}" for number in range(len(texts))]
    with ExampleWriter(folder, HELD_OUT, dtype) as writer:
        examples = ChatEncoder(tokenizer, source.section.loss_on).encode(texts, places)
        for place, example in zip(places, examples, strict=True):
            if isinstance(example, BadRow):
                source.bad.add(example, place)
            else:
                writer.add(example)
                source.bad.noted.update(example.notes)
    return ExampleStore(folder, HELD_OUT, dtype)
