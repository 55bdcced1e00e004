"""The arithmetic of scratch sizes: what is of no bytes is not taken, and arguments that do not arrive have a default."""

from __future__ import annotations

import pytest
import torch

from galore.trainer.memory.workspaces.scratch import at, between, blocks, copied, exact, up


def test_storages_of_no_bytes_are_not_taken() -> None:
    assert exact(3, 0, 1) == [(3, 3), (1, 1)]
    assert exact() == exact(0) == between(0, 0) == []


def test_bounds_of_one_storage() -> None:
    assert between(2, 9) == [(2, 9)]
    assert between(0, 9) == [(1, 9)]  # whatever is taken has a byte


def test_an_argument_that_has_its_default_does_not_arrive() -> None:
    assert [at(("a", None), index, "default") for index in range(3)] == ["a", None, "default"]


def test_a_copy_is_made_of_what_is_not_contiguous() -> None:
    matrix = torch.empty(6, 10, dtype=torch.bfloat16, device="meta")
    assert copied(matrix) == 0
    assert copied(matrix.t()) == 6 * 10 * 2
    assert copied(matrix[:, ::2]) == 6 * 5 * 2  # of what it shows, not of what it lies in
    assert copied(matrix[:, :1].expand(6, 10)) == 6 * 10 * 2


@pytest.mark.parametrize(("number", "covered"), [(0, 0), (1, 1), (32, 1), (33, 2)])
def test_the_last_block_may_be_short(number: int, covered: int) -> None:
    assert blocks(number, 32) == covered
    assert up(number, 32) == 32 * covered
