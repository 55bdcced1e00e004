"""Learning rate on one optimizer-step clock."""

from typing import get_args

import pytest
import torch

from galore.trainer.common.errors import UserError
from galore.trainer.recipe.schema.optim import DecayType, OptimSection, ScheduleName
from galore.trainer.schedule import (
    DECAYS,
    SHAPES,
    decay_steps,
    learning_rate,
    learning_rates,
    refuse_other_rates,
    restarts_after,
    warmup_steps,
)


def rates(total=100, **settings):
    optim = OptimSection(learning_rate=0.1, **settings)
    return [learning_rate(optim, step, total) for step in range(total)]


@pytest.mark.parametrize("kind", SHAPES)
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


def test_all_rates_have_one_course():
    optim = OptimSection(learning_rate=0.1, head_learning_rate=0.4, warmup_steps=4)
    courses = [learning_rates(optim, step, 20) for step in range(20)]
    assert all(each.keys() == {"learning_rate", "head_learning_rate"} for each in courses)
    assert [each["head_learning_rate"] for each in courses] == pytest.approx(
        [4 * each["learning_rate"] for each in courses]
    )
    assert [each["learning_rate"] for each in courses] == [learning_rate(optim, step, 20) for step in range(20)]


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


# settings here → name, number of steps and keywords there; a floor is given wherever theirs have one
THEIRS = {
    "constant_with_warmup": ({"lr_scheduler_type": "constant_with_warmup"}, "constant_with_warmup", {}),
    "constant": ({"lr_scheduler_type": "constant"}, "constant_with_warmup", {}),
    "linear": ({"lr_scheduler_type": "linear", "min_lr_ratio": 0}, "linear", {}),
    "cosine": ({"lr_scheduler_type": "cosine", "min_lr_ratio": 0}, "cosine", {}),
    "cosine, floor": ({"lr_scheduler_type": "cosine"}, "cosine_with_min_lr", {"min_lr_rate": 0.1}),
    "wsd": (
        {"lr_scheduler_type": "warmup_stable_decay", "lr_decay_ratio": 0.23},
        "warmup_stable_decay",
        {"num_decay_steps": 23, "min_lr_ratio": 0.1},
    ),
    "wsd, linear": (
        {
            "lr_scheduler_type": "warmup_stable_decay",
            "lr_decay_steps": 30,
            "lr_decay_type": "linear",
            "min_lr_ratio": 0,
        },
        "warmup_stable_decay",
        {"num_decay_steps": 30, "decay_type": "linear"},
    ),
    "wsd, 1-sqrt": (
        {"lr_scheduler_type": "warmup_stable_decay", "lr_decay_type": "1-sqrt"},
        "warmup_stable_decay",
        {"num_decay_steps": 10, "decay_type": "1-sqrt", "min_lr_ratio": 0.1},
    ),
    "restarts": (
        {"lr_scheduler_type": "cosine_with_restarts", "lr_num_cycles": 3, "min_lr_ratio": 0},
        "cosine_with_restarts",
        {"num_cycles": 3},
    ),
    "polynomial": (
        {"lr_scheduler_type": "polynomial", "lr_power": 2.5},
        "polynomial",
        {"power": 2.5, "lr_end": 0.01},
    ),
    "inverse_sqrt": ({"lr_scheduler_type": "inverse_sqrt"}, "inverse_sqrt", {}),
    "inverse_sqrt, no warm-up": ({"lr_scheduler_type": "inverse_sqrt", "warmup_steps": 0}, "inverse_sqrt", {}),
}


@pytest.mark.parametrize("case", THEIRS)
def test_after_warm_up_every_schedule_is_that_of_transformers(case):
    from transformers import get_scheduler

    settings, name, keywords = THEIRS[case]
    optim = OptimSection(learning_rate=0.1, **{"warmup_steps": 7, **settings})
    total, optimizer = 100, torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = get_scheduler(name, optimizer, optim.warmup_steps, total, keywords)
    expected = [theirs.lr_lambdas[0](step) * 0.1 for step in range(total + 1)]
    ours = [learning_rate(optim, step, total) for step in range(total + 1)]
    assert ours[optim.warmup_steps :] == pytest.approx(expected[optim.warmup_steps :], rel=0, abs=1e-12)


def test_every_name_has_its_shape():
    assert set(SHAPES) == set(get_args(ScheduleName))
    assert set(DECAYS) == set(get_args(DecayType))


def test_a_decay_is_so_many_steps_or_a_share_and_never_of_the_warm_up():
    optim = OptimSection(lr_scheduler_type="warmup_stable_decay", warmup_steps=60, lr_decay_ratio=0.5)
    assert decay_steps(optim, 100) == 40
    assert decay_steps(OptimSection(lr_scheduler_type="warmup_stable_decay"), 100) == 10
    assert decay_steps(OptimSection(lr_scheduler_type="warmup_stable_decay", lr_decay_steps=3), 100) == 3


@pytest.mark.parametrize("name", ["lr_decay_steps", "lr_decay_type", "lr_num_cycles", "lr_power"])
def test_what_belongs_to_another_schedule_is_refused(name):
    value = "linear" if name == "lr_decay_type" else 2
    with pytest.raises(ValueError, match=f"{name} is of another schedule: set lr_scheduler_type: "):
        OptimSection(lr_scheduler_type="linear", **{name: value})


RELORA = {"method": "lora", "adapter": "relora", "lr_scheduler_type": "constant", "warmup_steps": 3}
KEEP = [
    ({"lr_scheduler_type": "constant", "warmup_steps": 5}, {}, 100),
    ({"lr_scheduler_type": "constant_with_warmup", "warmup_ratio": 0}, {}, 100),
    ({"lr_scheduler_type": "inverse_sqrt", "warmup_steps": 5}, {}, 100),
    ({"lr_scheduler_type": "warmup_stable_decay", "warmup_steps": 5, "lr_decay_steps": 20}, {}, 80),
    ({"lr_scheduler_type": "constant", "warmup_steps": 5}, {"lr_scheduler_type": "warmup_stable_decay"}, 100),
    ({**RELORA, "relora_gap": 30}, {}, 95),
    ({"lr_scheduler_type": "cosine", "warmup_steps": 10}, {"min_lr_ratio": 0.5}, 10),  # nothing of the decay is done
]
# settings before, what is changed with the length, steps done, what the error says
LOSE = [
    (
        {"lr_scheduler_type": "cosine", "warmup_steps": 0},
        {},
        50,
        "cosine was laid out for 100 steps; a new run with optim",
    ),
    (
        {"lr_scheduler_type": "cosine", "warmup_steps": 0},
        {"lr_scheduler_type": "warmup_stable_decay"},
        50,
        "could be prolonged; this one goes on from its model: galore export RUN OUT, and model.name_or_path: OUT",
    ),
    ({"lr_scheduler_type": "linear"}, {}, 5, r"step 1 had 1.00e-2.*\n.*optim\.warmup_steps=10, as it was"),
    ({"lr_scheduler_type": "polynomial", "warmup_steps": 0}, {}, 50, "polynomial was laid out"),
    ({"lr_scheduler_type": "cosine_with_restarts", "warmup_steps": 0}, {}, 50, "cosine_with_restarts was laid"),
    (
        {"lr_scheduler_type": "warmup_stable_decay", "warmup_steps": 5, "lr_decay_steps": 20},
        {},
        82,
        "until its decay begins, here after step 80;",
    ),
    ({"lr_scheduler_type": "constant", "warmup_steps": 0}, {"warmup_steps": 3}, 2, r"optim\.warmup_steps=0, as it"),
    (RELORA, {}, 60, r"optim\.relora_gap=25, as it was before"),
    (
        {**RELORA, "relora_gap": 50},
        {},
        100,
        r"adapters restarted at other places[\s\S]*constant was laid out for 100 steps; this one goes on",
    ),
]


@pytest.mark.parametrize(("settings", "change", "done"), KEEP)
def test_a_length_or_shape_that_leaves_the_steps_done_as_they_were_is_taken(settings, change, done):
    before, after = (OptimSection(learning_rate=0.1, **each) for each in (settings, settings | change))
    refuse_other_rates((before, 100), (after, 200), done, "run")
    refuse_other_rates((before, 100), (before, 100), 100, "run")


@pytest.mark.parametrize(("settings", "change", "done", "says"), LOSE)
def test_a_length_that_makes_other_rates_of_steps_that_are_done_is_refused(settings, change, done, says):
    before, after = (OptimSection(learning_rate=0.1, **each) for each in (settings, settings | change))
    with pytest.raises(UserError, match=says):
        refuse_other_rates((before, 100), (after, 200), done, "run")


def test_rates_that_hardly_differ_are_told_apart():
    optim = OptimSection(
        learning_rate=5e-3, warmup_steps=20, lr_scheduler_type="warmup_stable_decay", lr_decay_ratio=0.3
    )
    with pytest.raises(UserError, match=r"step 450 had 4\.99\d+e-03, and has 5\.0+e-03"):
        refuse_other_rates((optim, 640), (optim, 1000), 450, "run")


def test_fewer_steps_than_are_done_are_refused():
    optim = OptimSection(lr_scheduler_type="constant", warmup_steps=0)
    refuse_other_rates((optim, 100), (optim, 60), 60, "run")
    with pytest.raises(UserError, match="has done 61 steps, and 60 are asked for"):
        refuse_other_rates((optim, 100), (optim, 60), 61, "run")
