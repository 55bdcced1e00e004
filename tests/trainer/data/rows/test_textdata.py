from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.data.prepare import prepare_data
from galore.trainer.recipe.schema.recipe import Recipe

MakeRecipe = Callable[..., Recipe]


@pytest.mark.parametrize("packing", ["packed", "paper"])
def test_agrees_with_counting_by_hand(
    recipe: MakeRecipe,
    write_jsonl: Callable[..., Path],
    documents: list[str],
    packing: str,
) -> None:
    data = prepare_data(recipe(packing=packing, train={"global_batch_size": 1}), write_jsonl(documents).parent)
    assert (data.has_validation, data.mean_length) == (True, 32)
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


def test_nothing_held_out_is_refused(
    recipe: MakeRecipe, write_jsonl: Callable[..., Path], documents: list[str]
) -> None:
    data = prepare_data(recipe(validation_fraction=0), write_jsonl(documents).parent)
    assert not data.has_validation
    with pytest.raises(UserError, match="no held-out token"):
        data.baseline()
