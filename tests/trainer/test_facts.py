"""What a person reads first of a run: counts of one are singular, and kernels take one line."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from galore.kernels.ops.dispatch import ENVIRONMENT
from galore.trainer.facts import _cut_off, _kernels, _rows_of_no_token, _slow_adapters, data_line
from galore.trainer.recipe.schema.optim import OptimSection

ONE = {"train": 1, "validation": 1}
PLURAL = re.compile(r"(?<![\d,.])1 [a-z-]+s\b")


@pytest.mark.parametrize(
    "summary",
    [
        {"source": "local", "documents": ONE, "tokens": ONE},
        {"source": "glue", "documents": ONE, "tokens": ONE, "truncated_examples": 0},
        {
            "source": "local",
            "documents": ONE,
            "tokens": ONE,
            "targets": {"train": 1},
            "train": {"examples": 1, "sequences": 1, "truncated_examples": 1, "dropped_examples": 1},
        },
    ],
)
def test_one_is_no_plural(summary: dict[str, object]) -> None:
    told = data_line(summary)
    assert "held out 1 " in told
    assert not PLURAL.search(told), told


def test_maps_that_are_cut_off_are_told() -> None:
    rows = {"examples": 9, "sequences": 9, "truncated_examples": 4, "dropped_examples": 0, "cut_maps": 2}
    told = data_line({"source": "local", "documents": ONE, "tokens": ONE, "targets": {"train": 50}, "train": rows})
    assert "4 truncated: longer than data.max_length, 2 without their map: its codes" in told
    assert "without" not in data_line({"source": "local", "targets": {"train": 50}, "train": rows | {"cut_maps": 0}})


def test_bad_rows_are_told_with_the_place_of_the_first() -> None:
    bad = {"missing_field": {"rows": 2, "first": "/a: b/chat.jsonl:17: a field is missing (text)"}}
    assert data_line({"source": "local", "bad_rows": bad}).endswith("bad rows: 2 missing_field, first chat.jsonl:17")
    assert data_line({"source": "local", "bad_rows": {"x": {"rows": 2}}}).endswith("bad rows: 2 x")


def test_kernels_take_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    assert _kernels(torch.device("cpu")) == "torch (CPU)"
    monkeypatch.setenv(ENVIRONMENT, "torch")
    assert _kernels(torch.device("cpu")) == f"torch ({ENVIRONMENT} asks for it)"


def planned(packing: str, rows: int | None, vocabulary: int | None = None) -> Any:
    """A run of 1,000 tokens in rows of 100."""
    recipe = SimpleNamespace(
        data=SimpleNamespace(packing=packing, max_length=100),
        model=SimpleNamespace(vocab_size=vocabulary, name_or_path=None),
    )
    data = SimpleNamespace(summary={"tokens": {"train": 1000}}, num_sequences=rows, tokenizer=range(300))
    return SimpleNamespace(recipe=recipe, data=data)


def test_what_one_document_a_row_leaves_out_is_told() -> None:
    (note,) = _cut_off(planned("paper", 4))
    assert "60% of 1,000 tokens are left out at least; data.packing=packed" in note
    assert not _cut_off(planned("packed", 4)) + _cut_off(planned("paper", 10)) + _cut_off(planned("paper", None))


def test_rows_that_no_token_has_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("galore.trainer.facts.id_bound", len)
    (note,) = _rows_of_no_token(planned("packed", 4, 32_000))
    assert "32,000 rows, the tokenizer 300 ids: model.vocab_size=null" in note
    assert not _rows_of_no_token(planned("packed", 4, 600)) + _rows_of_no_token(planned("packed", 4))


def test_adapters_at_a_rate_of_whole_weights_are_told() -> None:
    (note,) = _slow_adapters(OptimSection(method="lora", learning_rate=1e-5))
    assert "optim.learning_rate 1e-05 is one of whole weights" in note
    assert note.endswith("optim.learning_rate=0.0001")
    assert not _slow_adapters(OptimSection(method="lora", learning_rate=1e-4))
    assert not _slow_adapters(OptimSection(learning_rate=1e-5))
