"""Training data that is tokenized as it arrives from the hub.

What resume can promise: with the data set unchanged, the rows after a resume are exactly those of a run that was never
stopped. The position holds the shard and row where the current block of documents began (as the `datasets` library
writes them), the document within the block and the token within the document; the block is read and permuted again.
What it cannot: a step cannot be computed without those before it, a data set that changes on the hub is not noticed,
and the shuffle reaches no further than `data.shuffle_buffer_size` documents.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from galore.trainer.common.errors import UserError
from galore.trainer.data.rows.mapped import Order, require_same_data
from galore.trainer.data.rows.modality import Modalities
from galore.trainer.data.rows.packing import Rows
from galore.trainer.data.rows.textdata import TextData, batch_of
from galore.trainer.data.rows.tokenbatch import TokenBatch, count_targets
from galore.trainer.data.stream.beforehand import StreamMaterial
from galore.trainer.data.stream.blocks import Blocks
from galore.trainer.data.stream.examplestream import ExampleStream
from galore.trainer.data.stream.rowstream import Opened, Position, RowStream, StreamRows
from galore.trainer.data.text.conversation import identity_of
from galore.trainer.data.text.hubtext import HubText
from galore.trainer.data.tokens.cache import fingerprint
from galore.trainer.data.tokens.chat import ChatEncoder
from galore.trainer.data.tokens.tokenize import encoder
from galore.trainer.data.tokens.tokenized import text_identity
from galore.trainer.data.tokens.tokenizer import frame_of, id_bound, packed_beginning, tokenizer_digest
from galore.trainer.recipe.schema.data import DataSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COUNTED_ROWS = 4096

Told = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class StreamedData(TextData):
    """See `batch.Data`, and `mixed.Source`."""

    tokenizer: PreTrainedTokenizerBase
    vocab_size: int
    text: HubText
    validation: Rows
    max_length: int
    order: Order
    open_rows: Callable[[HubText], Opened]  # from the beginning
    facts: dict[str, Any]
    notes: tuple[str, ...] = ()
    told: Told = nullcontext  # see `rowstream.StreamRows`
    modalities: Modalities | None = None
    num_sequences: None = None
    train: StreamRows = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "train", StreamRows(self.open_rows(self.text), self.told))

    @property
    def summary(self) -> dict[str, Any]:
        """What is known of it as far as it was read."""
        bad, copies = self.text.bad, self.text.holdout.num_dropped
        counts = {"bad_rows": bad.summary, "noted": dict(bad.noted), "dropped_copies_of_held_out": copies}
        return {**self.facts, **counts, "rows_read": self.train.position.row}

    def global_batch(self, step: int) -> TokenBatch:
        """Raises ValueError unless `step` is the next one, or the last one again."""
        first, size = step * self.order.global_batch_size, self.order.global_batch_size
        return batch_of(self.train, np.arange(first, first + size), self.vocab_size, self.modalities)

    @property
    def counted_rows(self) -> int:
        """How many rows `token_counts` is of."""
        return COUNTED_ROWS

    def token_counts(self) -> npt.NDArray[np.int64]:
        rows, counts = self.open_rows(self.text.uncounted()), np.zeros(self.vocab_size, np.int64)
        with self.told():
            for _ in range(COUNTED_ROWS):
                counts += count_targets(rows.next_row()[1][None], self.vocab_size)
        return counts

    def position(self) -> dict[str, Any]:
        step = self.train.position.row // self.order.global_batch_size
        return {"fingerprint": self.facts["fingerprint"], "step": step, "at": self.place()}

    def seek(self, position: dict[str, Any], step: int) -> None:
        require_same_data(position, self.facts)
        self.go_to(position["at"], step * self.order.global_batch_size)

    def place(self) -> dict[str, Any]:
        """JSON: where the next row begins, and how many held-out texts the rows until there have left out."""
        return self.train.position.to_json() | {"held_out": self.text.holdout.num_reserved}

    def go_to(self, place: dict[str, Any], row: int) -> None:
        """Go to `place`, so that the next row is `row`."""
        if place["row"] != row:
            raise UserError(f"the data stand before row {place['row']:,}, the checkpoint before row {row:,}")
        # `eval.max_tokens` may be another one by now, and a copy of a held-out text is no document of a block
        self.text.hold_out(place.get("held_out", self.text.holdout.num_reserved))
        self.train.seek(Position.from_json(place))


def stream_data(
    material: StreamMaterial,
    tokenizer: PreTrainedTokenizerBase,
    order: Order,
    told: Told = nullcontext,
    modalities: Modalities | None = None,
) -> StreamedData:
    """Training data out of a data set of the hub. Raises UserError."""
    validation, section = material.held_out_rows(tokenizer), material.section
    return StreamedData(
        tokenizer,
        id_bound(tokenizer),
        material.text,
        validation,
        section.max_length,
        order,
        _opener(section, tokenizer, order.seed),
        _facts(material, tokenizer, validation, order),
        told=told,
        modalities=modalities,
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


def _facts(
    material: StreamMaterial, tokenizer: PreTrainedTokenizerBase, validation: Rows, order: Order
) -> dict[str, Any]:
    section = material.section
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
        "source": section.origin,
        "fingerprint": fingerprint([options, tokenizer_digest(tokenizer), order.seed, order.global_batch_size]),
        "documents": {"validation": len(material.held_out)},
        "tokens": {"validation": validation.used},
        "validation": validation.summary,
        "vocab_size": id_bound(tokenizer),
    }
