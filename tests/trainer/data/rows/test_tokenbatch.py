from __future__ import annotations

import pytest
import torch

from galore.trainer.data.rows.tokenbatch import TokenBatch


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
