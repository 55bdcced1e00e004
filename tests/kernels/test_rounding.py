"""Stochastic rounding: unbiased, small updates survive, keyed by (seed, step, tensor, block) alone."""

import pytest
import torch

from galore.kernels.rounding import RoundingNoise, add_update_, block_elements, mix, store_rounded_

CPU = torch.device("cpu")
BLOCK = block_elements(CPU)


def test_rounds_to_neighbours_with_the_right_probability():
    low, high = 1.0, 1.0 + 2**-7
    for tenth in range(1, 10):
        value = torch.full((BLOCK,), low + (high - low) * tenth / 10)
        w = torch.empty(BLOCK, dtype=torch.bfloat16)
        store_rounded_(w, value, RoundingNoise(0, tenth, CPU).window(0, 0, BLOCK))
        assert set(w.float().unique().tolist()) <= {low, high}
        up = (w.float() == high).float().mean().item()
        assert abs(up - tenth / 10) < 5 * (0.25 / BLOCK) ** 0.5


@pytest.mark.parametrize("scale", [1e-4, 2e-5])
def test_small_updates_keep_at_least_95_percent_of_the_movement(scale):
    torch.manual_seed(0)
    start = (torch.randn(1 << 14) * 0.02).bfloat16()
    direction = torch.randn(1 << 14)
    stochastic, nearest, steps = start.clone(), start.clone(), 300
    for step in range(steps):
        noise = RoundingNoise(1, step, CPU).window(0, 0, start.numel())
        add_update_(stochastic, direction, alpha=scale, decay=1.0, noise=noise)
        add_update_(nearest, direction, alpha=scale, decay=1.0)
    intended = direction * scale * steps
    kept = [((w.float() - start.float()) @ intended / intended.square().sum()).item() for w in (stochastic, nearest)]
    assert kept[0] >= 0.95
    assert kept[1] < kept[0]


def test_noise_depends_on_seed_step_tensor_and_block_only():
    def window(seed, step, tensor, block):
        return RoundingNoise(seed, step, CPU).window(tensor, block, 64)

    assert torch.equal(window(1, 2, 3, 4), window(1, 2, 3, 4))
    for other in [(0, 2, 3, 4), (1, 0, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0)]:
        assert not torch.equal(window(1, 2, 3, 4), window(*other))
    assert RoundingNoise(0, 0, CPU).window(0, 0, 3 * BLOCK).numel() == 3 * BLOCK


def test_decay_before_and_after_the_update():
    w, update = torch.full((4,), 2.0), torch.ones(4)
    before, after = w.clone(), w.clone()
    add_update_(before, update, alpha=-0.5, decay=0.9)
    add_update_(after, update, alpha=-0.5, decay=0.9, decay_after=True)
    torch.testing.assert_close(before, torch.full((4,), 2 * 0.9 - 0.5))
    torch.testing.assert_close(after, torch.full((4,), (2 - 0.5) * 0.9))


def test_mix_spreads():
    assert len({mix(a, b) for a in range(100) for b in range(100)}) == 10_000
