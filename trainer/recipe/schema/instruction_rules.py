"""Which settings of instruction data contradict each other, and what to write instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from galore.trainer.recipe.schema.recipe import DataSection


def check_instruction(data: DataSection) -> None:
    """Raise ValueError for the first contradiction."""
    if (data.prompt_field is None) != (data.response_field is None):
        absent = "response_field" if data.response_field is None else "prompt_field"
        raise ValueError(f"prompt_field and response_field come together: set {absent} too")
    if data.messages_field is not None and data.prompt_field is not None:
        raise ValueError("messages_field holds whole conversations: leave out prompt_field and response_field, or it")
    if data.input_field is not None and data.prompt_field is None:
        raise ValueError("input_field is appended to the prompt: set prompt_field and response_field too")
    if data.instruct and (data.source == "packaged" or data.format == "txt"):
        kind = "source: packaged" if data.source == "packaged" else "format: txt"
        raise ValueError(f"{kind} has no columns: prompts and responses come from jsonl, parquet or the hub")
