"""Scratch of embeddings, searches and products, worked out by hand from PyTorch's source."""

from __future__ import annotations

import pytest
import torch

from .operations import aten, f32, i64, meta, run, same, scratch

EMBEDDING_BACKWARD = aten.embedding_dense_backward.default


def test_few_indices_are_not_sorted() -> None:
    gradient, indices = meta(3072, 64), meta(3072, dtype=i64)
    assert run(EMBEDDING_BACKWARD, gradient, indices, 1000, -1, False) == []
    assert run(EMBEDDING_BACKWARD, meta(64, 3072).t(), indices, 1000, -1, False) == same(64 * 3072 * 2)


def test_many_indices_are_sorted_and_summed_in_segments() -> None:
    found = run(EMBEDDING_BACKWARD, meta(4, 1000, 64), meta(4, 1000, dtype=i64), 1000, -1, False)
    partials = 400 + 1000
    tables = (32000, 32000, 32000, 8, 8000, 8000, 8, partials * 8)
    assert found == same(*tables, partials * 64 * 4)


def test_one_index_more_than_few_is_sorted() -> None:
    assert run(EMBEDDING_BACKWARD, meta(3073, 64), meta(3073, dtype=i64), 9000, -1, False)[:2] == same(
        3073 * 8, 3073 * 8
    )


def test_scaling_by_frequency_sorts_and_counts() -> None:
    found = run(EMBEDDING_BACKWARD, meta(100, 64, dtype=f32), meta(100, dtype=i64), 1000, -1, True)
    assert found == same(*[800] * 4, 8, 800, 800, 8, 110 * 8, 110 * 64 * 4)


def test_few_segments_may_be_summed_in_place() -> None:
    found = run(EMBEDDING_BACKWARD, meta(8000, 64), meta(8000, dtype=i64), 100, -1, False)
    partials = 800 + 100
    fused = partials * 8 + 100 * 64 * 4
    two_passes = 2 * 800 + 8 + partials * 8 + partials * 64 * 4
    assert found == [*same(64000, 64000, 64000, 8), (fused, two_passes)]


def test_in_float32_they_are_summed_where_they_belong() -> None:
    found = run(EMBEDDING_BACKWARD, meta(8000, 64, dtype=f32), meta(8000, dtype=i64), 100, -1, False)
    assert found[-1][0] == 900 * 8


@pytest.mark.parametrize(
    ("count", "rows", "width", "in_place"),
    [
        (20000, 511, 64, True),  # 2511 partial sums for 511 blocks: more than 4 each
        (20000, 512, 64, False),  # as many blocks as 4 on each of 128 multiprocessors
        (3100, 104, 64, False),  # 414 partial sums for 104 blocks
        (3100, 103, 64, True),
        (20000, 256, 1000, True),  # 1024 columns, rounded to warps: one block per segment
        (20000, 256, 2048, False),  # two blocks per segment
    ],
)
def test_when_segments_are_summed_in_place(count: int, rows: int, width: int, in_place: bool) -> None:
    found = run(EMBEDDING_BACKWARD, meta(count, width), meta(count, dtype=i64), rows, -1, False)
    assert (len(found) == 5) == in_place


def test_nonzero() -> None:
    assert scratch(aten.nonzero.default, meta(100, 64, dtype=torch.bool)) == [(4, 4), (1, 200 + 4096)]


def test_cumsum_casts() -> None:
    assert run(aten.cumsum.default, meta(10, 10, dtype=torch.bool), 1) == same(800)
    assert run(aten.cumsum.default, meta(10, 10), 1) == []


def test_products_copy_what_cublas_cannot_read() -> None:
    a, b = meta(6, 10), meta(10, 8)
    assert run(aten.mm.default, a, b) == []
    assert run(aten.mm.default, meta(10, 6).t(), b[:, :4]) == []
    assert run(aten.mm.default, meta(6, 20)[:, ::2], b) == same(6 * 10 * 2)
    assert run(aten.mm.default, meta(30).as_strided((6, 10), (4, 1)), b) == same(6 * 10 * 2)  # rows overlap
    assert run(aten.mm.default, meta(30).as_strided((6, 10), (1, 4)), b) == same(6 * 10 * 2)
    assert scratch(aten.mm.dtype, a, b, f32) == []
    assert run(aten.addmm.default, meta(4), a, meta(20, 8)[::2, ::2]) == same(10 * 4 * 2)
    assert run(aten.baddbmm.default, meta(3, 6, 8), meta(3, 6, 1).expand(3, 6, 10), meta(3, 10, 8)) == same(
        3 * 6 * 10 * 2
    )
    assert run(aten.addmm.default, meta(8), meta(6, 20)[:, ::2], b) == same(6 * 10 * 2)
    assert run(aten.bmm.default, meta(3, 6, 1).expand(3, 6, 10), meta(3, 10, 8)) == same(3 * 6 * 10 * 2)
    assert run(aten.bmm.default, meta(3, 6, 10), meta(3, 10, 1).expand(3, 10, 8)) == same(3 * 10 * 8 * 2)
