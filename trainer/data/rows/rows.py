"""From stored tokens to sequences: as the recipe packs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from galore.trainer.data.rows.examplerows import ExampleRows
from galore.trainer.data.rows.packing import Rows, rows_of
from galore.trainer.data.tokens.examplestore import ExampleStore
from galore.trainer.data.tokens.store import TokenStore
from galore.trainer.data.tokens.tokenizer import frame_of
from galore.trainer.recipe.schema.recipe import DataSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def rows_over(store: TokenStore, section: DataSection, tokenizer: PreTrainedTokenizerBase) -> Rows:
    """Sequences of `data.max_length` out of a store, as `data.packing` says. Raises UserError."""
    if isinstance(store, ExampleStore):
        return ExampleRows.of(store, section.max_length, int(tokenizer.pad_token_id), section.packing == "packed")
    frame = frame_of(tokenizer, section.max_length) if section.packing == "paper" else None
    return rows_of(store, section.max_length, frame)
