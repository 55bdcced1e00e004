"""bf16 weights: rounding is unbiased and keyed, compensation carries fp32's bits, small updates survive either way."""

import math

import pytest
import torch

from galore.kernels.device import meta_stands_for, stands_for
from galore.kernels.storage import rounding
from galore.kernels.storage.rounding import (
    RoundingNoise,
    add_update_,
    add_update_compensated_,
    block_elements,
    blocks_of,
    mix,
    read_compensated,
    store_compensated_,
    store_rounded_,
)

CPU = torch.device("cpu")
BLOCK = block_elements(CPU)
COMPENSATIONS = [torch.int16, torch.int8]


def test_rounds_to_neighbours_with_the_right_probability():
    low, high = 1.0, 1.0 + 2**-7
    for tenth in range(1, 10):
        value = torch.full((BLOCK,), low + (high - low) * tenth / 10)
        w = torch.empty(BLOCK, dtype=torch.bfloat16)
        store_rounded_(w, value, RoundingNoise(0, tenth, CPU).window(0, 0, BLOCK))
        assert set(w.float().unique().tolist()) <= {low, high}
        up = (w.float() == high).float().mean().item()
        assert abs(up - tenth / 10) < 5 * (0.25 / BLOCK) ** 0.5


def small_updates(scale, shape, steps=3000):
    """A constant direction and noise under a cosine schedule: (alpha, update, random bits) per step."""
    direction = 0.3 * torch.randn(shape)
    for step in range(steps):
        bits = torch.randint(0, 1 << 16, shape, dtype=torch.int32)
        yield -scale * 0.5 * (1 + math.cos(math.pi * step / steps)), direction + torch.randn(shape), bits


@pytest.mark.parametrize(("scale", "plain"), [(1e-4, 0.69), (2e-5, 0.36)])
def test_small_updates_arrive_unless_rounded_to_nearest(scale, plain):
    torch.manual_seed(0)
    start = (torch.randn(1 << 12) * 0.02).bfloat16()
    exact, nearest, stochastic = start.double(), start.clone(), start.clone()
    pairs = [(start.clone(), torch.zeros_like(start, dtype=dtype)) for dtype in [*COMPENSATIONS, torch.int8]]
    for alpha, update, bits in small_updates(scale, start.shape):
        exact.add_(update.double(), alpha=alpha)
        add_update_(nearest, update, alpha=alpha, decay=1.0)
        add_update_(stochastic, update, alpha=alpha, decay=1.0, noise=bits)
        for pair, noise in zip(pairs, [None, None, bits], strict=True):
            add_update_compensated_(*pair, update, alpha=alpha, decay=1.0, noise=noise)
    intended = exact - start.double()

    def arrived(w):
        return ((w.double() - start.double()) @ intended / intended.square().sum()).item()

    assert arrived(nearest) == pytest.approx(plain, abs=0.03)
    assert arrived(stochastic) >= 0.95
    for pair in pairs:
        assert arrived(read_compensated(*pair)) == pytest.approx(1.0, abs=1e-3)
        assert arrived(pair[0]) >= 0.95  # what the forward pass sees


def awkward():
    """fp32 numbers of all sizes and signs; ties of bf16 to even and odd neighbours and their surroundings; 0, subnormals."""
    torch.manual_seed(0)
    bits = torch.randint(-(1 << 31), 1 << 31, (1 << 16,), dtype=torch.int64).to(torch.int32)
    upper = bits[:4096] & -(1 << 16)
    near = [upper | lower for lower in (0, 1, 0x7F, 0x80, 0x7FFF, 0x8000, 0x8001, 0xFF7F, 0xFF80, 0xFFFF)]
    small = torch.arange(1 << 12, dtype=torch.int32) * 37
    values = torch.cat([bits, *near, small, small | -(1 << 31)]).view(torch.float32)
    return values[values.abs() < 1e38]


def test_a_16_bit_compensation_is_exactly_the_fp32_number():
    value = awkward()
    w, compensation = torch.empty(value.shape, dtype=torch.bfloat16), torch.empty(value.shape, dtype=torch.int16)
    store_compensated_(w, compensation, value.clone())
    assert torch.equal(read_compensated(w, compensation).view(torch.int32), value.view(torch.int32))
    assert torch.equal((w.double() - value.double()).abs(), (value.bfloat16().double() - value.double()).abs())
    assert torch.equal(read_compensated(w, torch.zeros_like(compensation)), w.float())


@pytest.mark.parametrize("stochastic", [False, True])
def test_an_8_bit_compensation_keeps_the_upper_24_bits(stochastic):
    value = awkward()
    w, compensation = torch.empty(value.shape, dtype=torch.bfloat16), torch.empty(value.shape, dtype=torch.int8)
    noise = torch.randint(0, 1 << 16, value.shape, dtype=torch.int32) if stochastic else None
    store_compensated_(w, compensation, value.clone(), noise)
    kept = read_compensated(w, compensation).view(torch.int32)
    error = (kept.long() - value.view(torch.int32).long()).abs()
    assert not bool((kept & 0xFF).any())
    assert error.max().item() <= (0xFF if stochastic else 0x80)
    kept = kept.view(torch.float32).double()
    assert torch.equal((w.double() - kept).abs(), (kept.bfloat16().double() - kept).abs())


def test_what_8_bits_cannot_keep_is_rounded_without_bias():
    low, high = 1.0, 1.0 + 2**-15
    value = torch.full((BLOCK,), low + 3 * 2**-17)  # three quarters of the way to the next number of 24 bits
    w, compensation = torch.empty(BLOCK, dtype=torch.bfloat16), torch.empty(BLOCK, dtype=torch.int8)
    store_compensated_(w, compensation, value, RoundingNoise(0, 0, CPU).window(0, 0, BLOCK))
    kept = read_compensated(w, compensation)
    assert set(kept.unique().tolist()) == {low, high}
    assert abs((kept == high).float().mean().item() - 0.75) < 5 * (0.25 / BLOCK) ** 0.5


@pytest.mark.parametrize("decay_after", [False, True])
def test_a_16_bit_compensated_weight_is_an_fp32_weight(decay_after):
    torch.manual_seed(0)
    w = torch.randn(1000).bfloat16()
    single, compensation = w.float(), torch.zeros(1000, dtype=torch.int16)
    for step in range(50):
        update = torch.randn(1000)
        settings = {"alpha": -(10 ** -(step / 8)), "decay": 0.99, "decay_after": decay_after}
        add_update_(single, update, **settings)
        add_update_compensated_(w, compensation, update, **settings)
    assert torch.equal(read_compensated(w, compensation), single)


def test_whatever_the_bits_of_a_nan_it_stays_one(monkeypatch):
    """As on a card. Those of x86, of NVIDIA and of a bf16 gradient, and both signs; infinities stay as they are."""
    monkeypatch.setattr(rounding, "PLAIN_NAN", ())
    nans = [0x7FC00000, 0x7FFFFFFF, 0x7FFF0000, 0x7F800001, -0x400000, -1, -0x800000 + 1]
    special = torch.tensor([*nans, 0x7F800000, -0x800000], dtype=torch.int32).view(torch.float32)
    for noise in (torch.full(special.shape, bits, dtype=torch.int32) for bits in (0, 0x7FFF, 0xFFFF)):
        w = torch.empty(special.shape, dtype=torch.bfloat16)
        store_rounded_(w, special.clone(), noise)
        torch.testing.assert_close(w.float(), special, equal_nan=True)
        for dtype, up in ((torch.int16, None), (torch.int8, noise), (torch.int8, None)):
            compensation = torch.empty(special.shape, dtype=dtype)
            store_compensated_(w, compensation, special.clone(), up)
            torch.testing.assert_close(w.float(), special, equal_nan=True)
            assert read_compensated(w, compensation)[: len(nans)].isnan().all()


@pytest.mark.parametrize("dtype", COMPENSATIONS)
def test_compensation_on_meta(dtype):
    w, compensation = torch.empty(7, dtype=torch.bfloat16, device="meta"), torch.empty(7, dtype=dtype, device="meta")
    add_update_compensated_(w, compensation, torch.empty(7, device="meta"), alpha=1.0, decay=0.9)
    assert read_compensated(w, compensation).dtype == torch.float32


def test_noise_depends_on_seed_step_tensor_and_block_only():
    def window(seed, step, tensor, block):
        return RoundingNoise(seed, step, CPU).window(tensor, block, 64)

    assert torch.equal(window(1, 2, 3, 4), window(1, 2, 3, 4))
    for other in [(0, 2, 3, 4), (1, 0, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0)]:
        assert not torch.equal(window(1, 2, 3, 4), window(*other))
    assert RoundingNoise(0, 0, CPU).window(0, 0, 3 * BLOCK).numel() == 3 * BLOCK


def test_the_pool_is_drawn_anew_in_every_step_and_not_only_read_elsewhere():
    pools = [RoundingNoise(1, step, CPU).pool.sort().values for step in (2, 3)]
    assert not torch.equal(*pools)


def test_decay_before_and_after_the_update():
    w, update = torch.full((4,), 2.0), torch.ones(4)
    before, after = w.clone(), w.clone()
    add_update_(before, update, alpha=-0.5, decay=0.9)
    add_update_(after, update, alpha=-0.5, decay=0.9, decay_after=True)
    torch.testing.assert_close(before, torch.full((4,), 2 * 0.9 - 0.5))
    torch.testing.assert_close(after, torch.full((4,), (2 - 0.5) * 0.9))


def test_mix_spreads():
    assert len({mix(a, b) for a in range(100) for b in range(100)}) == 10_000


@pytest.mark.parametrize("count", [1, 3, 7])
def test_blocks_on_meta_stand_for_all(count: int) -> None:
    """Three are passed, and count as many as there are, in a loop inside of another, too."""
    here = torch.empty(1, device="meta")
    with meta_stands_for("cpu"):
        passed = [(block, stands_for()) for block in blocks_of(here, 10 * count - 1, 10)]
        within = sum(stands_for() for _ in blocks_of(here, count, 1) for _ in blocks_of(here, count, 1))
    assert len(passed) == min(count, 3)
    assert sum(times for _, times in passed) == count
    assert passed[-1][0] == (count - 1, 10 * count - 10, 10 * count - 1)
    assert (within, stands_for()) == (count**2, 1)
