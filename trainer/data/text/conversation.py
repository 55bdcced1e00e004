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
from galore.trainer.recipe.schema.source import FIELDS

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
CALLS = "tool_calls"
MASK = "attention_mask"  # the column beside tokens, as tokenizers write it
TOOLS = "tools"  # the column beside the messages; OpenAI, ShareGPT and transformers agree on the name

NOT_LEARNED = {"weight": 0}  # what a message says of itself that is no target, as OpenAI's fine-tuning has it
READING = "reading"
"""A conversation that needed more than the first reading of rows did has this key, so that it is told from before."""
WITHOUT_NULLS = "without nulls"  # of columns of structs; what is noted of a conversation that is another one with them

EMPTY: tuple[Any, ...] = (None, "", [], {})  # columns of parquet files fill keys that a message does not have


class Conversation(NamedTuple):
    """Messages, and the tools that the assistant may call, as JSON schemas."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None


def conversation_of(row: Any, section: DataSection) -> str:
    """The conversation of one parsed row, as JSON. Raises BadRow."""
    if section.messages_field is not None:
        messages = _of_messages(value_of(row, section.messages_field), section.messages_field)
    else:
        messages = _of_columns(row, section)
    tools = _tools(row.get(TOOLS))
    _require_trainable(messages)
    later = [message.pop(READING, False) for message in messages]
    more: dict[str, Any] = {READING: 2} if any(later) or (tools and section.messages_field is None) else {}
    more |= {TOOLS: tools} if tools else {}
    turns = [_as_turn(message) for message in messages]
    return json.dumps({**more, "messages": turns} if more else turns, ensure_ascii=False, default=str)


def read_conversation(text: str) -> Conversation:
    """What `conversation_of` wrote."""
    value = json.loads(text)
    turns, tools = (value["messages"], value.get(TOOLS)) if isinstance(value, dict) else (value, None)
    return Conversation([_message(role, content, *more) for role, content, *more in turns], tools)


def spoken(text: str) -> str:
    """All that is said in a conversation, without who says it: what a tokenizer is trained on."""
    return "\n".join(message["content"] for message in read_conversation(text).messages)


def columns_of(section: DataSection) -> tuple[list[str], list[str]]:
    """The columns that a row must have, and those that it may have."""
    if section.tokens_field:
        return [section.tokens_field, *names_of(section.labels_field)], [MASK, *names_of(section.extra_field)]
    if section.messages_field:
        return [section.messages_field], [TOOLS]
    if not section.instruct:
        return names_of(section.text_field), []
    required = [*names_of(section.prompt_field), *names_of(section.response_field)]
    return required, [*names_of(section.input_field), TOOLS]


def identity_of(section: DataSection) -> list[list[str]]:
    """The columns as JSON that names the data of a run: those that a row of the section's kind always might have."""
    required, optional = columns_of(section)
    return [required, optional if section.messages_field else names_of(section.input_field)]


def later_reading(text: str) -> str | None:
    """What to note of a conversation that was read otherwise, or not at all, before: when messages had no parts, or
    structs their nulls."""
    if not text.startswith(f'{{"{READING}"'):
        return None
    return WITHOUT_NULLS if text.startswith(f'{{"{READING}": 3') else READING


def read_without_nulls(text: str) -> str:
    """What `conversation_of` wrote of a row of structs, told from what it would be with their nulls."""
    value = json.loads(text)
    turns = value if isinstance(value, dict) else {"messages": value}
    return json.dumps({READING: 3, **{key: each for key, each in turns.items() if key != READING}}, ensure_ascii=False)


def keys_of(section: DataSection) -> dict[str, list[str]]:
    """The columns that each key of section data names."""
    return {key: names_of(getattr(section, key)) for key in reversed(FIELDS)}


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
    prompt, response = (_said(row, field) for field in (section.prompt_field, section.response_field))
    if section.input_field is not None and row.get(section.input_field) is not None:
        added = text_of_object(row, section.input_field)
        if isinstance(prompt, list):
            raise BadRow(
                "wrong_type", f"`{section.input_field}` is added to a text, and the prompt is a list of messages"
            )
        prompt = "\n\n".join(part for part in (prompt, added) if part.strip())
    before = [_message("user", prompt)] if isinstance(prompt, str) else prompt
    before = [message | (NOT_LEARNED if message["role"] == "assistant" else {}) for message in before]
    return before + ([_message("assistant", response)] if isinstance(response, str) else response)


def _said(row: Any, field: str | Sequence[str] | None) -> str | list[Message]:
    """The text of a column or several; or its messages, where it holds a list of them."""
    assert field is not None
    value = row.get(field) if isinstance(row, dict) and isinstance(field, str) else None
    if isinstance(value, list) and isinstance(field, str) and all(isinstance(turn, dict) for turn in value):
        return _of_messages(value, field)
    return text_of_object(row, field)


def _of_messages(value: Any, field: str) -> list[Message]:
    turns = from_text(value)
    if not isinstance(turns, list):
        raise BadRow("wrong_type", f"`{field}` is {type(value).__name__}, not a list of messages")
    return [_of_turn(turn, f"`{field}`[{index}]") for index, turn in enumerate(turns)]


def from_text(value: Any) -> Any:
    """The list or object that a text spells in JSON, as tables and OpenAI's arguments hold them; else the value."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _of_turn(turn: Any, place: str) -> Message:
    if not isinstance(turn, dict):
        raise BadRow("wrong_type", f"{place} is {type(turn).__name__}, not an object")
    role_key, content_key = ("from", "value") if turn.get("role") is None and "from" in turn else ("role", "content")
    role, content = turn.get(role_key), turn.get(content_key)
    more = {key: value for key, value in turn.items() if key not in (role_key, content_key) and value not in EMPTY}
    if CALLS in more:
        calls = with_arguments(more[CALLS])
        more |= {CALLS: calls} | ({READING: True} if calls != more[CALLS] else {})
        content = "" if content is None else content
    if not isinstance(role, str) or role not in ROLES:
        raise BadRow("wrong_role", f"{place} has {role_key}: {role!r}; known are {', '.join(ROLES)}")
    if content is None:
        raise BadRow("missing_field", f"{place} has {content_key}: NoneType")
    return _message(ROLES[role], _words_of(content, f"{place} has {content_key}"), more)


def _words_of(content: Any, place: str) -> str:
    """The words of a message; those of several parts are joined by line ends, as servers of models do it."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRow("wrong_type", f"{place}: {type(content).__name__}")
    return "\n".join(_words_of_part(part, f"{place}[{index}]") for index, part in enumerate(content))


def _words_of_part(part: Any, place: str) -> str:
    text = part.get("text") if isinstance(part, dict) else part
    kind = part.get("type", "text") if isinstance(part, dict) else "text"
    if kind != "text":
        raise BadRow("no_text", f"{place}: {kind}")
    if not isinstance(text, str):
        raise BadRow("wrong_type", f"{place}: {type(text).__name__}")
    return text


def with_arguments(calls: Any) -> Any:
    """The calls of a message with the arguments as objects, which templates write as JSON; OpenAI has them as text."""
    if not isinstance(calls, list):
        return calls
    return [_with_arguments(call) for call in calls]


def _with_arguments(call: Any) -> Any:
    if not isinstance(call, dict):
        return call
    if isinstance(call.get("function"), dict):
        return call | {"function": _with_arguments(call["function"])}
    return call | {"arguments": from_text(call["arguments"])} if "arguments" in call else call


def _require_trainable(messages: list[Message]) -> None:
    """Raise BadRow unless somebody asks, and every answer says something or calls a tool."""
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise BadRow("no_response", "nobody speaks as the assistant")
    if "user" not in roles[: roles.index("assistant")]:
        raise BadRow("wrong_role", "the assistant speaks before the user does")
    for message in messages:
        if not message["content"].strip() and message["role"] != "tool" and CALLS not in message:
            assistant = message["role"] == "assistant"
            raise BadRow("no_response" if assistant else "empty", f"the {message['role']} says nothing")
        if "\x00" in message["content"]:
            raise BadRow("nul_bytes")
