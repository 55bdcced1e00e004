from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from galore.trainer.data.batch import IGNORED, Objective
from galore.trainer.data.rows.tokenbatch import PER_ROW, TokenBatch
from galore.trainer.models.head import split_head


def batch(size: int) -> TokenBatch:
    ids = torch.arange(size * 3).reshape(size, 3)
    return TokenBatch(ids, ids.clone(), tuple(range(100, 100 + size)))


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_shards_are_a_partition_for_any_number_of_workers(workers: int) -> None:
    whole = batch(8)
    shards = [whole.shard(worker, workers) for worker in range(workers)]
    assert sorted(number for shard in shards for number in shard.sequence_ids) == list(whole.sequence_ids)
    for shard in shards:
        at = [number - 100 for number in shard.sequence_ids]
        assert torch.equal(shard.input_ids, whole.input_ids[at])
        assert torch.equal(shard.labels, whole.labels[at])


def test_a_worker_outside_the_group_is_refused() -> None:
    with pytest.raises(ValueError, match="worker 2 of 2"):
        batch(4).shard(2, 2)


def test_rows_are_micro_batches() -> None:
    part = batch(8).rows(2, 4)
    assert part.sequence_ids == (102, 103)
    assert len(part) == 2
    assert part.input_ids[0].tolist() == [6, 7, 8]


def test_whatever_rows_have_is_cut_with_them() -> None:
    assert {each.name for each in fields(TokenBatch)} - {*PER_ROW} == {"sequence_ids", "modalities"}
    part = with_all(batch(8)).rows(2, 4)
    assert part.sequence_ids == (102, 103)
    for name in PER_ROW:
        assert len(getattr(part, name)) == 2, name
    for name in BESIDE:
        assert getattr(part, name)[:, 0].tolist() == [2, 3], name


BESIDE = ("positions", "skips", "extras")


def with_all(rows: TokenBatch) -> TokenBatch:
    """The rows with everything that there may be of each: its number among them."""
    numbers = torch.arange(len(rows))
    beside = {name: numbers[:, None].expand(rows.input_ids.shape) for name in BESIDE}
    return replace(rows, weights=numbers.double(), **beside)


def ragged(lengths: list[int], columns: int = 200) -> TokenBatch:
    ids = torch.arange(len(lengths) * columns).reshape(len(lengths), columns)
    labels = ids.where(torch.arange(columns) < torch.tensor(lengths)[:, None], IGNORED)
    return replace(with_all(TokenBatch(ids, labels, tuple(range(100, 100 + len(lengths))))), positions=None)


def test_rows_of_like_length_come_together_the_longest_first_with_all_they_have() -> None:
    rows = ragged([10, 150, 0, 70, 60, 140])
    ordered = rows.longest_first()
    assert ordered.sequence_ids == (101, 105, 103, 100, 102, 104)
    numbers = [each - 100 for each in ordered.sequence_ids]
    assert ordered.weights is not None
    assert ordered.weights.tolist() == numbers
    for name in ("input_ids", "labels", "skips", "extras"):
        assert torch.equal(getattr(ordered, name), getattr(rows, name)[numbers]), name


def test_padding_that_no_row_needs_is_cut_off() -> None:
    rows = ragged([10, 70])
    fitted = rows.fitted()
    assert (fitted.tokens, fitted.targets) == (2 * 128, rows.targets)
    for name in ("input_ids", "labels", "skips"):
        assert torch.equal(getattr(fitted, name), getattr(rows, name)[:, :128]), name
    assert torch.equal(fitted.extras, rows.extras)


def test_rows_that_are_full_or_isolated_stay_as_they_are() -> None:
    full, isolated = ragged([200, 200]), replace(ragged([10, 150]), positions=torch.zeros(2, 200, dtype=torch.int64))
    for rows in (full, isolated):
        assert rows.longest_first() is rows
        assert rows.fitted().tokens == 400


@pytest.mark.parametrize("apart", [True, False], ids=["head apart", "whole logits"])
def test_a_row_counts_by_its_weight_and_what_is_reported_does_not(apart: bool) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=24, **sizes)).double()
    ids = torch.randint(0, 24, (3, 8))
    labels = ids.where(torch.rand(3, 8) < 0.6, IGNORED)
    weights = torch.tensor([1.0, 30.0, 0.5], dtype=torch.float64)
    plain = TokenBatch(ids, labels, (0, 1, 2))
    head, objective = split_head if apart else lambda _: None, Objective(z_loss=0.01)

    def gradient(batch: TokenBatch, factor: float = 1.0) -> torch.Tensor:
        model.zero_grad()
        (factor * batch.losses(model, head, objective).total).backward()
        return model.model.embed_tokens.weight.grad.clone()

    weighted = replace(plain, weights=weights)
    each = [gradient(plain.rows(row, row + 1), float(weights[row])) for row in range(3)]
    torch.testing.assert_close(gradient(weighted), sum(each))
    halves = weighted.shard(0, 2), weighted.shard(1, 2)
    torch.testing.assert_close(gradient(weighted), gradient(halves[0]) + gradient(halves[1]))
    told = weighted.losses(model, head, objective)
    reported = plain.losses(model, head, objective).cross_entropy
    assert float(told.cross_entropy) == pytest.approx(float(reported), rel=1e-6)
    assert told.parts is None


def test_the_pieces_of_a_row_have_its_weight() -> None:
    ids = torch.arange(16).reshape(2, 8)
    cut = replace(TokenBatch(ids, ids, (5, 6)), weights=torch.tensor([2.0, 7.0])).cut(4)
    assert cut.sequence_ids == (5,) * 4 + (6,) * 4
    assert cut.weights is not None
    assert cut.weights.tolist() == [2.0] * 4 + [7.0] * 4
