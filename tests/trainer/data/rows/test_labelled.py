"""Examples of any length: what a model is fed is what its tokenizer would have padded; nothing is lost or fed twice."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from galore.trainer.data.rows.labelled import Examples, Padding, batches, full_batch

LENGTHS = [3, 1, 5, 2, 2]
NETWORK = torch.nn.Linear(1, 1)


def examples(labels: list[float] | list[int], segments: bool = False) -> Examples:
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
    tokens = np.arange(1, offsets[-1] + 1, dtype=np.int32)
    kinds = (tokens % 2).astype(np.uint8) if segments else None
    known = np.array(labels, np.float32 if isinstance(labels[0], float) else np.int64)
    return Examples(tokens, kinds, offsets, known, Padding(99, 7))


@pytest.mark.parametrize("last", [False, True])
def test_rows_are_padded_to_the_longest_among_them(last: bool) -> None:
    """At their end, but for a network that reads the last column."""
    network = torch.nn.Linear(1, 1)
    network.sequence_summary = SimpleNamespace(summary_type="last" if last else "first")  # type: ignore[assignment]
    fed = examples([0, 1, 0, 1, 0], segments=True).batch(np.array([0, 1, 3])).inputs(network)
    rows = [[1, 2, 3], [4, 99, 99], [10, 11, 99]]
    kinds = [[1, 0, 1], [0, 7, 7], [0, 1, 7]]
    if last:
        rows, kinds = [[1, 2, 3], [99, 99, 4], [99, 10, 11]], [[1, 0, 1], [7, 7, 0], [7, 0, 1]]
    assert fed["input_ids"].tolist() == rows
    assert fed["token_type_ids"].tolist() == kinds
    assert torch.equal(fed["attention_mask"], (fed["input_ids"] != 99).long())


def test_a_micro_batch_has_a_width_of_its_own() -> None:
    batch = examples([0, 1, 0, 1, 0]).batch(np.array([2, 4, 1]))
    assert batch.inputs(NETWORK)["input_ids"].shape == (3, 5)
    part = batch.rows(1, 3)
    assert part.inputs(NETWORK)["input_ids"].tolist() == [[12, 13], [4, 99]]
    assert (part.sequence_ids, part.tokens, part.targets, len(part)) == ((4, 1), 3, 2, 2)
    assert "token_type_ids" not in part.inputs(NETWORK)


def test_examples_stay_in_their_order() -> None:
    batch = examples([0, 1, 2, 3, 4]).batch(np.array([1, 0, 3, 2]))
    assert batch.longest_first().fitted().sequence_ids == (1, 0, 3, 2)


def test_the_loss_is_a_sum_over_labels_or_scores() -> None:
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    batch = examples([0, 2, 1, 0, 0]).batch(np.array([1, 2]))
    assert torch.equal(
        batch.summed_loss(logits), functional.cross_entropy(logits, torch.tensor([2, 1]), reduction="sum")
    )
    scored = examples([0.5, 2.0, 1.0, 0.0, 0.0]).batch(np.array([1, 0]))
    assert scored.summed_loss(torch.tensor([[3.0], [1.0]])).item() == pytest.approx(1.0 + 0.25)
    assert batch.measures(2.0) == {"loss_nats": 2.0, "perplexity": None}
    assert scored.measures(2.0) == {"squared_error": 2.0, "perplexity": None}


@pytest.mark.parametrize("size", [1, 2, 4, 9])
def test_all_examples_come_once_the_longest_first(size: int) -> None:
    found = [number for batch in batches(examples([0, 1, 0, 1, 0]), size) for number in batch.sequence_ids]
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert [LENGTHS[number] for number in found] == sorted(LENGTHS, reverse=True)


def test_a_full_batch_has_no_padding() -> None:
    batch = full_batch(np.arange(6).reshape(2, 3), np.float32)
    assert batch.inputs(NETWORK)["input_ids"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert batch.inputs(NETWORK)["attention_mask"].all()
    assert batch.labels.tolist() == [0.0, 0.0]
