"""Training data that is tokenized as it arrives from the hub.

What resume can promise: with the data set unchanged, the rows after a resume are exactly those of a run that was never
stopped. The position holds the shard and row where the current block of documents began (as the `datasets` library
writes them), the document within the block and the token within the document; the block is read and permuted again.
What it cannot: a step cannot be computed without those before it, a data set that changes on the hub is not noticed,
and the shuffle reaches no further than `data.shuffle_buffer_size` documents.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from galore.trainer.common.errors import UserError
from galore.trainer.common.lock import awaited
from galore.trainer.data.batch import Progress
from galore.trainer.data.rows.examplerows import rows_over
from galore.trainer.data.rows.mapped import require_same_data
from galore.trainer.data.rows.modality import Modalities
from galore.trainer.data.rows.packing import Rows
from galore.trainer.data.rows.textdata import TextData
from galore.trainer.data.rows.tokenbatch import TokenBatch, count_targets
from galore.trainer.data.stream.blocks import Blocks
from galore.trainer.data.stream.examplestream import ExampleStream
from galore.trainer.data.stream.rowstream import Position, RowStream
from galore.trainer.data.text.conversation import identity_of
from galore.trainer.data.text.hubtext import HubText
from galore.trainer.data.text.quality import BadRow
from galore.trainer.data.tokens.cache import disk_space, fingerprint
from galore.trainer.data.tokens.chat import ChatEncoder
from galore.trainer.data.tokens.examplestore import ExampleStore, ExampleWriter
from galore.trainer.data.tokens.extend import extend
from galore.trainer.data.tokens.store import StoreWriter, TokenStore, token_type
from galore.trainer.data.tokens.tokenize import encode_documents, encoder
from galore.trainer.data.tokens.tokenized import text_identity
from galore.trainer.data.tokens.tokenizer import (
    frame_of,
    given_tokenizer,
    id_bound,
    packed_beginning,
    tokenizer_digest,
    trained_tokenizer,
)
from galore.trainer.recipe.schema.data import DataSection
from galore.trainer.recipe.schema.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COUNTED_ROWS = 4096
HELD_OUT = "validation"  # how the files of the held-out text are called while they have names

Opened = RowStream | ExampleStream


@dataclass
class StreamedData(TextData):
    """See `batch.Data`."""

    tokenizer: PreTrainedTokenizerBase
    vocab_size: int
    text: HubText
    validation: Rows
    max_length: int
    global_batch_size: int
    open_rows: Callable[[HubText], Opened]  # from the beginning
    facts: dict[str, Any]
    notes: tuple[str, ...] = ()
    modalities: Modalities | None = None
    num_sequences: None = None
    _step: int = 0
    _last: TokenBatch | None = None
    _rows: Opened = field(init=False)

    def __post_init__(self) -> None:
        self._rows = self.open_rows(self.text)

    @property
    def summary(self) -> dict[str, Any]:
        bad, copies = self.text.bad, self.text.holdout.num_dropped
        counts = {"bad_rows": bad.summary, "noted": dict(bad.noted), "dropped_copies_of_held_out": copies}
        return {**self.facts, **counts}  # of what was read so far

    def global_batch(self, step: int) -> TokenBatch:
        """Raises ValueError unless `step` is the next one, or the last one again."""
        if step == self._step - 1 and self._last is not None:
            return self._last
        if step != self._step:
            raise ValueError(f"step {step} of a stream that stands before step {self._step}")
        first = self._rows.position.row
        rows = [self._rows.next_row() for _ in range(self.global_batch_size)]
        input_ids, labels = np.stack([row.input_ids for row in rows]), np.stack([row.labels for row in rows])
        own = [row.positions for row in rows if row.positions is not None]
        positions = np.stack(own) if own else None
        self._last = TokenBatch.of(input_ids, labels, range(first, first + len(rows)), positions, self.modalities)
        self._step += 1
        return self._last

    def token_counts(self) -> npt.NDArray[np.int64]:
        rows, counts = self.open_rows(self.text.uncounted()), np.zeros(self.vocab_size, np.int64)
        for _ in range(COUNTED_ROWS):
            counts += count_targets(rows.next_row()[1][None], self.vocab_size)
        return counts

    def position(self) -> dict[str, Any]:
        return {"fingerprint": self.facts["fingerprint"], "step": self._step, "at": self._rows.position.to_json()}

    def seek(self, position: dict[str, Any], step: int) -> None:
        require_same_data(position, self.facts)
        if position["step"] != step:
            raise UserError(f"the data stand before step {position['step']}, the checkpoint before {step}")
        self._step, self._last = step, None
        self._rows.seek(Position.from_json(position["at"]))


def open_stream(recipe: Recipe, base_dir: Path, cache: Path, progress: Progress) -> StreamedData:
    """Training data of `data.source: hub`. Raises UserError."""
    section, notes = recipe.data, list[str]()
    text = HubText.of(section, base_dir)
    given = given_tokenizer(recipe, base_dir)
    held_out = text.held_out(recipe.eval.max_tokens, progress)
    tokenizer = given or _trained(list(text.tokenizer_sample(progress)), section, cache, progress, notes.append)
    added = extend(tokenizer, recipe, base_dir, notes.append)
    validation = rows_over(_store(held_out, tokenizer, cache, text, progress), section, tokenizer)
    if text.holds_out and not len(validation):
        fix = "name another data.validation_split, or set it to null and data.validation_fraction above 0"
        raise UserError("the held-out text does not fill one sequence", where="data.validation_split", fix=fix)
    open_rows = _opener(section, tokenizer, recipe.train.seed)
    return StreamedData(
        tokenizer,
        id_bound(tokenizer),
        text,
        validation,
        section.max_length,
        recipe.train.global_batch_size,
        open_rows,
        _facts(recipe, text, tokenizer, held_out, validation) | ({"new_tokens": added} if added else {}),
        tuple(notes),
        Modalities.of(recipe, tokenizer, id_bound(tokenizer)),
    )


def _opener(section: DataSection, tokenizer: PreTrainedTokenizerBase, seed: int) -> Callable[[HubText], Opened]:
    """What opens the rows of a text from its beginning."""
    frame = frame_of(tokenizer, section.max_length) if section.packing == "paper" and not section.instruct else None
    backend, eos, pad = encoder(tokenizer), int(tokenizer.eos_token_id), int(tokenizer.pad_token_id)
    beginning, length, isolated = packed_beginning(tokenizer, section), section.max_length, section.isolates

    def open_rows(text: HubText) -> Opened:
        blocks = Blocks(text.training, section.shuffle_buffer_size, seed, section.shuffle)
        if not section.instruct:
            return RowStream(blocks, backend, eos, length, frame, beginning, isolated)
        chat, packed = ChatEncoder(tokenizer, section.loss_on), section.packing == "packed"
        return ExampleStream(blocks, chat, text.bad, max_length=length, pad=pad, packed=packed, isolated=isolated)

    return open_rows


def _trained(
    sample: list[str], section: DataSection, cache: Path, progress: Progress, tell: Callable[[str], object]
) -> PreTrainedTokenizerBase:
    size = section.tokenizer_vocab_size
    folder = cache / "tokenizers" / fingerprint([sample, size])
    return trained_tokenizer(sample, size, folder, progress, tell)


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


def _facts(
    recipe: Recipe, text: HubText, tokenizer: PreTrainedTokenizerBase, held_out: list[str], validation: Rows
) -> dict[str, Any]:
    section, train = recipe.data, recipe.train
    names = [
        "source",
        "path",
        "hub_config",
        "split",
        "validation_split",
        "validation_fraction",
        "text_field",
        "packing",
    ]
    names += ["max_length", "shuffle", "shuffle_buffer_size", "max_document_bytes", "on_bad_rows"]
    options = [getattr(section, name) for name in names]
    options += [identity_of(section)] if section.instruct else []
    options += text_identity(section, tokenizer)
    return {
        "source": f"{section.source}: {section.path}, split {section.split}",
        "fingerprint": fingerprint([options, tokenizer_digest(tokenizer), train.seed, train.global_batch_size]),
        "documents": {"validation": len(held_out)},
        "validation": validation.summary,
        "vocab_size": id_bound(tokenizer),
    }
