"""Projectors in few bits: within half a step, of exactly the stated bytes, and no longer orthonormal by a known amount."""

import math

import pytest
import torch

from galore.kernels.ops.compressed import compress, expand
from galore.kernels.reference.operations import gram_error
from galore.kernels.storage import rounding
from galore.kernels.storage.layout import GROUP

SHAPES = [(64, 16), (512, 128), (1, 1), (1, 7), (5, 3), (37, 11), (129, 3), (128, 1), (3, 85)]


def basis(a, r):
    torch.manual_seed(0)
    return torch.linalg.qr(torch.randn(a, r, dtype=torch.float64)).Q.float()


def largest(bits):
    return 2 ** (bits - 1) - 1


def rounded(p, bits):
    """The format as a statement in float64, element by element."""
    flat = p.double().flatten()
    out = torch.empty_like(flat)
    for first in range(0, flat.numel(), GROUP):
        group = flat[first : first + GROUP]
        scale = group.abs().max().half().double() / largest(bits)
        out[first : first + GROUP] = (group / scale).round().clamp(-largest(bits), largest(bits)) * scale
    return out.view(p.shape)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_each_element_goes_to_the_nearest_of_its_group(shape, bits):
    torch.manual_seed(0)
    p = torch.randn(shape) * torch.logspace(-3, 0, shape[0])[:, None]
    back = expand(compress(p, bits), shape, torch.float32)
    assert back.shape == shape
    torch.testing.assert_close(back.double(), rounded(p, bits), rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_make_no_difference(monkeypatch, shape, bits):
    p = torch.randn(shape)
    whole, back = compress(p, bits), expand(compress(p, bits), shape, torch.bfloat16)
    monkeypatch.setitem(rounding.BLOCK, "cpu", 2 * GROUP)
    blocked = compress(p, bits)
    assert all(torch.equal(whole[name], blocked[name]) for name in whole)
    assert torch.equal(expand(blocked, shape, torch.bfloat16), back)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", [*SHAPES, (2048, 513)])
def test_bytes_are_the_formula(shape, bits, device):
    stored = compress(torch.ones(shape, device=device), bits)
    k = math.prod(shape)
    assert sum(tensor.nbytes for tensor in stored.values()) == math.ceil(k * bits / 8) + 2 * math.ceil(k / GROUP)
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in stored.values())
    assert stored["codes"].dtype == (torch.int8 if bits == 8 else torch.uint8)
    assert expand(stored, shape, torch.bfloat16).shape == shape


@pytest.mark.parametrize("bits", [4, 8])
def test_zeros_codes_and_extremes_are_exact(bits):
    p = torch.zeros(4, GROUP)
    p[1] = torch.arange(GROUP).remainder(2 * largest(bits) + 1) - largest(bits)  # every code there is
    p[2, 5] = -0.75
    assert torch.equal(expand(compress(p, bits), p.shape, torch.float32), p)
    again = compress(expand(compress(basis(64, 16), bits), (64, 16), torch.float32), bits)
    assert torch.equal(again["codes"], compress(basis(64, 16), bits)["codes"])


def test_what_is_not_finite_stays_so():
    p = torch.ones(2, GROUP)
    p[0, 3] = torch.nan
    back = expand(compress(p, 4), p.shape, torch.float32)
    assert bool(back[0].isnan().all())
    assert torch.equal(back[1], p[1])


def test_the_layout_of_p_does_not_matter():
    p = basis(40, 12)
    columns = p.mT.contiguous().mT
    assert all(torch.equal(a, b) for a, b in zip(compress(p, 4).values(), compress(columns, 4).values(), strict=True))


@pytest.mark.parametrize(("bits", "relative", "gram"), [(8, 0.0065, 0.0046), (4, 0.117, 0.085)])
def test_the_stated_errors(bits, relative, gram):
    p = basis(512, 128)
    assert gram_error(p).item() < 1e-5
    back = expand(compress(p, bits), p.shape, torch.float32)
    assert ((back - p).norm() / p.norm()).item() == pytest.approx(relative, rel=0.03)
    assert gram_error(back).item() == pytest.approx(gram, rel=0.03)


def test_other_numbers_of_bits_are_refused():
    with pytest.raises(ValueError, match="4 or 8"):
        compress(torch.ones(2, 2), 2)
