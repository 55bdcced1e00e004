"""Weights in 8 bits against float64: codes are near, updates arrive without bias however small, scales change only when they must."""

import math

import pytest
import torch

from galore.kernels.ops import int8
from galore.kernels.ops.int8 import HEADROOM, add_update_int8_, dequantize, int8_bytes, quantize
from galore.kernels.ops.projection import lift_update_
from galore.kernels.storage import rounding
from galore.kernels.storage.layout import group_size
from galore.kernels.storage.rounding import RoundingNoise

CPU = torch.device("cpu")
COLUMNS = {
    128: 128, 4096: 128, 11008: 128, 2736: 114, 5461: 127, 64: 64, 96: 96, 40: 40, 131: 131, 509: 509, 7: 7, 2 * 67: 67
}  # fmt: skip
SHAPES = [(16, 128), (9, 256), (5, 2736), (3, 5461), (40, 131), (7, 7), (1, 64)]


def bits(count, seed=0):
    return torch.randint(0, 1 << 16, (count,), dtype=torch.int32, generator=torch.Generator().manual_seed(seed))


def value(codes, scales):
    """s q in float64, element by element."""
    size = group_size(codes.shape[1])
    return codes.double() * scales.double().repeat_interleave(size, 1)


def per_element(scales, columns):
    return scales.double().repeat_interleave(group_size(columns), 1)


# -- the format


@pytest.mark.parametrize("columns", COLUMNS)
def test_groups_divide_the_row(columns):
    assert group_size(columns) == COLUMNS[columns]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_codes_are_within_half_a_scale_and_bytes_are_exact(shape, dtype):
    torch.manual_seed(0)
    w = (torch.randn(shape) * torch.logspace(-6, 3, shape[0])[:, None]).to(dtype)
    codes, scales = quantize(w)
    assert (codes.dtype, scales.dtype, codes.is_contiguous()) == (torch.int8, torch.bfloat16, True)
    assert codes.nbytes + scales.nbytes == int8_bytes(*shape)
    s, error = per_element(scales, shape[1]), (value(codes, scales) - w.double()).abs()
    assert bool((error <= 0.5000001 * s).all())
    largest = w.double().view(-1, group_size(shape[1])).abs().amax(1)
    used = codes.view(-1, group_size(shape[1])).abs().amax(1)
    assert bool((used >= 125).all()), "no range is given away"
    assert bool((used <= 127).all())
    assert bool((scales.double().view(-1) * 127 >= largest).all())


def test_a_gaussian_keeps_two_digits():
    torch.manual_seed(0)
    w = torch.randn(64, 4096) * 0.02
    codes, scales = quantize(w)
    relative = ((value(codes, scales) - w.double()).norm() / w.double().norm()).item()
    mean_square = per_element(scales, 4096).square().mean().item() / 12  # of an error uniform in half a scale
    assert relative == pytest.approx((mean_square**0.5) / 0.02, rel=0.02)
    assert 0.005 < relative < 0.0075


def test_a_weight_takes_1_016_bytes():
    assert int8_bytes(4096, 11008) / (4096 * 11008) == pytest.approx(1.016, abs=5e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_dequantized_is_the_value_rounded_once(shape, dtype):
    torch.manual_seed(0)
    codes, scales = quantize(torch.randn(shape))
    w = dequantize(codes, scales, dtype)
    assert w.dtype == dtype
    assert w.is_contiguous()
    assert torch.equal(w, value(codes, scales).to(dtype))
    again, same = quantize(w.float())
    assert bool((again.int() - codes.int()).abs().max() <= 2), "nothing drifts far when a folder is read again"
    assert torch.allclose(same.float(), scales.float(), rtol=0.02)


def test_zeros_and_extremes_stay_finite():
    w = torch.zeros(4, 128)
    w[1, 3], w[2, 0], w[3] = 3e38, 1e-38, 1e-30
    codes, scales = quantize(w)
    assert bool(torch.isfinite(value(codes, scales)).all())
    assert not codes[0].any()
    assert codes[1, 3] == pytest.approx(126, abs=1)
    assert bool((scales.float() > 0).all())


def test_large_weights_are_converted_in_blocks(monkeypatch):
    torch.manual_seed(0)
    w = torch.randn(300, 128)
    whole = quantize(w)
    blocks_of = int8.blocks_of
    monkeypatch.setattr(int8, "blocks_of", lambda tensor, size, per_block: blocks_of(tensor, size, 7))
    assert all(torch.equal(a, b) for a, b in zip(quantize(w), whole, strict=True))


# -- the update


def fixed(shape=(64, 256), seed=0):
    """A weight whose groups all keep their scale: their largest code is fixed at 100."""
    torch.manual_seed(seed)
    codes = torch.randint(-99, 100, shape, dtype=torch.int8)
    codes[:, :: group_size(shape[1])] = 100
    scales = torch.rand(shape[0], shape[1] // group_size(shape[1])).add_(0.5).mul_(2e-4).bfloat16()
    return codes, scales


@pytest.mark.parametrize("decile", range(1, 7))
def test_movement_is_unbiased_at_every_size_beside_the_scale(decile):
    """Updates of 10^-k/2 to 10^-(k+1)/2 of a scale, of both signs: what arrives along the update, and what drifts."""
    codes, scales = fixed((128, 256), decile)
    start, s = value(codes, scales), per_element(scales, 256)
    torch.manual_seed(decile)
    size = 10 ** -((decile + torch.rand(codes.shape, dtype=torch.float64)) / 2)
    sign = torch.randint(0, 2, codes.shape).double() * 2 - 1
    update = size * sign * s
    steps, moved, square = 150, torch.zeros_like(start), 0.0
    for step in range(steps):
        c, t = codes.clone(), scales.clone()
        add_update_int8_(c, t, update.float(), alpha=1.0, decay=1.0, noise=bits(c.numel(), 1000 * decile + step))
        assert torch.equal(t, scales)
        change = (value(c, t) - start) / s
        moved += change
        square += change.square().sum().item()
    count = steps * codes.numel()
    error = (square / count / count) ** 0.5  # standard error of a mean of all
    along, drift = (moved * sign).mean().item() / steps, moved.mean().item() / steps
    assert abs(along - size.mean().item()) < 4 * error
    assert abs(drift - (size * sign).mean().item()) < 4 * error
    assert error < 0.05 * size.mean().item()


def moved_codes(code, update):
    """Of 65,536 equal elements, one for each value of the random bits; beside them, what keeps the scale of each group."""
    codes, scales = torch.full((2048, 33), code, dtype=torch.int8), torch.full((2048, 1), 2**-10).bfloat16()
    codes[:, 0] = 110
    noise, updates = torch.zeros(2048, 33, dtype=torch.int32), torch.full((2048, 33), update * 2**-10)
    noise[:, 1:] = torch.arange(1 << 16, dtype=torch.int32).view(2048, 32)
    updates[:, 0] = 0.0
    add_update_int8_(codes, scales, updates, alpha=1.0, decay=1.0, noise=noise.view(-1))
    return int((codes[:, 1:].int() - code).sum())


def test_the_random_bits_favour_neither_direction():
    """An update and its opposite move as many codes, within what fp32 tells apart: or all weights would drift together."""
    torch.manual_seed(0)
    excess = []
    for size in torch.rand(12).tolist():
        for code in (3, 20, 50, 100):
            excess.append((moved_codes(code, size) + moved_codes(code, -size)) / 2)
    assert abs(sum(excess) / len(excess)) < 0.25


def test_nearest_is_the_nearest_code_of_the_fp32_sum():
    codes, scales = fixed()
    start, s = value(codes, scales), per_element(scales, 256)
    torch.manual_seed(1)
    update = torch.randn(codes.shape, dtype=torch.float64) * s
    update[:, ::128] = 0.0
    exact = (start + update).clamp(-127 * s, 127 * s)
    add_update_int8_(codes, scales, update.float(), alpha=1.0, decay=1.0)
    assert bool(((value(codes, scales) - exact).abs() <= 0.50001 * s).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("decay_after", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_update_against_float64(shape, decay_after, dtype):
    """Decay before or after; the error is half a new scale to nearest, less than a whole one at random."""
    torch.manual_seed(0)
    codes, scales = quantize(torch.randn(shape))
    start, update = value(codes, scales), torch.randn(shape).to(dtype)
    u = update.double()
    exact = 0.9 * (start - 0.3 * u) if decay_after else 0.9 * start - 0.3 * u
    for noise, most in ((None, 0.50002), (bits(codes.numel()), 1.00002)):
        c, t = codes.clone(), scales.clone()
        add_update_int8_(c, t, update.view(-1), alpha=-0.3, decay=0.9, decay_after=decay_after, noise=noise)
        assert bool(((value(c, t) - exact).abs() <= most * per_element(t, shape[1])).all())
        assert c.abs().max() <= 127


# -- the scale


def test_a_scale_stays_until_its_group_outgrows_it_or_has_shrunk_to_half():
    largest = torch.tensor([127.0, 127.1, 63.5, 63.4, 100.0, 1.0])
    codes = torch.full((6, 128), 10, dtype=torch.int8)
    scales = torch.full((6, 1), 2**-10).bfloat16()
    update = torch.zeros(6, 128)
    update[:, 5] = (largest - 10) * 2**-10
    before = scales.clone()
    add_update_int8_(codes, scales, update, alpha=1.0, decay=1.0)
    assert (scales == before).view(-1).tolist() == [True, False, True, False, True, False]
    grown = scales.float().view(-1)[[1, 3]]
    for scale, large in zip(grown, largest[[1, 3]] * 2**-10, strict=True):
        assert HEADROOM <= 127 * scale / large <= HEADROOM * (1 + 2**-6), "room to grow before the next change"
    assert codes[4, 0] == 10
    assert codes[0, 5] == 127


def test_a_scale_settles_after_it_has_changed():
    """A group at the border of its range, pushed to and fro by a hundredth: at most one change."""
    codes, scales = torch.full((1, 128), 60, dtype=torch.int8), torch.full((1, 1), 2**-10).bfloat16()
    codes[0, 0] = 126
    seen = []
    for step in range(100):
        update = torch.zeros(1, 128)
        update[0, 0] = (2 if step % 2 == 0 else -2) * 2**-10
        add_update_int8_(codes, scales, update, alpha=1.0, decay=1.0, noise=bits(128, step))
        seen.append(float(scales))
    assert len(set(seen)) == 1


def test_untouched_elements_keep_their_codes_while_the_scale_stays():
    codes, scales = fixed()
    before = codes.clone()
    update = torch.zeros(codes.shape)
    update[:, 1::2] = 0.3 * per_element(scales, 256)[:, 1::2].float()
    for step in range(50):
        add_update_int8_(codes, scales, update * (-1) ** step, alpha=1.0, decay=1.0, noise=bits(codes.numel(), step))
    assert torch.equal(codes[:, ::2], before[:, ::2])
    assert not torch.equal(codes, before)


def test_every_code_is_kept_by_every_random_number():
    codes = torch.arange(-127, 128, dtype=torch.int8).repeat(1 << 8, 1)
    codes, before = torch.cat([codes, codes], 1)[:, :384].contiguous(), None
    codes[:, ::128] = 127
    before = codes.clone()
    scales = torch.full((1 << 8, 3), 3.3e-4).bfloat16()
    for extreme in (0, 0xFFFF):
        noise = torch.full((codes.numel(),), extreme, dtype=torch.int32)
        add_update_int8_(codes, scales, torch.zeros(codes.shape), alpha=1.0, decay=1.0, noise=noise)
        assert torch.equal(codes, before)


def test_codes_never_overflow_and_nothing_is_nan():
    torch.manual_seed(0)
    codes, scales = quantize(torch.randn(32, 256))
    for step in range(60):
        update = torch.randn(32, 256) * 10.0 ** ((step % 12) - 6)
        exact = 0.999 * value(codes, scales) - update.double()
        add_update_int8_(codes, scales, update, alpha=-1.0, decay=0.999, noise=bits(codes.numel(), step))
        assert codes.abs().max() <= 127
        assert bool(torch.isfinite(scales).all())
        assert bool(((value(codes, scales) - exact).abs() <= 1.0001 * per_element(scales, 256)).all())


def test_zeros_stay_zero_and_can_start_to_move():
    codes, scales = quantize(torch.zeros(2, 128))
    add_update_int8_(codes, scales, torch.zeros(2, 128), alpha=1.0, decay=0.9, noise=bits(256))
    assert not value(codes, scales).any()
    update = torch.zeros(2, 128)
    update[1] = torch.linspace(-1e-3, 1e-3, 128)
    add_update_int8_(codes, scales, update, alpha=-1.0, decay=0.9)
    assert not value(codes, scales)[0].any()
    assert bool(((value(codes, scales) + update.double()).abs() <= 0.50001 * per_element(scales, 128)).all())
    for _ in range(40):  # and back, by decay alone, through every change of scale
        add_update_int8_(codes, scales, torch.zeros(2, 128), alpha=0.0, decay=0.5, noise=bits(256))
    assert value(codes, scales).abs().max() < 1e-12


def test_decay_alone_shrinks_a_weight_as_it_says():
    torch.manual_seed(0)
    w = torch.randn(64, 512)
    codes, scales = quantize(w)
    start = value(codes, scales)
    for step in range(400):
        add_update_int8_(
            codes, scales, torch.zeros(64, 512), alpha=0.0, decay=1 - 1e-3, noise=bits(codes.numel(), step)
        )
    kept = ((value(codes, scales) * start).sum() / start.square().sum()).item()
    assert kept == pytest.approx((1 - 1e-3) ** 400, rel=0.005)


# -- how much of small updates arrives


def bf16_first(codes, scales, update, alpha, noise):
    """Q-GaLore's order: the sum is rounded to bf16, and only then stochastically to the codes."""
    total = dequantize(codes, scales, torch.bfloat16).add_(update.bfloat16(), alpha=alpha).float()
    s = per_element(scales, codes.shape[1]).float()
    codes.copy_((total / s + noise.view(codes.shape).float() * 2.0**-16).floor_().clamp_(-127, 127))


@pytest.mark.parametrize("scale", [1e-4, 2e-5])
def test_small_updates_arrive_unless_the_sum_is_rounded_first(scale):
    """Constant direction and noise under a cosine schedule, `scale` of the weights' size at its peak; 300 steps."""
    torch.manual_seed(0)
    w = torch.randn(512, 512) * 0.02
    codes, scales = quantize(w)
    start, first = value(codes, scales), scales.clone()
    other, exact = codes.clone(), start.clone()
    direction = 0.02 * torch.randn(w.shape)
    for step in range(300):
        alpha = -scale * 0.5 * (1 + math.cos(math.pi * step / 300))
        update = direction + 0.5 * 0.02 * torch.randn(w.shape)
        exact.add_(update.double(), alpha=alpha)
        noise = bits(w.numel(), step)
        add_update_int8_(codes, scales, update, alpha=alpha, decay=1.0, noise=noise)
        bf16_first(other, first, update, alpha, noise)
    intended = exact - start

    def arrived(moved):
        return ((moved - start) * intended).sum().item() / intended.square().sum().item()

    assert arrived(value(codes, scales)) == pytest.approx(1.0, abs=0.05)
    assert arrived(value(other, first)) < 0.15


# -- what the random bits depend on


def lifted(w, step=0, tensor=3, seed=0):
    codes, scales = quantize(w)
    torch.manual_seed(5)
    p, n = torch.randn(w.shape[0], 4), torch.randn(4, w.shape[1])
    noise = RoundingNoise(seed, step, CPU)
    lift_update_(codes, p, n, alpha=-1e-4, noise=noise, tensor=tensor, transposed=False, scales=scales)
    return codes


def test_codes_are_a_function_of_seed_step_tensor_and_block(monkeypatch):
    """The key counts blocks of rows, whose size belongs to the kind of device: within one, nothing else matters."""
    monkeypatch.setitem(rounding.BLOCK, "cpu", 1 << 10)
    torch.manual_seed(0)
    w = torch.randn(64, 128)
    assert torch.equal(lifted(w), lifted(w))
    assert not any(torch.equal(lifted(w), lifted(w, **other)) for other in ({"step": 1}, {"tensor": 4}, {"seed": 1}))
    same = torch.cat([w[:8]] * 2)
    codes, scales = quantize(same)
    update = torch.full(same.shape, 1e-3)
    lift_update_(
        codes, None, None, alpha=1.0, noise=RoundingNoise(0, 0, CPU), dense=lambda a, b: update[a:b], scales=scales
    )
    assert not torch.equal(codes[:8], codes[8:]), "two blocks have bits of their own"


def test_rows_may_be_taken_together_in_any_way():
    codes, scales = fixed()
    torch.manual_seed(0)
    update, noise = torch.randn(codes.shape) * 1e-3, bits(codes.numel()).view(codes.shape)
    settings = {"alpha": -1.0, "decay": 0.99}
    c, t = codes.clone(), scales.clone()
    add_update_int8_(c, t, update, **settings, noise=noise.view(-1))
    for first in range(0, 64, 5):
        rows = slice(first, first + 5)
        add_update_int8_(codes[rows], scales[rows], update[rows], **settings, noise=noise[rows].reshape(-1))
    assert torch.equal(codes, c)
    assert torch.equal(scales, t)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("with_dense", [False, True])
@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (300, 256), (256, 300), (13, 509)])
def test_a_lift_is_the_update_of_the_whole_matrix(monkeypatch, shape, with_dense, transposed):
    """To nearest, in blocks, both orientations: P N + D as float64 has it, within half a scale."""
    monkeypatch.setitem(rounding.BLOCK, "cpu", 1 << 10)
    torch.manual_seed(0)
    codes, scales = quantize(torch.randn(shape))
    a, b = shape[::-1] if transposed else shape
    p, n, d = torch.randn(a, 3), torch.randn(3, b), torch.randn(shape)
    product = (p.double() @ n.double()).mT if transposed else p.double() @ n.double()
    exact = 0.9 * value(codes, scales) + 0.05 * (product + d.double() * with_dense)
    dense = (lambda first, last: d[first:last]) if with_dense else None
    lift_update_(codes, p, n, alpha=0.05, decay=0.9, dense=dense, transposed=transposed, scales=scales)
    assert bool(((value(codes, scales) - exact).abs() <= 0.5001 * per_element(scales, shape[1])).all())


def test_on_meta():
    w = torch.empty(3000, 4096, dtype=torch.bfloat16, device="meta")
    codes, scales = quantize(w)
    assert (codes.shape, scales.shape) == ((3000, 4096), (3000, 32))
    assert (codes.dtype, scales.dtype, codes.device.type) == (torch.int8, torch.bfloat16, "meta")
    assert dequantize(codes, scales, torch.bfloat16).shape == w.shape
    p, n = (torch.empty(shape, dtype=torch.bfloat16, device="meta") for shape in ((3000, 8), (8, 4096)))
    lift_update_(codes, p, n, alpha=0.1, noise=RoundingNoise(0, 0, codes.device), scales=scales)
