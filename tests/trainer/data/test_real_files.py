"""Files as users bring them: tokens, targets and counts are those that `datasets` and the chat template give of them."""

from __future__ import annotations

import csv
import io
import itertools
import json
import lzma
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import packers
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.data.batch import silent
from galore.trainer.data.text.quality import BadRows
from galore.trainer.data.tokens.examplestore import ExampleStore
from galore.trainer.data.tokens.material import Material
from galore.trainer.data.tokens.tokenized import Tokenized, tokenized
from galore.trainer.recipe.schema.data import DataSection

datasets = pytest.importorskip("datasets")

TEMPLATE = (
    "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}({{ c.function.arguments | tojson }}){% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
Row = dict[str, Any]
Make = Callable[[list[Row]], bytes]
WORDS = ["rain, sun", 'the "old" mill', "two\nlines", "café — naïve", "  spaces ", "emoji 🙂", "x" * 300]
TEXTS: list[Row] = [{"id": n, "title": f"No. {n}", "body": f"{word} {n}"} for n, word in enumerate(WORDS * 3)]


def jsonl(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def array(rows: list[Row]) -> bytes:
    return b"\xef\xbb\xbf" + json.dumps(rows, indent=2, ensure_ascii=False).encode()


def table(delimiter: str = ",", encoding: str = "utf-8", end: str = "\r\n") -> Make:
    def make(rows: list[Row]) -> bytes:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, rows[0], delimiter=delimiter, lineterminator=end)
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode(encoding, "replace")

    return make


def parquet(rows: list[Row]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=4)
    return sink.getvalue()


def feather(rows: list[Row]) -> bytes:
    sink = io.BytesIO()
    pyarrow.feather.write_feather(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def lines(rows: list[Row]) -> bytes:
    return "".join(row["body"].replace("\n", " ") + "\n" for row in rows).encode()


PACK = {"": bytes, **packers.PACK}


class Case(NamedTuple):
    """A file, how a recipe reads it, and how `datasets` does: builder and options."""

    name: str
    make: Make
    rows: list[Row]
    section: Row
    read: tuple[str, Row] = ("json", {})


CSV: tuple[str, Row] = ("csv", {"keep_default_na": False})
BODY = {"text_field": "body"}
SAID = [("Add 2 and 3.", "5"), ('Say "hi".', "hi\nthere"), ("Ünïcode?", "ja 🙂"), ("a, b; c\td", " spaces kept")] * 2
CHAT = [
    [{"role": "system", "content": "Be brief."}, *m, *m]
    for q, a in SAID
    for m in [[{"role": "user", "content": q}, {"role": "assistant", "content": a}]]
]
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}},
}
CALLS = [
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"city": "Bern", "n": [1]}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "1", "content": "rain"},
    {"role": "assistant", "content": "It rains."},
]
FROM = {"system": "system", "user": "human", "assistant": "gpt"}
SHAREGPT = [
    {"id": "x", "conversations": [{"from": FROM[m["role"]], "value": m["content"]} for m in chat]} for chat in CHAT
]
ALPACA = [{"instruction": q, "input": "and this" if n % 2 else "", "output": a} for n, (q, a) in enumerate(SAID)]
TRL = [{"prompt": chat[:2], "completion": chat[2:3]} for chat in CHAT]
PARTS = [
    {"messages": [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in chat]}
    for chat in CHAT
]
TOKENS = [{"input_ids": list(range(n, n + 9)), "labels": [-100] * 4 + list(range(n + 4, n + 9))} for n in range(12)]
MESSAGES = {"messages_field": "messages"}

CASES = [
    Case("plain.jsonl", jsonl, TEXTS, BODY),
    Case("c4-train.00000-of-00001.json.gz", jsonl, TEXTS, BODY),
    Case("dump.json.xz", array, TEXTS, BODY),
    Case("news.csv", table(), TEXTS, BODY, CSV),
    Case("unix.csv.zst", table(end="\n"), TEXTS, BODY, CSV),
    Case("excel.csv", table(";"), TEXTS, BODY | {"delimiter": ";"}, ("csv", {"sep": ";", "keep_default_na": False})),
    Case(
        "old.csv",
        table(";", "cp1252"),
        TEXTS,
        BODY | {"delimiter": ";", "encoding": "cp1252"},
        ("csv", {"sep": ";", "encoding": "cp1252"}),
    ),
    Case("tab.tsv.bz2", table("\t"), TEXTS, BODY, ("csv", {"sep": "\t", "keep_default_na": False})),
    Case("rows.parquet", parquet, TEXTS, BODY, ("parquet", {})),
    Case("rows.feather", feather, TEXTS, BODY, ("arrow", {})),
    Case("lines.txt.zst", lines, TEXTS, {"txt_document": "line"}, ("text", {})),
    Case("two.parquet", parquet, TEXTS, {"text_field": ["title", "body"]}, ("parquet", {})),
    Case(
        "alpaca.json",
        array,
        ALPACA,
        {"prompt_field": "instruction", "input_field": "input", "response_field": "output"},
    ),
    Case("sharegpt.json", array, SHAREGPT, {"messages_field": "conversations"}),
    Case("openai.jsonl.zst", jsonl, [{"messages": CALLS, "tools": [TOOL]}] * 3, MESSAGES),
    Case("chat.parquet", parquet, [{"messages": chat} for chat in CHAT], MESSAGES, ("parquet", {})),
    Case("chat.csv", table(), [{"messages": json.dumps(chat)} for chat in CHAT], MESSAGES, CSV),
    Case("parts.jsonl", jsonl, PARTS, MESSAGES),
    Case("trl.jsonl", jsonl, TRL, {"prompt_field": "prompt", "response_field": "completion"}),
    Case(
        "pairs.csv.gz", table(), [{"q": q, "a": a} for q, a in SAID], {"prompt_field": "q", "response_field": "a"}, CSV
    ),
    Case("tokens.parquet", parquet, TOKENS, {"tokens_field": "input_ids", "labels_field": "labels"}, ("parquet", {})),
]


@pytest.fixture
def tokenizer(chat_tokenizer: Path) -> Any:
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(chat_tokenizer)
    found.chat_template = TEMPLATE
    return found


def read(path: Path, tokenizer: Any, **settings: Any) -> Tokenized:
    section = DataSection(path=str(path), validation_fraction=0, **settings)
    cache = path.parent / "cache"
    cache.mkdir(exist_ok=True)
    return tokenized(Material.of(section, path.parent, cache, silent), tokenizer, silent)


def messages_of(row: Row, section: Row) -> list[Row]:
    """What a row says, as `apply_chat_template` takes it, spelled out once more."""
    if "prompt_field" in section:
        asked, said = row[section["prompt_field"]], row[section["response_field"]]
        if isinstance(asked, list):
            return [*asked, *said]
        more = row.get(section.get("input_field", ""), "")
        return [
            {"role": "user", "content": f"{asked}\n\n{more}" if more else asked},
            {"role": "assistant", "content": said},
        ]
    turns = row[section["messages_field"]]
    turns = json.loads(turns) if isinstance(turns, str) else turns
    named = {"human": "user", "gpt": "assistant"}
    found = []
    for turn in turns:
        role, content = turn.get("role") or turn["from"], turn.get("content", turn.get("value"))
        content = "".join(part["text"] for part in content) if isinstance(content, list) else content or ""
        calls = json.loads(json.dumps(turn.get("tool_calls") or []))
        for call in calls:
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        found.append({"role": named.get(role, role), "content": content} | ({"tool_calls": calls} if calls else {}))
    return found


def reference(case: Case, path: Path, tokenizer: Any) -> list[tuple[list[int], list[str]]]:
    """Tokens of each row, and the responses that are targets, by the libraries alone."""
    builder, options = case.read
    found = datasets.load_dataset(
        builder, data_files=str(path), split="train", cache_dir=str(path.parent / "hub"), **options
    )
    expected, section = [], case.section
    for row in found:
        if "tokens_field" in section:
            targets = [token for token in row["labels"] if token >= 0]
            expected.append((row["input_ids"], [tokenizer.decode(targets)]))
        elif section.keys() & {"messages_field", "prompt_field"}:
            messages = messages_of(row, section)
            ids = tokenizer.apply_chat_template(messages, tools=row.get("tools"), return_dict=False)
            said = [m for m in messages if m["role"] == "assistant"]
            calls = [json.dumps(c["function"]["arguments"]) for m in said for c in m.get("tool_calls", [])]
            words = [m["content"] or f"f({calls[0]})" for m in said]
            expected.append((ids, [f"{each}<|im_end|>" for each in words]))
        else:
            field = section.get("text_field", "text")
            text = row[field] if isinstance(field, str) else "\n\n".join(row[name] for name in field)
            expected.append(([*tokenizer(text)["input_ids"], tokenizer.eos_token_id], []))
    return expected


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_tokens_and_targets_are_those_of_the_libraries(tmp_path: Path, tokenizer: Any, case: Case) -> None:
    end = next((end for end in PACK if end and case.name.endswith(end)), "")
    plain, data = tmp_path / "plain" / case.name.removesuffix(end), case.make(case.rows)
    plain.parent.mkdir()
    plain.write_bytes(data)
    (tmp_path / case.name).write_bytes(PACK[end](data))
    found = read(tmp_path / case.name, tokenizer, **case.section)
    store, expected = found.train, reference(case, plain, tokenizer)
    assert found.summary["bad_rows"] == {}
    assert store.num_documents == len(expected) == len(case.rows)
    for number, (ids, words) in enumerate(expected):
        start, stop = store.span(number)
        assert store.tokens[start:stop].tolist() == ids
        if isinstance(store, ExampleStore):
            assert runs_of_targets(tokenizer, ids, store.targets[start:stop].tolist()) == words


def runs_of_targets(tokenizer: Any, ids: list[int], marks: list[int]) -> list[str]:
    """Targets in a row as text: a template puts something between two answers that is none."""
    groups = itertools.groupby(zip(ids, marks, strict=True), key=lambda pair: pair[1])
    return [tokenizer.decode([token for token, _ in group]) for mark, group in groups if mark]


def test_a_folder_of_save_to_disk(tmp_path: Path, tokenizer: Any) -> None:
    rows = datasets.Dataset.from_list(TEXTS)
    rows.save_to_disk(str(tmp_path / "saved"), num_shards=2)
    store = read(tmp_path / "saved", tokenizer, text_field="body").train
    found = [tokenizer.decode(store.tokens[slice(*store.span(n))][:-1]) for n in range(store.num_documents)]
    assert found == [row["body"] for row in TEXTS]


MIXED_UP = [
    (b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}', None),
    (
        b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, {"role": "assistant", "content": "b"}]}',
        "no_text",
    ),
    (b'{"messages": [{"role": "user", "content": "a"}]}', "no_response"),
    (b'{"messages": [{"role": "narrator", "content": "a"}]}', "wrong_role"),
    (b'{"messages": "hello"}', "wrong_type"),
    (b'{"messages": null}', "missing_field"),
    (b'{"messages": [', "invalid_json"),
    (b'{"messages": [{"role": "user", "content": "caf\xe9"}]}', "invalid_utf8"),
    (b"", "empty"),
]


@pytest.mark.parametrize("end", PACK)
def test_every_bad_row_is_counted_with_its_line(tmp_path: Path, tokenizer: Any, end: str) -> None:
    path = tmp_path / f"mixed.jsonl{end}"
    path.write_bytes(PACK[end](b"".join(line + b"\n" for line, _ in MIXED_UP)))
    found = read(path, tokenizer, messages_field="messages")
    assert found.train.num_documents == 1
    bad = found.summary["bad_rows"]
    assert {kind: each["rows"] for kind, each in bad.items()} == {kind: 1 for _, kind in MIXED_UP if kind}
    for number, (_, kind) in enumerate(MIXED_UP, start=1):
        assert kind is None or bad[kind]["first"].startswith(f"{path}:{number}: ")
    refused = Material.of(DataSection(path=str(path), messages_field="messages"), tmp_path, tmp_path, silent)
    with pytest.raises(UserError, match=r"mixed\.jsonl\S*:2: bad row"):
        list(refused.train.documents(BadRows("error")))


@pytest.mark.parametrize(
    ("name", "data", "message", "fix"),
    [
        ("semi.csv", table(";")(TEXTS), "has ';' and no ',' in it", r"set data\.delimiter: ';'"),
        ("half.jsonl.zst", packers.zstd(jsonl(TEXTS))[:-9], "damaged or truncated zstd data", "zstd -t"),
        ("half.csv.xz", lzma.compress(table()(TEXTS))[:-9], "damaged or truncated xz data", "xz -t"),
        ("half.parquet", parquet(TEXTS)[:-9], "not a readable parquet file", ""),
        ("sheet.xlsx", b"PK", "cannot tell the format", "save the sheet as csv"),
        ("corpus.zip", b"PK", "cannot tell the format", "unpack it"),
        ("half.json", array(TEXTS)[:-40], "of the JSON array is damaged", "one object a line"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_error(
    tmp_path: Path, tokenizer: Any, name: str, data: bytes, message: str, fix: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path / name, tokenizer, text_field="body")
    assert re.search(fix, caught.value.fix or "")
