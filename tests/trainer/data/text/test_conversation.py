from __future__ import annotations

import json
from typing import Any

import pytest

from galore.trainer.data.text.conversation import (
    columns_of,
    conversation_of,
    identity_of,
    later_reading,
    read_conversation,
    spoken,
    with_arguments,
)
from galore.trainer.data.text.quality import BadRow
from galore.trainer.recipe.schema.data import DataSection

COLUMNS = DataSection(path="x", prompt_field="instruction", input_field="input", response_field="output")
MESSAGES = DataSection(path="x", messages_field="messages")


def said(row: Any, section: DataSection) -> list[tuple[str, str]]:
    return [
        (message["role"], message["content"]) for message in read_conversation(conversation_of(row, section)).messages
    ]


def test_a_prompt_with_its_response() -> None:
    row = {"instruction": "Add ½.", "output": " 1\n", "source": "made up"}
    assert said(row, COLUMNS) == [("user", "Add ½."), ("assistant", " 1\n")]


@pytest.mark.parametrize(("added", "prompt"), [("2 and 3", "Add.\n\n2 and 3"), ("", "Add."), (None, "Add.")])
def test_the_input_is_appended_where_there_is_one(added: str | None, prompt: str) -> None:
    assert said({"instruction": "Add.", "input": added, "output": "5"}, COLUMNS)[0] == ("user", prompt)


@pytest.mark.parametrize(("role", "content"), [("role", "content"), ("from", "value")])
def test_messages_in_both_spellings(role: str, content: str) -> None:
    names = ["system", "user", "assistant"] if role == "role" else ["system", "human", "gpt"]
    turns = [{role: name, content: text} for name, text in zip(names, ["Be kind.", "Hi", "Hello"], strict=True)]
    expected = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello")]
    assert said({"messages": turns}, MESSAGES) == expected
    assert spoken(conversation_of({"messages": turns}, MESSAGES)) == "Be kind.\nHi\nHello"


def turns(*pairs: tuple[Any, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


@pytest.mark.parametrize(
    ("row", "section", "kind", "detail"),
    [
        ([], COLUMNS, "wrong_type", "the row is list"),
        ({"instruction": "Add."}, COLUMNS, "missing_field", "`output`"),
        ({"instruction": "Add.", "output": None}, COLUMNS, "missing_field", "`output`"),
        ({"instruction": "Add.", "output": 5}, COLUMNS, "wrong_type", "`output` is int"),
        ({"instruction": "Add.", "input": 5, "output": "x"}, COLUMNS, "wrong_type", "`input` is int"),
        ({"instruction": " ", "output": "5"}, COLUMNS, "empty", "the user says nothing"),
        ({"instruction": "Add.", "output": "\n"}, COLUMNS, "no_response", "the assistant says nothing"),
        ({"instruction": "Add.", "output": "a\x00b"}, COLUMNS, "nul_bytes", ""),
        ({"chat": []}, MESSAGES, "missing_field", "`messages`"),
        ({"messages": "Hi"}, MESSAGES, "wrong_type", "`messages` is str, not a list"),
        ({"messages": ["Hi"]}, MESSAGES, "wrong_type", "`messages`[0] is str"),
        ({"messages": []}, MESSAGES, "no_response", "nobody speaks as the assistant"),
        (turns(("user", "Hi")), MESSAGES, "no_response", "nobody speaks"),
        (turns(("user", "Hi"), ("assistant", "")), MESSAGES, "no_response", "the assistant says nothing"),
        (turns(("user", "Hi"), ("assistant", None)), MESSAGES, "missing_field", "`messages`[1] has content"),
        (turns(("user", "Hi"), ("bot", "Hello")), MESSAGES, "wrong_role", "`messages`[1] has role: 'bot'"),
        (turns(("assistant", "Hello"), ("user", "Hi")), MESSAGES, "wrong_role", "before the user"),
        (turns(("system", "Be."), ("assistant", "Hello")), MESSAGES, "wrong_role", "before the user"),
        ({"messages": [{"role": ["user"], "content": "Hi"}]}, MESSAGES, "wrong_role", "['user']"),
    ],
)
def test_bad_rows(row: Any, section: DataSection, kind: str, detail: str) -> None:
    with pytest.raises(BadRow) as caught:
        conversation_of(row, section)
    assert caught.value.kind == kind
    assert detail in caught.value.detail


def test_roles_of_tools_functions_and_developers() -> None:
    row = turns(("developer", "d"), ("human", "h"), ("function_call", "{}"), ("observation", ""), ("model", "m"))
    expected = [("developer", "d"), ("user", "h"), ("assistant", "{}"), ("tool", ""), ("assistant", "m")]
    assert said(row, MESSAGES) == expected
    row = turns(("user", "h"), ("assistant", "a"), ("function", "f"), ("tool", "t"), ("gpt", "g"))
    assert [role for role, _ in said(row, MESSAGES)] == ["user", "assistant", "tool", "tool", "assistant"]


def test_what_a_message_holds_beside_its_words_stays_with_it() -> None:
    calls = [{"type": "function", "function": {"name": "f", "arguments": {"q": 1}}}]
    messages = [
        {"role": "user", "content": "a", "name": "Ann", "tool_calls": None, "images": []},
        {"from": "gpt", "value": None, "tool_calls": calls},
        {"role": "assistant", "content": "x", "reasoning_content": "hm"},
    ]
    assert read_conversation(conversation_of({"messages": messages, "tools": None}, MESSAGES)) == (
        [
            {"role": "user", "content": "a", "name": "Ann"},
            {"role": "assistant", "content": "", "tool_calls": calls},
            {"role": "assistant", "content": "x", "reasoning_content": "hm"},
        ],
        None,
    )


@pytest.mark.parametrize("tools", [[{"name": "f"}], '[{"name": "f"}]'])
def test_the_tools_of_a_row_go_with_its_messages(tools: Any) -> None:
    row = turns(("user", "a"), ("assistant", "b"))
    assert read_conversation(conversation_of(row | {"tools": tools}, MESSAGES)).tools == [{"name": "f"}]
    assert columns_of(MESSAGES) == (["messages"], ["tools"])
    assert spoken(conversation_of(row | {"tools": tools}, MESSAGES)) == "a\nb"


@pytest.mark.parametrize(("tools", "kind"), [("[", "invalid_json"), ({"f": 1}, "wrong_type"), (["f"], "wrong_type")])
def test_tools_that_are_none_make_a_bad_row(tools: Any, kind: str) -> None:
    with pytest.raises(BadRow, match="tools") as caught:
        conversation_of(turns(("user", "a"), ("assistant", "b")) | {"tools": tools}, MESSAGES)
    assert caught.value.kind == kind


CALL = {"type": "function", "function": {"name": "f", "arguments": '{"q": [1, "é"]}'}}


def test_arguments_as_text_become_objects() -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "1", "content": "b"},
    ]
    text = conversation_of({"messages": messages}, MESSAGES)
    assert later_reading(text)
    calls = read_conversation(text).messages[1]["tool_calls"]
    assert calls == [{"type": "function", "function": {"name": "f", "arguments": {"q": [1, "é"]}}}]
    assert with_arguments([{"name": "f", "arguments": "{"}, "x"]) == [{"name": "f", "arguments": "{"}, "x"]
    read = {"messages": [messages[0], messages[1] | {"tool_calls": calls}]}
    assert not later_reading(conversation_of(read, MESSAGES))


def test_content_in_parts_is_its_texts() -> None:
    parts = [{"type": "text", "text": "What is"}, "this?", {"text": "Say.", "image": None}]
    assert said(turns(("user", parts), ("assistant", "b")), MESSAGES)[0] == ("user", "What is\nthis?\nSay.")


@pytest.mark.parametrize(
    "part", [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "image"}, {"type": "audio"}]
)
def test_a_part_that_is_no_text_makes_a_bad_row(part: dict[str, Any]) -> None:
    with pytest.raises(BadRow, match=str(part["type"])) as caught:
        conversation_of(turns(("user", [{"type": "text", "text": "a"}, part]), ("assistant", "b")), MESSAGES)
    assert caught.value.kind == "no_text"


def test_messages_as_text_are_read_as_json() -> None:
    row = {"messages": json.dumps(turns(("user", "Hi"), ("assistant", "Hello"))["messages"])}
    assert said(row, MESSAGES) == [("user", "Hi"), ("assistant", "Hello")]


def test_prompt_and_response_may_be_messages_of_which_those_before_are_not_learned() -> None:
    section = DataSection(path="x", prompt_field="prompt", response_field="completion")
    prompt = turns(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"))["messages"]
    row = {"prompt": prompt, "completion": [{"role": "assistant", "content": "d"}], "tools": [{"name": "f"}]}
    found = read_conversation(conversation_of(row, section))
    assert [message.get("weight") for message in found.messages] == [None, None, 0, None, None]
    assert found.messages[-1] == {"role": "assistant", "content": "d"}
    assert found.tools == [{"name": "f"}]
    assert columns_of(section) == (["prompt", "completion"], ["tools"])
    assert identity_of(section) == [["prompt", "completion"], []]
    assert said({"prompt": "a", "completion": "b"}, section) == [("user", "a"), ("assistant", "b")]
    mixed = DataSection(path="x", prompt_field="prompt", response_field="completion", input_field="more")
    with pytest.raises(BadRow, match="the prompt is a list of messages"):
        conversation_of(row | {"more": "x"}, mixed)
