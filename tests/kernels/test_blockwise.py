"""8-bit storage keeps what bitsandbytes' own format keeps."""

import pytest
import torch

pytest.importorskip("bitsandbytes", reason="the 8bit extra is not installed")
from galore.kernels.blockwise import BLOCK_SIZE, dequantize, quantize


@pytest.mark.parametrize("length", [256, 1000, 4096 + 17])
@pytest.mark.parametrize("signed", [True, False])
def test_round_trip_is_within_the_format(length, signed):
    torch.manual_seed(0)
    value = torch.randn(length) * torch.logspace(-4, 0, length)
    value = value if signed else value.square()
    codes, absmax = quantize(value, signed)
    assert codes.dtype == torch.uint8
    assert absmax.shape == (-(-length // BLOCK_SIZE),)
    back = dequantize(codes, absmax, signed)
    limit = absmax.repeat_interleave(BLOCK_SIZE)[:length]
    assert bool(((back - value).abs() <= 0.05 * limit).all())
    assert ((back - value).norm() / value.norm()).item() < 0.03


def test_zero_and_a_positive_block_maximum_are_exact():
    value = torch.zeros(512)
    value[300] = 3.5
    codes, absmax = quantize(value, True)
    back = dequantize(codes, absmax, True)
    assert torch.equal(back, value)
