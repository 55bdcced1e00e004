from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from galore.trainer.data.rows import order
from galore.trainer.data.rows.order import Ids, Words, permute, rows_of_step


def permutation(size: int, seed: int = 0, epoch: int = 0) -> np.ndarray:
    return permute(np.arange(size), size, seed, np.full(size, epoch))


@pytest.mark.parametrize("size", [1, 2, 3, 97, 256, 257, 1000, 2**20 + 3])
def test_is_a_bijection(size: int) -> None:
    assert np.array_equal(np.sort(permutation(size, seed=5, epoch=3)), np.arange(size))


def test_differs_by_epoch_and_seed() -> None:
    base = permutation(1000)
    for other in (permutation(1000, epoch=1), permutation(1000, seed=1), np.arange(1000)):
        assert (base == other).sum() < 10  # a random pair agrees in one place on average


def test_does_not_depend_on_the_company_of_an_index() -> None:
    whole = permutation(1000, seed=9, epoch=2)
    some = np.array([999, 0, 17, 17])
    assert np.array_equal(permute(some, 1000, 9, np.full(4, 2)), whole[some])


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_small_permutations_are_equally_frequent(size: int) -> None:
    draws = 600 * math.factorial(size)
    index = np.tile(np.arange(size), draws)
    seen = permute(index, size, 0, np.repeat(np.arange(draws), size)).reshape(draws, size)
    counts = Counter(map(tuple, seen.tolist()))
    assert len(counts) == math.factorial(size)
    chi_squared = sum((count - 600) ** 2 / 600 for count in counts.values())
    freedom = math.factorial(size) - 1
    assert chi_squared < freedom + 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("size", [16, 97])
def test_every_index_goes_everywhere(size: int) -> None:
    draws = size * 200
    landed = permute(np.full(draws, 13), size, 3, np.arange(draws))
    counts = np.bincount(landed, minlength=size)
    assert ((counts - 200) ** 2 / 200).sum() < size - 1 + 5 * math.sqrt(2 * (size - 1))


@pytest.mark.parametrize("size", [1, 2, 17, 255])
def test_a_table_goes_where_the_walk_does(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = np.arange(1300) % 700  # of which more than the tables that are held at once
    index = np.arange(1300) % size
    by_table = permute(index, size, 5, epochs)
    monkeypatch.setattr(order, "_permute_few", walked)
    assert np.array_equal(permute(index, size, 5, epochs), by_table)


def walked(index: Ids, size: int, key: Words) -> Ids:
    value, half = index.astype(np.uint64), np.uint64(order.MIN_HALF_BITS)
    value = order._feistel(value, half, key)
    while (outside := value >= size).any():
        value[outside] = order._feistel(value[outside], half, key[outside])
    return value.astype(np.int64)


def test_few_rows_cost_no_walk_through_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two rows a batch of 512 has 256 epochs; each index would walk 128 times through 256 places."""
    calls, feistel = [], order._feistel
    monkeypatch.setattr(order, "_feistel", lambda *given: calls.append(given) or feistel(*given))
    rows_of_step(3, 512, 2, seed=0, shuffle=True)
    assert len(calls) == 1


def test_neighbours_are_separated() -> None:
    gaps = np.abs(np.diff(permutation(100_000)))
    assert abs(gaps.mean() / 100_000 - 1 / 3) < 0.01


@pytest.mark.parametrize("batch", [4, 7, 25])
def test_steps_walk_through_whole_epochs(batch: int) -> None:
    size = 10
    rows = np.concatenate([rows_of_step(step, batch, size, 1, True) for step in range(20)])
    for epoch in range(len(rows) // size):
        assert np.array_equal(np.sort(rows[epoch * size : (epoch + 1) * size]), np.arange(size))


def test_a_batch_may_be_longer_than_an_epoch() -> None:
    counts = np.bincount(rows_of_step(3, 20, 5, 0, True), minlength=5)
    assert counts.tolist() == [4] * 5


def test_without_shuffle_rows_come_as_stored() -> None:
    assert rows_of_step(1, 4, 6, 0, False).tolist() == [4, 5, 0, 1]


def test_far_steps_and_large_seeds() -> None:
    rows = rows_of_step(10**12, 512, 10**9, 2**64 + 5, True)
    assert rows.min() >= 0
    assert rows.max() < 10**9
    assert len(set(rows.tolist())) == 512
