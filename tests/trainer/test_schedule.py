"""Learning rate on one optimizer-step clock."""

import pytest

from galore.trainer.recipe.schema.optim import OptimSection
from galore.trainer.schedule import learning_rate, restarts_after, warmup_steps


def rates(total=100, **settings):
    optim = OptimSection(learning_rate=0.1, **settings)
    return [learning_rate(optim, step, total) for step in range(total)]


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_warm_up_is_linear_and_reaches_the_peak(kind):
    lr = rates(lr_scheduler_type=kind, warmup_ratio=0.1)
    assert lr[:10] == pytest.approx([0.01 * k for k in range(1, 11)])
    assert max(lr) == pytest.approx(0.1)


def test_cosine_and_linear_end_at_the_floor_and_constant_does_not_decay():
    assert learning_rate(OptimSection(learning_rate=0.1), 100, 100) == pytest.approx(0.01)
    assert learning_rate(OptimSection(learning_rate=0.1, lr_scheduler_type="linear"), 100, 100) == pytest.approx(0.01)
    assert set(rates(lr_scheduler_type="constant", warmup_ratio=0.0)) == {0.1}
    middle = learning_rate(OptimSection(learning_rate=0.1, warmup_steps=0, min_lr_ratio=0.0), 50, 100)
    assert middle == pytest.approx(0.05)
    for kind in ("cosine", "linear"):  # half of the way to the floor, and not down to it half of the time
        middle = learning_rate(OptimSection(learning_rate=0.1, warmup_steps=0, lr_scheduler_type=kind), 50, 100)
        assert middle == pytest.approx((0.1 + 0.01) / 2)


def test_warmup_steps_win_over_the_ratio_and_zero_means_none():
    assert warmup_steps(OptimSection(warmup_steps=0), 100) == 0
    assert warmup_steps(OptimSection(warmup_steps=7, warmup_ratio=0.5), 100) == 7
    assert rates(warmup_steps=0)[0] == pytest.approx(0.1)


def test_after_each_restart_the_rate_rises_back_onto_the_schedule():
    relora = {"method": "lora", "adapter": "relora", "relora_gap": 30, "relora_warmup_steps": 5}
    smooth, jagged = rates(), rates(**relora)
    shares = [a / b for a, b in zip(jagged, smooth, strict=True)]
    rise = pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert [shares[start : start + 5] for start in (30, 60, 90)] == [rise] * 3
    assert all(share == 1.0 for step, share in enumerate(shares) if step < 30 or step % 30 >= 5)
    none = rates(**(relora | {"relora_warmup_steps": 0}))
    assert none == smooth


@pytest.mark.parametrize(
    ("gap", "total", "steps"), [(30, 100, [30, 60, 90]), (50, 100, [50]), (None, 100, [25, 50, 75]), (None, 1, [])]
)
def test_restarts_come_every_gap_but_not_at_the_end(gap, total, steps):
    optim = OptimSection(method="lora", adapter="relora", relora_gap=gap)
    assert [done for done in range(total + 1) if restarts_after(optim, done, total)] == steps
    assert not any(restarts_after(OptimSection(method="lora"), done, total) for done in range(total + 1))
