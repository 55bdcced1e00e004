"""Rows of instruction data as conversations: a prompt with its response, or a list of messages.

A conversation travels as one line of JSON, so that whatever handles the text of a document handles it too: the split by
content, the limits, the blocks of a stream.
"""

from __future__ import annotations

import json
from typing import Any

from galore.trainer.data.quality import BadRow
from galore.trainer.data.rowfields import text_of_object, value_of
from galore.trainer.recipe.schema import DataSection

Message = dict[str, str]
"""{"role": "system", "user" or "assistant", "content": its words}, as chat templates take it."""

Conversation = list[Message]

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}


def conversation_of(row: Any, section: DataSection) -> str:
    """The conversation of one parsed row, as JSON. Raises BadRow."""
    if section.messages_field is not None:
        conversation = _of_messages(value_of(row, section.messages_field), section.messages_field)
    else:
        conversation = _of_columns(row, section)
    _require_trainable(conversation)
    return json.dumps([[message["role"], message["content"]] for message in conversation], ensure_ascii=False)


def read_conversation(text: str) -> Conversation:
    """What `conversation_of` wrote."""
    return [_message(role, content) for role, content in json.loads(text)]


def spoken(text: str) -> str:
    """All that is said in a conversation, without who says it: what a tokenizer is trained on."""
    return "\n".join(message["content"] for message in read_conversation(text))


def columns_of(section: DataSection) -> tuple[list[str], list[str]]:
    """The columns that a row must have, and those that it may have."""
    named = [section.messages_field] if section.messages_field else [section.prompt_field, section.response_field]
    required = [field for field in named if field is not None] if section.instruct else [section.text_field]
    return required, [section.input_field] if section.input_field else []


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _of_columns(row: Any, section: DataSection) -> Conversation:
    assert section.prompt_field is not None
    assert section.response_field is not None
    prompt, response = text_of_object(row, section.prompt_field), text_of_object(row, section.response_field)
    if section.input_field is not None and row.get(section.input_field) is not None:
        added = text_of_object(row, section.input_field)
        prompt = "\n\n".join(part for part in (prompt, added) if part.strip())
    return [_message("user", prompt), _message("assistant", response)]


def _of_messages(value: Any, field: str) -> Conversation:
    if not isinstance(value, list):
        raise BadRow("wrong_type", f"`{field}` is {type(value).__name__}, not a list of messages")
    return [_of_turn(turn, f"`{field}`[{index}]") for index, turn in enumerate(value)]


def _of_turn(turn: Any, place: str) -> Message:
    if not isinstance(turn, dict):
        raise BadRow("wrong_type", f"{place} is {type(turn).__name__}, not an object")
    role_key, content_key = ("from", "value") if turn.get("role") is None and "from" in turn else ("role", "content")
    role, content = turn.get(role_key), turn.get(content_key)
    if not isinstance(role, str) or role not in ROLES:
        raise BadRow("wrong_role", f"{place} has {role_key}: {role!r}; known are {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise BadRow(
            "missing_field" if content is None else "wrong_type", f"{place} has {content_key}: {type(content).__name__}"
        )
    return _message(ROLES[role], content)


def _require_trainable(conversation: Conversation) -> None:
    """Raise BadRow unless somebody asks, and every answer says something."""
    roles = [message["role"] for message in conversation]
    if "assistant" not in roles:
        raise BadRow("no_response", "nobody speaks as the assistant")
    if "user" not in roles[: roles.index("assistant")]:
        raise BadRow("wrong_role", "the assistant speaks before the user does")
    for message in conversation:
        if not message["content"].strip():
            assistant = message["role"] == "assistant"
            raise BadRow("no_response" if assistant else "empty", f"the {message['role']} says nothing")
        if "\x00" in message["content"]:
            raise BadRow("nul_bytes")
