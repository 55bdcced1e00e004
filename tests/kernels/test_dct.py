"""The DCT basis against its definition in float64, the choice of columns against doing it by hand."""

import math

import pytest
import torch

from galore.kernels.dct import column_energies, dct, dct_matrix, index_dtype, top_columns
from galore.kernels.rules.transport import change_of_basis
from galore.kernels.subspace import gaussian

SIZES = [1, 2, 3, 4, 5, 37, 64]


def definition(a):
    """D[i, j] = √(2/a) cos(π (2i + 1) j / 2a), column 0 divided by √2, one number at a time."""
    entry = lambda i, j: math.cos(math.pi * (2 * i + 1) * j / (2 * a)) * math.sqrt((2 if j else 1) / a)  # noqa: E731
    return torch.tensor([[entry(i, j) for j in range(a)] for i in range(a)], dtype=torch.float64)


@pytest.mark.parametrize("a", SIZES)
def test_the_basis_is_its_definition_and_orthonormal(a):
    d = dct_matrix(a, torch.arange(a), torch.empty(0, dtype=torch.float64))
    torch.testing.assert_close(d, definition(a), atol=1e-13, rtol=0)
    torch.testing.assert_close(d.mT @ d, torch.eye(a).double(), atol=1e-13, rtol=0)


@pytest.mark.parametrize("a", SIZES)
def test_the_fast_transform_is_the_product(a):
    x = torch.randn(a, 7)
    torch.testing.assert_close(dct(x).double(), definition(a).mT @ x.double(), atol=2e-6, rtol=0)


def test_chosen_columns_of_a_large_basis_are_exact():
    a, indices = 40000, torch.tensor([39999, 0, 17, 33333], dtype=torch.int32)
    p = dct_matrix(a, indices, torch.empty(0))
    i = torch.arange(a).double()[:, None]
    exact = torch.cos(math.pi / (2 * a) * (((2 * i + 1) * indices) % (4 * a))) * math.sqrt(2 / a)
    exact[:, 1] = a**-0.5
    torch.testing.assert_close(p.double(), exact, atol=1e-9, rtol=0)
    torch.testing.assert_close(p.double().mT @ p.double(), torch.eye(4).double(), atol=1e-5, rtol=0)


def test_columns_come_in_the_dtype_asked_for_rounded_once():
    indices = torch.tensor([3, 1, 30], dtype=torch.int16)
    exact = dct_matrix(48, indices, torch.empty(0, dtype=torch.float64))
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.equal(dct_matrix(48, indices, torch.empty(0, dtype=dtype)), exact.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_energies_are_the_row_norms_block_after_block(monkeypatch, dtype):
    g = torch.randn(37, 50).to(dtype)
    exact = (definition(37).mT @ g.double()).square().sum(1)
    torch.testing.assert_close(column_energies(g).double(), exact, atol=0, rtol=1e-5)
    monkeypatch.setattr("galore.kernels.dct.block_elements", lambda g: 37 * 7)  # 50 columns: seven blocks and a rest
    torch.testing.assert_close(column_energies(g).double(), exact, atol=0, rtol=1e-5)
    torch.testing.assert_close(column_energies(g.mT.contiguous().mT).double(), exact, atol=0, rtol=1e-5)


def test_the_top_columns_are_those_a_gradient_is_made_of():
    chosen = torch.tensor([2, 11, 29, 40], dtype=torch.int16)
    g = dct_matrix(48, chosen, torch.empty(0)) @ (torch.tensor([[1.0], [8.0], [2.0], [4.0]]) * torch.randn(4, 90))
    noisy = g + 1e-3 * torch.randn(48, 90)
    found = top_columns(noisy, 4)
    assert (found.dtype, found.tolist()) == (torch.int16, chosen.tolist())
    assert top_columns(noisy, 2).tolist() == [11, 40]
    assert top_columns(noisy @ gaussian(90, 30, 0, noisy), 4).tolist() == chosen.tolist()  # from a sketch


def test_no_other_columns_capture_more():
    torch.manual_seed(0)
    g = torch.randn(30, 60) * torch.rand(30, 1)
    energies = (definition(30).mT @ g.double()).square().sum(1)
    captured = (dct_matrix(30, top_columns(g, 9), g).mT @ g).square().sum()
    assert captured.item() == pytest.approx(energies.topk(9).values.sum().item(), rel=1e-5)


def test_equal_energies_go_to_the_lower_index():
    assert top_columns(torch.zeros(20, 30), 5).tolist() == [0, 1, 2, 3, 4]


def test_indices_take_two_bytes_while_they_fit():
    assert [index_dtype(rows) for rows in (4096, 1 << 15, (1 << 15) + 1)] == [torch.int16, torch.int16, torch.int32]


def test_a_change_of_basis_takes_every_row_to_the_same_column():
    old, new = torch.tensor([2, 4, 7, 9], dtype=torch.int16), torch.tensor([2, 3, 4, 7, 8], dtype=torch.int16)
    moments = torch.randn(4, 6)
    moved = change_of_basis(*(dct_matrix(12, indices, moments) for indices in (new, old))) @ moments
    torch.testing.assert_close(moved, torch.stack([moments[0], 0 * moments[0], *moments[1:3], 0 * moments[0]]))


def test_everything_goes_through_on_meta():
    g = torch.empty(64, 90, device="meta", dtype=torch.bfloat16)
    indices = top_columns(g, 8)
    assert (indices.is_meta, indices.shape, indices.dtype) == (True, (8,), torch.int16)
    p = dct_matrix(64, indices, g)
    assert (p.is_meta, p.shape, p.dtype) == (True, (64, 8), torch.bfloat16)
