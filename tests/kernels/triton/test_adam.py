"""Adam on stored moments: as near to float64 as torch, in every storage."""

import pytest
import torch
from kernel_machines import (
    KINDS,
    assert_as_near,
    copied,
    read,
    relative_error,
    stored,
)

from galore.kernels.reference import operations as reference
from galore.kernels.rules.adam import AdamRule

EPS = 1e-6
STEP, SCALE = 3, 0.5


def moments(kind, r, b):
    m = torch.randn(r, b) * 1e-2
    return stored(kind, m, m.square() * torch.rand(r, b) + 1e-8)


def exact_step(kept, g, rule):
    """Direction and moments of one step in float64, from what is stored."""
    m, v = (x.double() for x in read(kept))
    direction, m, v = reference.adam(g, m, v, STEP, rule.beta1, rule.beta2, rule.eps, rule.convention)
    return -direction, m, v


def torch_step(kept, g, rule):
    """The same in fp32 by torch, requantized: what the moments' storage costs anyone."""
    m, v = (x.clone() for x in read(kept))
    target = torch.zeros_like(m)
    rule.update_(target, g, m, v, step=STEP, lr=1.0)
    return target, *read(stored(kept.kind, m, v))


def assert_all_as_near(kept, out, exact, by_torch):
    for mine, other, truth in zip((out, *read(kept)), by_torch, exact, strict=True):
        assert_as_near(mine, other, truth, slack=1.001, eps=EPS)


@pytest.mark.parametrize("convention", ["paper", "reference"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(16, 512), (20, 90)])
def test_from_an_accumulator(machine, shape, kind, convention):
    rule, g, kept = AdamRule(convention=convention), torch.randn(*shape) * 1e-2, moments(kind, *shape)
    exact = exact_step(kept, g.double() * SCALE, rule)
    by_torch = torch_step(kept, g * SCALE, rule)
    out = torch.empty(shape)
    machine.run(machine.kernels.adam.adam_plan(out, g, kept, rule, step=STEP, grad_scale=SCALE))
    assert_all_as_near(kept, out, exact, by_torch)


def test_direction_in_bf16_is_rounded_once(machine):
    rule, g, kept = AdamRule(), torch.randn(16, 512), moments("float32", 16, 512)
    wide, narrow, plan = (
        torch.empty(16, 512),
        torch.empty(16, 512, dtype=torch.bfloat16),
        machine.kernels.adam.adam_plan,
    )
    machine.run(plan(wide, g, copied(kept), rule, step=STEP))
    machine.run(plan(narrow, g, kept, rule, step=STEP))
    assert torch.equal(narrow, wide.bfloat16())


def test_many_steps_of_codes_drift_no_further_than_torch(machine):
    """Errors of requantizing add up alike over steps."""
    rule, shape = AdamRule(), (8, 512)
    ours = stored("dynamic", torch.zeros(shape), torch.zeros(shape))
    m, v = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
    theirs = copied(ours)
    for step in range(1, 6):
        g, out = torch.randn(shape) * 1e-3, torch.empty(shape)
        machine.run(machine.kernels.adam.adam_plan(out, g, ours, rule, step=step))
        _, m, v = reference.adam(g.double(), m, v, step, rule.beta1, rule.beta2, rule.eps)
        values = [x.clone() for x in read(theirs)]
        rule.update_(torch.zeros(shape), g, *values, step=step, lr=1.0)
        theirs = stored("dynamic", *values)
    for mine, other, truth in zip(read(ours), read(theirs), (m, v), strict=True):
        assert relative_error(mine, truth) <= relative_error(other, truth) * 1.01
