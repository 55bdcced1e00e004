"""The token stores of a recipe's files: found in the cache, or made in one pass over the documents."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from galore.trainer.common.durable import Written, write_file
from galore.trainer.common.reading import read_bounded
from galore.trainer.data.batch import Progress
from galore.trainer.data.text.holdout import Holdout
from galore.trainer.data.text.quality import BadRow, BadRows
from galore.trainer.data.tokens.cache import entry, fingerprint
from galore.trainer.data.tokens.chat import UNREAD, ChatEncoder
from galore.trainer.data.tokens.examplestore import ExampleStore, ExampleWriter
from galore.trainer.data.tokens.given import GivenTokens
from galore.trainer.data.tokens.learned import MARKS
from galore.trainer.data.tokens.material import Material
from galore.trainer.data.tokens.store import StoreWriter, TokenStore, token_type
from galore.trainer.data.tokens.tokenize import batches, encode, encoder
from galore.trainer.data.tokens.tokenizer import id_bound, packed_beginning, tokenizer_digest
from galore.trainer.recipe.schema.data import DataSection

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

STORE_FORMAT = 1
CHAT_FORMAT = 2
# what was kept of the first reading lacks messages in parts, of the second answers of added tokens, and has numbers
# beside rows that are not finite
READING_OF_ROWS = 3
# what was kept of columns before has JSON as text, nulls of other rows' keys, and no texts that are stored as bytes
READING_OF_COLUMNS = 5
SUMMARY_FILE = "summary.json"
MISFITS = "numbers that are no maps"  # what is noted of rows that were examples before


@dataclass(frozen=True)
class Tokenized:
    """Both sides of a split as tokens; of instruction data, stores of examples."""

    train: TokenStore
    validation: TokenStore
    fingerprint: str
    summary: dict[str, Any]
    folder: Path


def tokenized(
    material: Material,
    tokenizer: PreTrainedTokenizerBase,
    progress: Progress,
    tell: Callable[[str], object] = str,
    codes: Tensor | None = None,
) -> Tokenized:
    """The stores of these documents under this tokenizer. `tell` hears if what was kept of them is damaged.

    Args:
        codes: see `given.GivenTokens`.

    Raises:
        UserError: a file cannot be read, or a bad row is refused.
        RunFailed: the disk is full.
    """
    dtype = token_type(id_bound(tokenizer))
    identity = [
        STORE_FORMAT,
        material.identity,
        tokenizer_digest(tokenizer),
        *text_identity(material.section, tokenizer),
    ]
    name = fingerprint(identity)
    section = material.section
    columns = not {"arrow", "parquet"}.isdisjoint(material.identity["formats"])
    read_anew = section.instruct or section.extra_field is not None or (columns and section.one_column is None)
    reading = READING_OF_COLUMNS if columns else READING_OF_ROWS
    codes = codes if section.extra_field is not None else None
    checked = [] if codes is None else [{"codes": codes.nonzero().squeeze(1).tolist()}]
    folder = fingerprint([*identity, reading, *checked]) if read_anew else name
    kind = partial(ExampleStore, extra=section.extra_field is not None) if section.examples else TokenStore

    def load(folder: Path) -> Tokenized:
        train, validation = (kind(folder, side, dtype) for side in ("train", "validation"))
        if not (train.intact and validation.intact):
            raise ValueError("the files do not belong together")
        summary = json.loads(read_bounded(folder / SUMMARY_FILE))
        if any(f"{UNREAD}{mark}" in summary.get("noted", {}) for mark in MARKS):
            raise ValueError(f"messages with {' or '.join(MARKS)} are targets in it")
        return Tokenized(train, validation, name, summary, folder)

    def build(folder: Path) -> dict[str, Written]:
        writer = partial(_build_examples, codes=codes) if section.examples else _build
        return writer(folder, material, tokenizer, progress)

    return entry(material.cache / "tokens" / folder, build, load, progress, tell)


def _build(
    folder: Path, material: Material, tokenizer: PreTrainedTokenizerBase, progress: Progress
) -> dict[str, Written]:
    bad, holdout = BadRows(material.section.on_bad_rows), material.holdout()
    dtype, eos = token_type(id_bound(tokenizer)), int(tokenizer.eos_token_id)
    given = GivenTokens(tokenizer) if material.section.tokens_field else None
    beginning = () if given else packed_beginning(tokenizer, material.section)
    encoded = given.documents if given else partial(encode, encoder(tokenizer))
    total = material.total_bytes
    with (
        StoreWriter(folder, "train", dtype, eos, beginning) as train,
        StoreWriter(folder, "validation", dtype, eos, beginning) as validation,
    ):
        writers = {"train": train, "validation": validation}
        for batch in prefetched(batches(material.pieces(bad, holdout))):
            for piece, ids in zip(batch, encoded([piece.text for piece in batch]), strict=True):
                if isinstance(ids, BadRow):
                    bad.add(ids, piece.where)
                    continue
                writers[piece.side].extend(ids)
                if piece.last and not writers[piece.side].end_document():
                    bad.add(BadRow("empty", "the tokenizer finds no token in it"), piece.where)
            progress(batch[-1].consumed, total, "tokenizing")
    material.require_unchanged(progress)
    return _summarize(folder, writers, bad, holdout, {})


def _build_examples(
    folder: Path, material: Material, tokenizer: PreTrainedTokenizerBase, progress: Progress, codes: Tensor | None
) -> dict[str, Written]:
    bad, holdout = BadRows(material.section.on_bad_rows), material.holdout()
    dtype, total = token_type(id_bound(tokenizer)), material.total_bytes
    section = material.section
    given = GivenTokens(tokenizer, codes) if section.tokens_field else None
    chat = given or ChatEncoder(tokenizer, section.loss_on)
    how = (dtype, section.extra_field is not None)
    with ExampleWriter(folder, "train", *how) as train, ExampleWriter(folder, "validation", *how) as validation:
        writers = {"train": train, "validation": validation}
        for batch in prefetched(batches(material.pieces(bad, holdout))):
            examples = chat.encode([piece.text for piece in batch], [piece.where for piece in batch])
            for piece, example in zip(batch, examples, strict=True):
                if isinstance(example, BadRow):
                    bad.add(example, piece.where)
                else:
                    writers[piece.side].add(example)
                    bad.noted.update(example.notes)
            progress(batch[-1].consumed, total, "tokenizing")
    material.require_unchanged(progress)
    if given is not None and given.misfits:
        bad.noted[MISFITS] = given.misfits
    targets = {side: writer.num_targets for side, writer in writers.items()}
    return _summarize(folder, writers, bad, holdout, {"targets": targets})


def _summarize(
    folder: Path,
    writers: Mapping[str, StoreWriter | ExampleWriter],
    bad: BadRows,
    holdout: Holdout,
    more: dict[str, Any],
) -> dict[str, Written]:
    """Write what they came to beside the stores; size and hash of all files."""
    summary = {
        "documents": {side: writer.num_documents for side, writer in writers.items()},
        "tokens": {side: writer.num_tokens for side, writer in writers.items()},
        **more,
        "bad_rows": bad.summary,
        "noted": dict(bad.noted),
        "dropped_copies_of_held_out": holdout.num_dropped,
    }
    files = {name: written for writer in writers.values() for name, written in writer.written.items()}
    return files | {SUMMARY_FILE: write_file(folder / SUMMARY_FILE, [json.dumps(summary).encode()])}


def text_identity(section: DataSection, tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    """JSON: what decides, beside rows and tokenizer, which tokens a document or an example has, and its targets."""
    if section.tokens_field is not None:
        return []
    if not section.instruct:
        beginning = packed_beginning(tokenizer, section)
        return [{"beginning": beginning}] if beginning else []
    return [CHAT_FORMAT, section.loss_on, tokenizer.chat_template, tokenizer.special_tokens_map]


T = TypeVar("T")


def prefetched(items: Iterable[T]) -> Iterator[T]:
    """`items`, the next one being made while the last one is used. What making them raises is raised here."""
    iterator = iter(items)
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="galore-read") as pool:
        ahead = pool.submit(next, iterator, end)
        while (item := ahead.result()) is not end:
            ahead = pool.submit(next, iterator, end)
            yield item  # type: ignore[misc]  # not `end`, so a T
