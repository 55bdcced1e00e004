"""Scratch of factorizations: copies as PyTorch's source makes them, work arrays as users of cuSOLVER reported them."""

from __future__ import annotations

import pytest

from .operations import aten, f32, f64, meta, run, same


def test_qr() -> None:
    tall = meta(512, 128, dtype=f32)
    assert run(aten.linalg_qr.default, tall) == [*same(512, 4), (786432, 786432 + 512 * 128 * 4)]
    assert run(aten.linalg_qr.default, tall, "r")[0] == (512 * 128 * 4, 512 * 128 * 4)
    assert run(aten.linalg_qr.default, meta(128, 128, dtype=f32), "r")[0] == (512, 512)
    assert run(aten.linalg_qr.default, meta(3, 512, 128, dtype=f32))[:2] == same(3 * 512, 3 * 4)


def test_svd() -> None:
    tall = meta(512, 128, dtype=f32)
    work = 3 * 128 * 128 + 143 * 128 + 4160
    assert run(aten._linalg_svd.default, tall) == [*same(262144, 4), (work * 4, (work + 264 * 512) * 4)]
    assert run(aten._linalg_svd.default, tall, False, False)[1] == (640 * 128 * 4, 640 * 128 * 4)


@pytest.mark.parametrize(("rows", "reported"), [(20000, 3211456640), (20500, 4811456640)])
def test_svd_takes_at_least_what_was_reported(rows: int, reported: int) -> None:
    assert run(aten._linalg_svd.default, meta(20000, rows, dtype=f32))[-1][0] == reported


def test_eigh() -> None:
    small = meta(100, 100, dtype=f32)
    work = ((3 * 100 * 100 + 130 * 100) * 4, (4 * 100 * 100 + 256 * 100) * 4)
    assert run(aten._linalg_eigh.default, small) == [(4, 4), work]
    assert run(aten._linalg_eigh.default, small, "L", False) == [*same(40000, 4), work]
    low, high = run(aten._linalg_eigh.default, meta(10000, 10000, dtype=f64))[-1]
    assert low < 2410452488 < high  # reported
