"""Quantizers give the codes of torch's own, bit for bit, and read back the same numbers."""

import pytest
import torch

from galore.kernels.ops import compressed, int8
from galore.kernels.storage import blockwise, fp8


def numbers(count):
    x = torch.randn(count) * torch.randn(count).exp()
    x[10:14] = torch.tensor([0.0, 1e-30, -1e-30, 5.0])
    return x


@pytest.mark.parametrize("signed", [True, False])
def test_every_code_and_both_sides_of_every_bound(machine, signed):
    """Nearest codes are exact: the numbers next to each midpoint, the midpoints, and each value of the map."""
    values = blockwise.code(signed, torch.device("cpu"))
    middle = (values[1:] + values[:-1]) / 2
    x = torch.cat(
        [values, middle, torch.nextafter(middle, torch.tensor(2.0)), torch.nextafter(middle, torch.tensor(-2.0))]
    )
    x = torch.cat([torch.ones(len(x) // 255 + 1, 1), torch.nn.functional.pad(x, (0, -len(x) % 255)).view(-1, 255)], 1)
    x = x.view(-1).contiguous()  # one 1.0 in each block of 256, which is its absmax
    compare_blocks(machine, x, signed)


@pytest.mark.parametrize("signed", [True, False])
def test_random_numbers_and_a_ragged_end(machine, signed):
    x = numbers(256 * 9 + 100)
    compare_blocks(machine, x if signed else x.abs(), signed)


def compare_blocks(machine, x, signed):
    blocks = -(-x.numel() // 256)
    wanted, wanted_absmax = torch.zeros(x.numel(), dtype=torch.uint8), torch.zeros(blocks)
    blockwise.quantize_(wanted, wanted_absmax, x.clone(), signed)
    codes, absmax, back = torch.zeros_like(wanted), torch.zeros(blocks), torch.empty_like(x)
    machine.run(machine.kernels.quantize.quantize_plan(codes, absmax, x, signed))
    assert torch.equal(absmax, wanted_absmax)
    assert torch.equal(codes, wanted)
    machine.run(machine.kernels.quantize.dequantize_plan(back, codes, absmax, signed))
    assert torch.equal(back, blockwise.dequantize(wanted, wanted_absmax, signed))


def test_a_nan_and_an_inf_spoil_their_block_and_no_other(machine):
    x = numbers(256 * 8)
    x[5], x[300] = torch.nan, torch.inf
    codes, absmax, back = torch.zeros(x.numel(), dtype=torch.uint8), torch.zeros(8), torch.empty_like(x)
    machine.run(machine.kernels.quantize.quantize_plan(codes, absmax, x, True))
    machine.run(machine.kernels.quantize.dequantize_plan(back, codes, absmax, True))
    assert not back[:512].isfinite().any()
    assert back[512:].isfinite().all()


def test_e4m3_as_torch_rounds(machine):
    """But for numbers so near a midpoint that the compiler's way over fp16 cannot tell: four codes of a thousand."""
    x = numbers(256 * 9 + 100)
    wanted, wanted_absmax = torch.zeros(x.numel(), dtype=torch.float8_e4m3fn), torch.zeros(10)
    fp8.quantize_(wanted, wanted_absmax, x)
    codes, absmax, back = torch.zeros_like(wanted), torch.zeros(10), torch.empty_like(x)
    machine.run(machine.kernels.quantize.quantize_plan(codes, absmax, x, True))
    assert torch.equal(absmax, wanted_absmax)
    assert float((codes.view(torch.uint8) != wanted.view(torch.uint8)).double().mean()) < 5e-3
    machine.run(machine.kernels.quantize.dequantize_plan(back, codes, absmax, True))
    assert torch.equal(back, fp8.dequantize(codes, absmax))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_projectors(machine, bits, dtype):
    p = (numbers(128 * 21 + 50) * 1e-2).to(dtype)
    wanted = compressed.compress(p, bits)
    codes, absmax, back = (torch.zeros_like(wanted["codes"]), torch.zeros_like(wanted["absmax"]), torch.empty_like(p))
    machine.run(machine.kernels.quantize.compress_plan(codes, absmax, p))
    assert torch.equal(absmax, wanted["absmax"])
    assert torch.equal(codes, wanted["codes"])
    machine.run(machine.kernels.quantize.expand_plan(back, codes, absmax))
    assert torch.equal(back, compressed.expand(wanted, p.shape, dtype))


@pytest.mark.parametrize("columns", [128, 172, 97])  # groups of 128, 86 and 97
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights(machine, columns, dtype):
    w = (numbers(30 * columns).view(30, columns) * 1e-2).to(dtype)
    wanted, wanted_scales = int8.quantize(w)
    codes, scales, back = torch.zeros_like(wanted), torch.zeros_like(wanted_scales), torch.empty_like(w)
    machine.run(machine.kernels.quantize.quantize_weight_plan(codes, scales, w))
    assert torch.equal(scales, wanted_scales)
    assert torch.equal(codes, wanted)
    machine.run(machine.kernels.quantize.dequantize_weight_plan(back, codes, scales))
    assert torch.equal(back, int8.dequantize(wanted, wanted_scales, dtype))


def test_a_nan_of_a_weight_spoils_its_group_and_no_other(machine):
    w = numbers(4 * 128).view(4, 128) * 1e-2
    w[1, 7] = torch.nan
    codes, scales = torch.zeros(w.shape, dtype=torch.int8), torch.zeros(4, 1, dtype=torch.bfloat16)
    machine.run(machine.kernels.quantize.quantize_weight_plan(codes, scales, w))
    assert scales[:, 0].isnan().tolist() == [False, True, False, False]
