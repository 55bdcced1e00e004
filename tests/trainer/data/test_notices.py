from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.data.batch import silent
from galore.trainer.data.notices import alarms, notices
from galore.trainer.data.prepare import prepare_data
from galore.trainer.data.tokens.cache import fingerprint
from galore.trainer.data.tokens.material import Material
from galore.trainer.recipe.schema.data import DataSection
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
    assert note.startswith("left out: 50 of 100 rows (50%, 50% of the bytes) in 50 files, not valid UTF-8, first ")
    assert "001.txt:1" in note
    assert "they look like cp1252: convert these files (`iconv -f CP1252 -t UTF-8`), or if no other" in note
    summary["bad_rows"]["invalid_utf8"] |= {"rows": 0, "bytes": 0}
    assert notices(summary) == []


def paragraphs(path: Path, number: int, encoding: str = "utf-8", length: int = 8) -> None:
    path.parent.mkdir(exist_ok=True)
    words = "où le café était tiède"
    path.write_bytes(
        "\n\n".join(f"{words} {path.stem}{each} " + "x" * length for each in range(number)).encode(encoding)
    )


def test_a_whole_corpus_in_another_encoding_names_the_key_and_is_read_with_it(
    tmp_path: Path, recipe: MakeRecipe
) -> None:
    paragraphs(tmp_path / "books" / "a.txt", 200, "latin-1")
    paragraphs(tmp_path / "books" / "b.txt", 200, "latin-1")
    with pytest.raises(
        UserError, match=r"(?s)no document to train on .*they look like cp1252: data\.encoding=cp1252 reads them"
    ):
        prepare_data(recipe(path="books", validation_fraction=0.0), tmp_path)
    (tmp_path / "books" / "c.txt").write_text("\n\n".join(f"plain {number} and more of it" for number in range(50)))
    (note,) = alarms(prepare_data(recipe(path="books", validation_fraction=0.0), tmp_path).summary)
    assert note.startswith("left out: 400 of 450 rows (89%, ")
    assert note.endswith("or if no other holds UTF-8, data.encoding=cp1252 reads them")
    data = prepare_data(recipe(path="books", encoding="cp1252"), tmp_path)
    assert sum(data.summary["documents"].values()) == 450
    assert alarms(data.summary) == []
    (tmp_path / "books" / "c.txt").unlink()
    entry = {"rows": 400, "first": "a.txt:1", "files": 2, "looks_like": {"cp1252": 390}}
    (note,) = alarms({"documents": 100, "files": 2, "bad_rows": {"invalid_utf8": entry}})
    assert note.endswith("they look like cp1252: data.encoding=cp1252 reads them")


def test_few_rows_of_many_bytes_are_an_alarm(tmp_path: Path, recipe: MakeRecipe) -> None:
    paragraphs(tmp_path / "a.txt", 400)
    (tmp_path / "b.txt").write_text("y" * 20_000)
    summary = prepare_data(recipe(path=["a.txt", "b.txt"], max_document_bytes=1000), tmp_path).summary
    (note,) = alarms(summary)
    assert re.match(r"left out: 1 of 401 rows \(0%, 5\d% of the bytes\), longer than data\.max_document_bytes", note)


def test_blank_lines_are_no_alarm(tmp_path: Path, recipe: MakeRecipe) -> None:
    paragraphs(tmp_path / "a.txt", 100)
    summary = prepare_data(recipe(path="a.txt", txt_document="line"), tmp_path).summary
    assert alarms(summary) == []
    assert notices(summary)[0].startswith("left out: 99 of 199 rows (50%, ")


def test_utf_8_read_as_something_else_is_an_alarm(tmp_path: Path, recipe: MakeRecipe) -> None:
    paragraphs(tmp_path / "a.txt", 100)
    paragraphs(tmp_path / "b.txt", 100, "latin-1")
    (note,) = alarms(prepare_data(recipe(path=["a.txt", "b.txt"], encoding="latin-1"), tmp_path).summary)
    assert note.startswith("misread: 100 of 200 documents are UTF-8, which data.encoding makes other letters of")


def test_an_encoding_is_in_the_name_of_the_cache_and_utf_8_is_what_it_was(tmp_path: Path, recipe: MakeRecipe) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")

    def name(**section: Any) -> str:
        found = Material.of(DataSection(path="a.txt", **section), tmp_path, tmp_path / "cache", silent)
        return fingerprint(found.identity)

    assert name() == name(encoding="UTF8") == "3efc9f34b2eb15970a27dc5eaa602f66"
    assert len({name(), name(encoding="latin-1"), name(encoding="cp1252")}) == 3
    assert name(encoding="latin1") == name(encoding="iso-8859-1")


@pytest.mark.parametrize(
    ("number", "length", "section", "told"),
    [
        (150, 100, {}, True),
        (60, 100, {}, False),  # files of a few paragraphs
        (150, 2000, {}, False),  # paragraphs as long as documents
        (150, 100, {"txt_document": "paragraph"}, False),  # somebody decided
    ],
)
def test_txt_files_that_look_like_books_are_told(
    tmp_path: Path, recipe: MakeRecipe, number: int, length: int, section: dict[str, Any], told: bool
) -> None:
    for name in "abc":
        paragraphs(tmp_path / "books" / f"{name}.txt", number, length=length)
    data = prepare_data(recipe(path="books", **section), tmp_path)
    expected = (
        f"{3 * number} documents are the paragraphs of 3 txt files: each ends with EOS, and is held out by itself; "
        "are they books? data.txt_document=file makes one document of each, and holds out whole ones"
    )
    assert notices(data.summary) == [expected] * told


def test_a_vocabulary_that_the_text_cannot_fill_is_told(
    tmp_path: Path, documents: list[str], recipe: MakeRecipe, write_jsonl: Callable[..., Path], begins_with_bos: str
) -> None:
    write_jsonl(documents)
    data = prepare_data(recipe(tokenizer_vocab_size=200_000), tmp_path)
    size = len(data.tokenizer)
    assert notices(data.summary) == [
        f"the tokenizer has {size:,} pieces: the text has no more for data.tokenizer_vocab_size 200,000"
    ]
    assert notices(prepare_data(recipe(tokenizer_vocab_size=size), tmp_path).summary) == []
    given = recipe(tokenizer_vocab_size=200_000, tokenizer=begins_with_bos)
    assert notices(prepare_data(given, tmp_path).summary) == []


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
    settings = {"path": "chat.jsonl", "messages_field": "messages", "max_length": 64, "tokenizer_vocab_size": 257}
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


@pytest.mark.parametrize(
    ("names", "others"),
    [
        (["train.jsonl", "test.jsonl"], "test"),
        (["data/train-00000-of-00001.jsonl", "data/validation-0.jsonl", "data/test-0.jsonl"], "test and validation"),
        (["train/x.jsonl", "dev/x.jsonl"], "dev"),
        (["train.jsonl", "testimony.jsonl"], ""),
        (["test.jsonl", "other.jsonl"], ""),
    ],
)
def test_splits_that_are_trained_on_together_are_told(tmp_path: Path, names: list[str], others: str) -> None:
    for name in names:
        (tmp_path / "all" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "all" / name).write_text('{"text": "a"}\n')
    material = Material.of(DataSection(path="all"), tmp_path, tmp_path, silent)
    told = [each for each in notices(material.extent | {"documents": {}}) if "splits" in each]
    assert len(told) == bool(others)
    assert all(f"train and {others.replace(' and', ',')}:" in each for each in told)
    by_name = Material.of(DataSection(path=[f"all/{name}" for name in names]), tmp_path, tmp_path, silent)
    assert "splits" not in by_name.extent


def test_one_object_over_many_lines_says_what_a_file_is(tmp_path: Path, recipe: MakeRecipe) -> None:
    (tmp_path / "train.json").write_text(json.dumps({"data": [{"text": "a"}, {"text": "b"}]}, indent=2))
    with pytest.raises(UserError, match="no document to train on") as caught:
        prepare_data(recipe(path="train.json"), tmp_path)
    assert "one object a line" in (caught.value.fix or "")
