"""What a row of columns is to train on, as the recipe names its columns: a text, or a conversation."""

from __future__ import annotations

from typing import Any

from galore.trainer.data.text.conversation import conversation_of
from galore.trainer.data.text.quality import text_of_object
from galore.trainer.recipe.schema.data import DataSection


def text_of_row(row: Any, section: DataSection) -> str:
    """The text of one parsed row, or its conversation as JSON. Raises BadRow."""
    return conversation_of(row, section) if section.instruct else text_of_object(row, section.text_field)
