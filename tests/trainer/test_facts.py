"""What a person reads first of a run: counts of one are singular, and kernels take one line."""

from __future__ import annotations

import re

import pytest
import torch

from galore.kernels.ops.dispatch import ENVIRONMENT
from galore.trainer.facts import _data, _kernels

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
    told = _data(summary)
    assert "held out 1 " in told
    assert not PLURAL.search(told), told


def test_bad_rows_are_told_with_the_place_of_the_first() -> None:
    bad = {"missing_field": {"rows": 2, "first": "/a: b/chat.jsonl:17: a field is missing (text)"}}
    assert _data({"source": "local", "bad_rows": bad}).endswith("bad rows: 2 missing_field, first chat.jsonl:17")
    assert _data({"source": "local", "bad_rows": {"x": {"rows": 2}}}).endswith("bad rows: 2 x")


def test_kernels_take_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    assert _kernels(torch.device("cpu")) == "torch (CPU)"
    monkeypatch.setenv(ENVIRONMENT, "torch")
    assert _kernels(torch.device("cpu")) == f"torch ({ENVIRONMENT} asks for it)"
