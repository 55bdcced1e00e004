"""Learning rate on one optimizer-step clock."""

import pytest

from galore.trainer.recipe.optim_section import OptimSection
from galore.trainer.schedule import learning_rate, warmup_steps


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


def test_warmup_steps_win_over_the_ratio_and_zero_means_none():
    assert warmup_steps(OptimSection(warmup_steps=0), 100) == 0
    assert warmup_steps(OptimSection(warmup_steps=7, warmup_ratio=0.5), 100) == 7
    assert rates(warmup_steps=0)[0] == pytest.approx(0.1)
