"""Rows of tokens, from files to batches."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.data import prepare
from galore.trainer.data.prepare import prepare_data
from galore.trainer.data.text.quality import BadRow
from galore.trainer.data.text.shapes import tokens_of_row
from galore.trainer.data.tokens.given import GivenTokens
from galore.trainer.data.tokens.tokenized import MISFITS
from galore.trainer.recipe.schema.extraloss import ExtraLossSection
from galore.trainer.recipe.schema.model import ModelSection
from galore.trainer.recipe.schema.recipe import Recipe

MakeRecipe = Callable[..., Recipe]
ROW = {"ids": [5, 6, 7, 0], "labels": [-100, 6, 7, -100], "attention_mask": [1, 1, 1, 0]}

ALIGNED = ExtraLossSection(name="attention_alignment", layers=[-1])


def test_what_is_masked_is_left_out_and_labels_are_targets() -> None:
    assert json.loads(tokens_of_row(ROW, "ids", None)) == {"ids": [5, 6, 7]}
    assert json.loads(tokens_of_row(ROW, "ids", "labels")) == {"ids": [5, 6, 7], "targets": "011"}
    assert json.loads(tokens_of_row({"ids": "[1, 2]"}, "ids", None)) == {"ids": [1, 2]}


@pytest.mark.parametrize(
    ("change", "kind", "detail"),
    [
        ({"ids": None}, "missing_field", "`ids`"),
        ({"ids": "abc"}, "wrong_type", "`ids` is str"),
        ({"ids": [1, 2.0, 3, 4]}, "wrong_type", "`ids` has float"),
        ({"ids": [1, True, 3, 4]}, "wrong_type", "`ids` has bool"),
        ({"ids": [1]}, "wrong_type", "not of one length"),
        ({"labels": [5, 6, 8, -100]}, "wrong_type", "a label is 8, which is neither -100 nor its token, 7"),
        ({"attention_mask": [0, 0, 0, 0]}, "empty", ""),
    ],
)
def test_bad_rows(change: dict[str, Any], kind: str, detail: str) -> None:
    with pytest.raises(BadRow) as caught:
        tokens_of_row(ROW | change, "ids", "labels")
    assert caught.value.kind == kind
    assert detail in caught.value.detail


@pytest.fixture
def ids(tmp_path: Path, chat_tokenizer: Path) -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(chat_tokenizer)
    return [tokenizer(f"text {n} of some")["input_ids"] + [tokenizer.eos_token_id] * (n % 2) for n in range(90)]


@pytest.fixture
def given(tmp_path: Path, recipe: MakeRecipe, chat_tokenizer: Path) -> Callable[..., Any]:
    def prepare(rows: list[dict[str, Any]], new_tokens: Any = (), aligned: bool = False, **data: Any) -> Any:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = {"path": "rows.jsonl", "tokens_field": "input_ids", "tokenizer": str(chat_tokenizer)} | data
        model = ModelSection(new_tokens=new_tokens or [])
        update = {"model": model, **({"extra_loss": ALIGNED} if aligned else {})}
        made = recipe(**{"validation_fraction": 0, **settings}).model_copy(update=update)
        return prepare_data(made, tmp_path)

    return prepare


def test_documents_are_the_tokens_and_one_end(given: Callable[..., Any], ids: list[list[int]]) -> None:
    data = given([{"input_ids": each} for each in ids])
    eos = data.tokenizer.eos_token_id
    expected = [token for each in ids for token in [*each, *([] if each[-1] == eos else [eos])]]
    rows = data.train.read(np.arange(len(data.train)))[0]
    assert rows.ravel().tolist() == expected[: rows.size]


@pytest.mark.parametrize("more", [{"labels_field": "labels"}, {"packing": "paper"}])
def test_examples_are_the_tokens_as_they_are(
    given: Callable[..., Any], ids: list[list[int]], more: dict[str, Any]
) -> None:
    rows = [{"input_ids": each, "labels": [-100] * 5 + each[5:]} for each in ids]
    data = given(rows, **more)
    found, labels = data.train.read(np.arange(len(data.train)))
    wanted = [each[5:] if "labels_field" in more else each[1:] for each in ids]
    assert sorted(labels[labels >= 0].tolist()) == sorted(token for each in wanted for token in each)
    assert np.array_equal(found[labels >= 0], labels[labels >= 0])


def test_a_token_beyond_the_vocabulary_makes_a_bad_row(given: Callable[..., Any], ids: list[list[int]]) -> None:
    rows = [{"input_ids": each, "labels": each} for each in [*ids, [1, 99_999], [-1, 2]]]
    for more in ({}, {"labels_field": "labels"}):
        found = given(rows, **more).summary["bad_rows"]
        assert found["wrong_token"]["rows"] == 2
        assert "rows.jsonl:91: a token that the tokenizer does not have (99999, of " in found["wrong_token"]["first"]


def test_tokens_need_their_tokenizer(given: Callable[..., Any], ids: list[list[int]]) -> None:
    with pytest.raises(UserError, match="mean nothing without their tokenizer") as caught:
        given([{"input_ids": ids[0]}], tokenizer=None)
    assert caught.value.where == "data.tokens_field"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"labels_field": "x", "tokens_field": None}, "set tokens_field"),
        ({"messages_field": "x"}, "tokens_field holds tokens already"),
        ({"source": "packaged", "path": None}, "tokens_field is for local files"),
        ({"format": "txt"}, "format: txt has no columns"),
    ],
)
def test_contradictions_are_refused(given: Callable[..., Any], data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        given([], **data)


def test_a_row_without_a_target_is_none(chat_tokenizer: Path) -> None:
    from transformers import AutoTokenizer

    encoder = GivenTokens(AutoTokenizer.from_pretrained(chat_tokenizer))
    (row,) = encoder.encode(['{"ids": [1, 2], "targets": "10"}'], ["x"])
    assert isinstance(row, BadRow)
    assert row.kind == "no_response"


PARTS = [{"text": "text 3 of some"}, {"image": [2, 0]}, {"text": " more"}]


def test_parts_are_texts_and_codes_between_begin_and_end(given: Callable[..., Any]) -> None:
    rows = [{"parts": PARTS}] * 40
    data = given(rows, tokens_field="parts", new_tokens={"image": 3})
    ids, tokenizer = data.train.read(np.arange(1))[0][0].tolist(), data.tokenizer
    wanted = tokenizer("text 3 of some")["input_ids"] + tokenizer.convert_tokens_to_ids(
        ["<image_begin>", "<image_2>", "<image_0>", "<image_end>"]
    )
    assert ids[: len(wanted)] == wanted
    assert tokenizer.decode(wanted) == "text 3 of some<image_begin><image_2><image_0><image_end>"
    kinds = data.modalities.kinds[ids]
    assert kinds[: len(wanted)].tolist() == [0] * (len(wanted) - 4) + [1] * 4


def test_a_code_that_is_no_token_makes_a_bad_row(given: Callable[..., Any]) -> None:
    rows = [{"parts": PARTS}] * 40 + [{"parts": [{"image": [3]}]}, {"parts": [{"speech": [0]}]}]
    found = given(rows, tokens_field="parts", new_tokens={"image": 3}).summary["bad_rows"]
    assert found["wrong_token"]["rows"] == 2
    assert "rows.jsonl:41: a token that the tokenizer does not have (<image_3>)" in found["wrong_token"]["first"]


@pytest.mark.parametrize(
    ("parts", "detail"),
    [
        ([{"text": "a", "image": [1]}], "has a part with text, image, not one of"),
        ([{"text": "a"}, 5], "has parts and others"),
        ([{"text": 7}], "has a part whose text is not a text"),
        ([{"image": "12"}], "has a part whose image is not a list of codes"),
        ([{"image": [True]}], "is not a list of codes"),
        ([{}], "has a part with no name"),
    ],
)
def test_bad_parts(parts: list[Any], detail: str) -> None:
    with pytest.raises(BadRow) as caught:
        tokens_of_row({"parts": parts}, "parts", None)
    assert detail in caught.value.detail
    assert json.loads(tokens_of_row({"parts": [{"text": "a", "image": None}]}, "parts", None)) == {
        "parts": [["text", "a"]]
    }
    with pytest.raises(BadRow, match="goes with ids"):
        tokens_of_row({"parts": PARTS, "labels": []}, "parts", "labels")


@pytest.mark.parametrize("value", ["abc", 7, [1, "a"], [[1.0], [None]], [True], [[float("nan")]]])
def test_numbers_beside_a_row_are_numbers(value: Any) -> None:
    with pytest.raises(BadRow, match="not a list of numbers, or of lists of them"):
        tokens_of_row({"ids": [1], "map": value}, "ids", None, "map")
    assert json.loads(tokens_of_row({"ids": [1], "map": [[1, 2], [0.5, 3]]}, "ids", None, "map"))["extra"] == [
        1,
        2,
        0.5,
        3,
    ]
    assert "extra" not in tokens_of_row({"ids": [1], "map": None}, "ids", None, "map")


@pytest.mark.parametrize(
    "number", [10**400, -(10**400), 1e300, -1e39, 4 * 10**38], ids=["huge", "-huge", "1e300", "-1e39", "4e38"]
)
def test_numbers_beside_a_row_are_finite_as_they_are_kept(given: Callable[..., Any], number: float) -> None:
    rows = [{"input_ids": [5 + n, 6], "map": [3e38, 0.5] if n else [number]} for n in range(30)]
    data = given(rows, packing="paper", extra_field="map", on_bad_rows="skip")
    assert data.summary["bad_rows"]["wrong_type"]["rows"] == 1
    assert (
        f"`map` has a number that float32 cannot hold: {number}"[:200]
        in data.summary["bad_rows"]["wrong_type"]["first"]
    )
    extras = data.global_batch(0).extras
    assert extras.isfinite().all()


def test_numbers_stay_with_their_rows_and_rows_may_go_without(given: Callable[..., Any]) -> None:
    rows = [{"input_ids": [5 + n, 6], **({"map": [n, n + 0.5]} if n % 3 else {})} for n in range(30)]
    data = given(rows, packing="paper", extra_field="map")
    batch = data.global_batch(0)
    for ids, numbers in zip(batch.input_ids, batch.extras, strict=True):
        n = int(ids[0]) - 5
        assert numbers.nan_to_num(-1).tolist() == ([n, n + 0.5] if n % 3 else [-1, -1])
    assert given(rows, packing="paper").global_batch(0).extras is None


WORDS, IMAGE = {"text": " of some"}, {"image": [2, 0, 1]}
MAPS = {"tokens_field": "parts", "extra_field": "map", "packing": "paper", "on_bad_rows": "skip", "aligned": True}


@pytest.mark.parametrize(
    ("parts", "count", "said"),
    [
        ([IMAGE, WORDS], 2, "2 numbers, no maps of 3 codes for 8 targets after them: give 3 for all of them, or 3 for"),
        ([IMAGE, WORDS], 4, "4 numbers, no maps of 3 codes"),
        ([WORDS], 3, "3 numbers, no maps of 0 codes for 0 targets after them: leave them out"),
        ([WORDS, {"image": []}], 1, "1 numbers, no maps of 0 codes"),
        ([WORDS, {"image": [1]}, IMAGE, {"text": " of"}], 4, ""),
    ],
)
def test_numbers_that_are_no_maps_of_the_codes_make_a_bad_row(
    given: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, parts: list[Any], count: int, said: str
) -> None:
    rows = [{"parts": [IMAGE, {"text": f" of {n}"}], **({"map": [1, 2, n]} if n % 2 else {})} for n in range(30)]
    rows.append({"parts": parts, "map": [1.0] * count})
    found = given(rows, new_tokens={"image": 3}, **MAPS).summary
    assert found["documents"]["train"] == 30 + (not said)
    assert found["train"]["cut_maps"] == 0
    if said:
        first = found["bad_rows"]["wrong_type"]["first"]
        assert "rows.jsonl:31: a field is not of the type it should be (data.extra_field has " + said in first
    assert found["noted"] == ({MISFITS: 1} if said else {})
    monkeypatch.setattr(prepare, "MISFITS", "of before")
    before = given(rows, new_tokens={"image": 3}, **MAPS).summary
    assert (found["fingerprint"] != before["fingerprint"]) is bool(said)
    free = given(rows, new_tokens={"image": 3}, **MAPS | {"aligned": False}).summary
    assert free["documents"]["train"] == 31
    assert "cut_maps" not in free["train"]


def test_maps_of_codes_that_are_cut_off_are_left_out_and_counted(given: Callable[..., Any]) -> None:
    long, short = {"text": " of some" * 9}, {"text": " of"}
    fitting, ends = [[IMAGE, short], [IMAGE, long]], {"text": " of some of"}
    cut = [[long, IMAGE, short], [ends, IMAGE, short], [short, IMAGE, long, {"image": [0]}, short]]
    kinds, numbers = [*fitting, *cut], [3, 3, 3, 3, 4]
    rows = [{"parts": kinds[n % 5], "map": [n + 1.0] * numbers[n % 5]} for n in range(30)]
    data = given(rows, new_tokens={"image": 3}, max_length=16, **MAPS)
    assert data.summary["train"]["cut_maps"] == 18
    assert data.summary["bad_rows"] == {}
    seen = {float(row[0]) for step in range(4) for row in data.global_batch(step).extras if row.isfinite().any()}
    assert {int(each - 1) % 5 for each in seen} == {0, 1}


def test_numbers_of_a_mixture(given: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "more.jsonl").write_text("".join(json.dumps({"input_ids": [50 + n, 6]}) + "\n" for n in range(30)))
    rows = [{"input_ids": [5 + n, 6], "map": [n]} for n in range(30)]
    sources = [
        {"path": "rows.jsonl", "tokens_field": "input_ids", "extra_field": "map"},
        {"path": "more.jsonl", "tokens_field": "input_ids"},
    ]
    data = given(rows, path=None, tokens_field=None, packing="paper", sources=sources)
    batch = data.global_batch(0)
    for ids, numbers in zip(batch.input_ids, batch.extras, strict=True):
        n = int(ids[0]) - 5
        assert numbers.nan_to_num(-1).tolist() == ([n] if n < 30 else [-1])
