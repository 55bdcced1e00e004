from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from galore.trainer.data.rows import mixture
from galore.trainer.data.rows.mapped import Order
from galore.trainer.data.rows.mixture import LONGEST_PERIOD, MixedOrder, MixedRows, merged, shares
from galore.trainer.data.rows.order import permute
from galore.trainer.data.tokens.store import Ids


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([1.0], (1,)),
        ([1.0, 1.0], (1, 1)),
        ([0.7, 0.2, 0.1], (7, 2, 1)),
        ([70, 20, 10], (7, 2, 1)),
        ([0.5, 1.5], (1, 3)),
        ([0.333, 0.667], (333, 667)),
        ([1e-8, 1.0], (1, LONGEST_PERIOD - 1)),
    ],
)
def test_shares_are_what_the_decimals_say(weights: list[float], expected: tuple[int, ...]) -> None:
    assert shares(weights) == expected


def test_shares_that_need_more_positions_are_near() -> None:
    weights = [0.123456, 0.5, 0.376544, 1e-9, 0.0078125]
    found = shares(weights)
    assert sum(found) in (LONGEST_PERIOD, LONGEST_PERIOD + 1)
    for share, weight in zip(found, weights, strict=True):
        assert abs(share - LONGEST_PERIOD * weight / sum(weights)) <= 1


def order(shuffle: bool = True, batch: int = 7, **more: Any) -> MixedOrder:
    return MixedOrder(3, batch, shuffle, **{"sizes": (5, 11, 2), "shares": (5, 3, 2)} | more)


def drawn(each: MixedOrder, steps: int) -> list[int]:
    return [int(row) for step in range(steps) for row in each.rows(step, 18)]


def source_of(row: int) -> int:
    return 0 if row < 5 else 1 if row < 16 else 2


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_period_has_the_shares_exactly(shuffle: bool) -> None:
    rows = drawn(order(shuffle), 100)
    for period in zip(*[iter(rows)] * 10, strict=True):
        assert Counter(map(source_of, period)) == {0: 5, 1: 3, 2: 2}


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_source_goes_through_all_its_rows_before_any_comes_again(shuffle: bool) -> None:
    rows = drawn(order(shuffle), 110)
    for source, (start, size) in enumerate([(0, 5), (5, 11), (16, 2)]):
        its = [row - start for row in rows if source_of(row) == source]
        epochs = [its[at : at + size] for at in range(0, len(its) - size + 1, size)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert (len({tuple(epoch) for epoch in epochs}) > 1) is shuffle


def test_the_order_depends_on_no_step_before_and_on_no_batch_size() -> None:
    assert [int(row) for step in (5, 3) for row in order().rows(step, 18)] == [
        *drawn(order(), 6)[35:],
        *drawn(order(), 4)[21:],
    ]
    assert drawn(order(), 30) == drawn(order(batch=210), 1) == drawn(order(batch=1), 210)
    assert drawn(order(), 30) != drawn(MixedOrder(4, 7, True, (5, 11, 2), (5, 3, 2)), 30)


def test_a_batch_of_many_periods_is_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(index: Ids, *given: Any) -> Ids:
        calls.append(len(index))
        return permute(index, *given)

    monkeypatch.setattr(mixture, "permute", counted)
    order(batch=512, sizes=(300, 500), shares=(1, 1)).rows(7, 0)
    assert calls == [512, 256, 256]  # whose turn it is, then the rows of either


def test_without_shuffle_sources_take_turns_evenly() -> None:
    assert list(map(source_of, drawn(order(shuffle=False, shares=(1, 1, 2)), 1))) == [2, 0, 1, 2, 2, 0, 1]


def test_one_source_in_stored_order_is_an_order_without_sources() -> None:
    one = MixedOrder(3, 7, False, (18,), (1,))
    assert drawn(one, 9) == [int(row) for step in range(9) for row in Order(3, 7, False).rows(step, 18)]


class Numbers:
    """Rows of four tokens that say who they are."""

    def __init__(self, first: int, count: int, isolated: bool = False) -> None:
        self.first, self.count, self.isolated = first, count, isolated

    def __len__(self) -> int:
        return self.count

    def read(self, numbers: Ids) -> tuple[Ids, Ids]:
        ids = np.repeat(numbers[:, None] + self.first, 4, axis=1)
        return ids, ids + 1

    def positions(self, numbers: Ids) -> Ids | None:
        return np.tile([0, 1, 0, 1], (len(numbers), 1)) if self.isolated else None

    @property
    def summary(self) -> dict[str, Any]:
        return {"sequences": self.count}


def test_rows_are_those_of_their_source() -> None:
    rows = MixedRows([Numbers(100, 3), Numbers(200, 0), Numbers(300, 2)], 4)
    assert (len(rows), rows.summary) == (5, {"sequences": 5})
    ids, labels = rows.read(np.array([4, 0, 2, 3]))
    assert ids[:, 0].tolist() == [301, 100, 102, 300]
    assert np.array_equal(labels, ids + 1)
    assert rows.positions(np.array([0, 4])) is None


def test_a_target_counts_by_the_source_of_its_row() -> None:
    parts = [Numbers(100, 3), Numbers(200, 0), Numbers(300, 2)]
    found = MixedRows(parts, 4, [1.0, 5.0, 0.25]).weights(np.array([4, 0, 2, 3]))
    assert found is not None
    assert found.tolist() == [0.25, 1.0, 1.0, 0.25]
    assert MixedRows(parts, 4, [1.0, 1.0, 1.0]).weights(np.array([4, 0])) is None
    assert MixedRows(parts, 4).weights(np.array([4, 0])) is None


def test_positions_begin_anew_only_where_the_source_says() -> None:
    rows = MixedRows([Numbers(0, 2, isolated=True), Numbers(0, 2)], 4)
    found = rows.positions(np.array([2, 1]))
    assert found is not None
    assert found.tolist() == [[0, 1, 2, 3], [0, 1, 0, 1]]
    assert rows.positions(np.array([2, 3])) is None


def test_summaries_are_added_up() -> None:
    one = {"documents": {"train": 3}, "bad_rows": {"empty": {"rows": 1, "first": "a"}}, "passed_over": ["x"]}
    two = {"documents": {"train": 4}, "bad_rows": {"empty": {"rows": 2, "first": "b"}}, "passed_over": ["y"], "n": 1}
    assert merged([one, two]) == {
        "documents": {"train": 7},
        "bad_rows": {"empty": {"rows": 3, "first": "a"}},
        "passed_over": ["x", "y"],
        "n": 1,
    }
