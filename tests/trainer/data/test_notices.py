from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.data.notices import notices
from galore.trainer.data.prepare import prepare_data
from galore.trainer.recipe.schema.recipe import Recipe

MakeRecipe = Callable[..., Recipe]


def test_files_in_another_encoding_are_told_with_their_number_and_a_remedy(
    tmp_path: Path, documents: list[str], recipe: MakeRecipe
) -> None:
    (tmp_path / "books").mkdir()
    for number, text in enumerate(documents[:100]):
        encoding = "latin-1" if number % 2 else "utf-8"
        (tmp_path / "books" / f"{number:03d}.txt").write_bytes((text + " é").encode(encoding))
    summary = prepare_data(recipe(path="books", txt_document="file"), tmp_path).summary
    assert summary["bad_rows"]["invalid_utf8"]["files"] == 50
    (note,) = notices(summary)
    assert note.startswith("left out: 50 of 100 rows (50%) in 50 files, not valid UTF-8, first ")
    assert "001.txt:1" in note
    assert "iconv" in note
    summary["bad_rows"]["invalid_utf8"]["rows"] = 0
    assert notices(summary) == []


def test_a_license_beside_the_rows_is_named_and_not_trained_on(
    tmp_path: Path, documents: list[str], recipe: MakeRecipe, write_jsonl: Callable[..., Path]
) -> None:
    write_jsonl(documents, "corpus/train.jsonl")
    (tmp_path / "corpus" / "LICENSE.txt").write_text("All rights reserved.")
    (tmp_path / "corpus" / "odd\x1b[2J.md").write_text("x")
    data = prepare_data(recipe(path="corpus"), tmp_path)
    assert sum(data.summary["documents"].values()) == len(documents)
    assert notices(data.summary) == [r"not read: LICENSE.txt, odd\x1b[2J.md; to train on one, name it in data.path"]


def conversations(tmp_path: Path, rows: list[Any]) -> None:
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_what_a_template_leaves_out_and_what_was_added_are_told(tmp_path: Path, recipe: MakeRecipe) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning_content": "hm"}]
    conversations(tmp_path, [{"messages": turns, "tools": [{"name": f"f{number}"}]} for number in range(60)])
    settings = {"path": "chat.jsonl", "messages_field": "messages", "max_length": 64}
    summary = prepare_data(recipe(**settings), tmp_path).summary
    left_out = ["the chat template leaves reasoning_content out of 60 of 60 conversations"]
    left_out += ["the chat template leaves tools out of 60 of 60 conversations"]
    assert notices(summary) == left_out
    summary["noted"] = {"no end of turn": 60, "unread: name": 0}
    assert notices(summary) == ["the chat template ends 60 of 60 examples without a token of its own: EOS was added"]


@pytest.mark.parametrize("name", ["chat.txt", "folder"])
def test_plain_text_has_no_conversations(tmp_path: Path, recipe: MakeRecipe, name: str) -> None:
    path = tmp_path / name if name.endswith("txt") else tmp_path / name / "x.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text("Hello\n\nthere")
    with pytest.raises(UserError, match="is plain text: it has no columns"):
        prepare_data(recipe(path=name, messages_field="messages"), tmp_path)
