from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from galore.trainer.common.errors import UserError
from galore.trainer.data.batch import IGNORED, Scoring
from galore.trainer.data.prepare import prepare_data
from galore.trainer.data.rows.lengths import MULTIPLE
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.recipe.schema.train import EvalSection

MakeRecipe = Callable[..., Recipe]


@pytest.mark.parametrize("packing", ["packed", "paper"])
def test_agrees_with_counting_by_hand(
    recipe: MakeRecipe,
    write_jsonl: Callable[..., Path],
    documents: list[str],
    packing: str,
) -> None:
    data = prepare_data(recipe(packing=packing, train={"global_batch_size": 1}), write_jsonl(documents).parent)
    assert data.has_validation
    assert data.num_sequences is not None
    counts = Counter[int]()
    for step in range(data.num_sequences):
        counts.update(data.global_batch(step).labels[:, 1:].flatten().tolist())
    del counts[-100]
    total, vocabulary = sum(counts.values()), 300
    batches = data.validation_batches(3, None)
    targets = [token for batch in batches for token in batch.labels[:, 1:].flatten().tolist() if token != -100]
    expected = -sum(math.log((counts[token] + 1) / (total + vocabulary)) for token in targets) / len(targets)
    assert data.baseline()["unigram_loss_nats"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("source", ["text", "examples", "sources"])
def test_a_step_is_fed_no_column_that_is_padding_in_all_its_rows(
    recipe: MakeRecipe, write_jsonl: Callable[..., Path], documents: list[str], source: str
) -> None:
    root, long = write_jsonl([*documents, "a b c d e f g " * 20]).parent, {"max_length": 1024, "packing": "paper"}
    shape = {
        "text": {},
        "examples": {"prompt_field": "text", "response_field": "text"},
        "sources": {"path": None, "sources": [{"path": "train.jsonl"}]},
    }[source]
    data: Any = prepare_data(recipe(**long, **shape), root)
    lengths, targets = set(), 0
    for step in range(data.num_sequences // 8):
        batch = data.global_batch(step)
        rows = data.train.read(np.array([number % len(data.train) for number in batch.sequence_ids]))
        length = batch.input_ids.shape[1]
        assert [each[:, :length].tolist() for each in rows] == [batch.input_ids.tolist(), batch.labels.tolist()]
        assert (rows[1][:, length:] == IGNORED).all()
        assert (batch.labels[:, -MULTIPLE:] != IGNORED).any()
        assert batch.input_ids.is_contiguous()
        lengths.add(length)
        targets += batch.targets
    assert lengths < {*range(64, 449, 64)}
    assert len(lengths) > 1
    assert {batch.labels.shape[1] for batch in data.validation_batches(4, None)} < {*range(64, 449, 64)}


def test_rows_that_are_full_or_isolated_or_short_stay_as_they_are(
    recipe: MakeRecipe, write_jsonl: Callable[..., Path], documents: list[str]
) -> None:
    root = write_jsonl(documents).parent
    for settings in (
        {"max_length": 48, "packing": "paper"},
        {"max_length": 256},
        {"max_length": 256, "isolate_documents": True},
    ):
        batch = prepare_data(recipe(**settings), root).global_batch(0)
        assert batch.input_ids.shape[1] == settings["max_length"]


def test_nothing_held_out_is_refused(
    recipe: MakeRecipe, write_jsonl: Callable[..., Path], documents: list[str]
) -> None:
    data = prepare_data(recipe(validation_fraction=0), write_jsonl(documents).parent)
    assert not data.has_validation
    with pytest.raises(UserError, match="no held-out token"):
        data.baseline()


@pytest.mark.parametrize("mode", ["token", "paper"])
def test_bits_are_told_by_the_bytes_of_the_text_that_was_scored(
    recipe: MakeRecipe, write_jsonl: Callable[..., Path], documents: list[str], mode: str
) -> None:
    data = prepare_data(recipe(validation_fraction=0.3), write_jsonl([*documents, "ä 猫 " * 40]).parent)
    scored = EvalSection.model_validate({"mode": mode, "max_tokens": 32 * 5})
    result: Any = data.score(_Uniform(), Scoring(lambda model: None, 2, scored))
    rows = [row for batch in data.validation_batches(2, 32 * 5) for row in batch.labels.tolist()]
    ids = [[token for token in row[1:] if token != -100] for row in rows]
    text = [data.tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    total = sum(len(part.encode()) for part in text)
    cut = sum(part.count("\N{REPLACEMENT CHARACTER}") for part in text)  # letters that a row begins or ends in
    assert result.bytes == pytest.approx(total, abs=3 * cut)
    assert cut or result.bytes == total
    nats = math.log(data.vocab_size) * sum(map(len, ids))
    assert result.row()["bits_per_byte"] == pytest.approx(nats / math.log(2) / result.bytes, rel=1e-5)


class _Uniform(nn.Module):
    """Every token is as likely as any other."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 300))
