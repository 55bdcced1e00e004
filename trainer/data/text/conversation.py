"""Rows of instruction data as conversations: a prompt with its response, or a list of messages.

What a message holds beside its words (`reasoning_content`, `tool_calls`, `name` and whatever else) stays with it, and
so do the `tools` of a row: the chat template decides what of it is written. A conversation travels as one line of JSON,
so that whatever handles the text of a document handles it too: the split by content, the limits, the blocks of a
stream.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from galore.trainer.data.text.quality import BadRow, text_of_object, value_of
from galore.trainer.recipe.schema.data import DataSection

Message = dict[str, Any]
"""{"role": a value of `ROLES`, "content": its words} and what else the row has for it, as chat templates take it."""

ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
TOOLS = "tools"  # the column beside the messages; OpenAI, ShareGPT and transformers agree on the name

EMPTY: tuple[Any, ...] = (None, "", [], {})  # columns of parquet files fill keys that a message does not have


class Conversation(NamedTuple):
    """Messages, and the tools that the assistant may call, as JSON schemas."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None


def conversation_of(row: Any, section: DataSection) -> str:
    """The conversation of one parsed row, as JSON. Raises BadRow."""
    tools = None
    if section.messages_field is not None:
        messages = _of_messages(value_of(row, section.messages_field), section.messages_field)
        tools = _tools(row.get(TOOLS))
    else:
        messages = _of_columns(row, section)
    _require_trainable(messages)
    turns = [_as_turn(message) for message in messages]
    return json.dumps({TOOLS: tools, "messages": turns} if tools else turns, ensure_ascii=False, default=str)


def read_conversation(text: str) -> Conversation:
    """What `conversation_of` wrote."""
    value = json.loads(text)
    turns, tools = (value["messages"], value[TOOLS]) if isinstance(value, dict) else (value, None)
    return Conversation([_message(role, content, *more) for role, content, *more in turns], tools)


def spoken(text: str) -> str:
    """All that is said in a conversation, without who says it: what a tokenizer is trained on."""
    return "\n".join(message["content"] for message in read_conversation(text).messages)


def columns_of(section: DataSection) -> tuple[list[str], list[str]]:
    """The columns that a row must have, and those that it may have."""
    if section.messages_field:
        return [section.messages_field], [TOOLS]
    if not section.instruct:
        return names_of(section.text_field), []
    required = [*names_of(section.prompt_field), *names_of(section.response_field)]
    return required, names_of(section.input_field)


def keys_of(section: DataSection) -> dict[str, list[str]]:
    """The columns that each key of section data names."""
    keys = ("messages_field", "prompt_field", "response_field", "input_field", "text_field")
    return {key: names_of(getattr(section, key)) for key in keys}


def names_of(columns: str | Sequence[str] | None) -> list[str]:
    """The columns of a key that takes one or several."""
    return [columns] if isinstance(columns, str) else list(columns or ())


def _message(role: str, content: str, more: dict[str, Any] | None = None) -> Message:
    return {"role": role, "content": content, **(more or {})}


def _as_turn(message: Message) -> list[Any]:
    more = {key: value for key, value in message.items() if key not in ("role", "content")}
    return [message["role"], message["content"], *([more] if more else [])]


def _tools(value: Any) -> list[dict[str, Any]] | None:
    """The tools of a row; parquet files often hold them as text. Raises BadRow."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadRow("invalid_json", f"`{TOOLS}`: {error}") from None
    if not value:
        return None
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise BadRow("wrong_type", f"`{TOOLS}` is {type(value).__name__}, not a list of objects")
    return value


def _of_columns(row: Any, section: DataSection) -> list[Message]:
    assert section.prompt_field is not None
    assert section.response_field is not None
    prompt, response = text_of_object(row, section.prompt_field), text_of_object(row, section.response_field)
    if section.input_field is not None and row.get(section.input_field) is not None:
        added = text_of_object(row, section.input_field)
        prompt = "\n\n".join(part for part in (prompt, added) if part.strip())
    return [_message("user", prompt), _message("assistant", response)]


def _of_messages(value: Any, field: str) -> list[Message]:
    if not isinstance(value, list):
        raise BadRow("wrong_type", f"`{field}` is {type(value).__name__}, not a list of messages")
    return [_of_turn(turn, f"`{field}`[{index}]") for index, turn in enumerate(value)]


def _of_turn(turn: Any, place: str) -> Message:
    if not isinstance(turn, dict):
        raise BadRow("wrong_type", f"{place} is {type(turn).__name__}, not an object")
    role_key, content_key = ("from", "value") if turn.get("role") is None and "from" in turn else ("role", "content")
    role, content = turn.get(role_key), turn.get(content_key)
    more = {key: value for key, value in turn.items() if key not in (role_key, content_key) and value not in EMPTY}
    if content is None and "tool_calls" in more:
        content = ""
    if not isinstance(role, str) or role not in ROLES:
        raise BadRow("wrong_role", f"{place} has {role_key}: {role!r}; known are {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise BadRow(
            "missing_field" if content is None else "wrong_type", f"{place} has {content_key}: {type(content).__name__}"
        )
    return _message(ROLES[role], content, more)


def _require_trainable(messages: list[Message]) -> None:
    """Raise BadRow unless somebody asks, and every answer says something or calls a tool."""
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise BadRow("no_response", "nobody speaks as the assistant")
    if "user" not in roles[: roles.index("assistant")]:
        raise BadRow("wrong_role", "the assistant speaks before the user does")
    for message in messages:
        if not message["content"].strip() and message["role"] != "tool" and "tool_calls" not in message:
            assistant = message["role"] == "assistant"
            raise BadRow("no_response" if assistant else "empty", f"the {message['role']} says nothing")
        if "\x00" in message["content"]:
            raise BadRow("nul_bytes")
