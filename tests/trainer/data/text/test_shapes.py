from __future__ import annotations

import json
from typing import Any

import pytest

from galore.trainer.data.text.quality import BadRow
from galore.trainer.data.text.shapes import text_of_row
from galore.trainer.recipe.schema.data import DataSection

ROW = {"title": "One", "body": "first", "reply": "yes"}


def test_a_row_is_a_text_or_a_conversation() -> None:
    assert text_of_row(ROW, DataSection(path="x", text_field="body")) == "first"
    assert text_of_row(ROW, DataSection(path="x", text_field=["title", "body"])) == "One\n\nfirst"
    section = DataSection(path="x", prompt_field=["title", "body"], response_field="reply")
    assert json.loads(text_of_row(ROW, section)) == [["user", "One\n\nfirst"], ["assistant", "yes"]]


@pytest.mark.parametrize("row", [[1, 2], "text", 5, None])
def test_a_row_that_is_no_object_is_a_bad_one_whatever_it_should_have(row: Any) -> None:
    for more in ({}, {"extra_field": "weights", "packing": "paper"}, {"labels_field": "labels"}):
        with pytest.raises(BadRow):
            text_of_row(row, DataSection(path="x", tokens_field="tokens", **more))  # type: ignore[arg-type]
