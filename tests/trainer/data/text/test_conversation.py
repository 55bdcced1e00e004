from __future__ import annotations

from typing import Any

import pytest

from galore.trainer.data.text.conversation import columns_of, conversation_of, read_conversation, spoken
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
