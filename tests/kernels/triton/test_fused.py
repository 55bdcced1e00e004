"""RMSNorm, SwiGLU and rotary positions against float64, forward and backward, ragged sizes and every gradient."""

import pytest
import torch
from kernel_machines import relative_error

EPS = 3e-7  # fp32 in another order
SHAPES = [(5, 96), (9, 50), (150, 96)]  # the last: more rows than a program holds at a time


def exact_norm(x, w, eps):
    return w * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def gradients(function, dy, *tensors):
    given = [each.double().requires_grad_() for each in tensors]
    function(*given).backward(dy.double())
    return [each.grad for each in given]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("programs", [2, 4])
def test_norm(machine, shape, programs):
    fused = machine.kernels.fused
    x, dy, w = torch.randn(shape), torch.randn(shape), torch.randn(shape[1])
    out, dx = torch.full(shape, torch.nan), torch.full(shape, torch.nan)
    r, partial = torch.full(shape[:1], torch.nan), torch.full((programs, shape[1]), torch.nan)
    machine.run(fused.rms_norm_plan(out, r, x, w, 1e-5))
    machine.run(fused.rms_norm_backward_plan(dx, partial, dy, x, w, r, True))
    assert relative_error(out, exact_norm(x.double(), w.double(), 1e-5)) <= EPS
    exact = gradients(lambda a, b: exact_norm(a, b, 1e-5), dy, x, w)
    assert relative_error(dx, exact[0]) <= EPS
    assert relative_error(partial.sum(0), exact[1]) <= EPS


def test_norm_of_a_frozen_gain_writes_none_of_its_gradient(machine):
    x, w = torch.randn(4, 32), torch.ones(32)
    dx, partial, r = torch.empty_like(x), torch.empty(2, 0), torch.ones(4)
    machine.run(machine.kernels.fused.rms_norm_backward_plan(dx, partial, x, x, w, r, False))
    assert dx.isfinite().all()


def test_swiglu(machine):
    gate, up, dy = torch.randn(3, 1500) * 4, torch.randn(3, 1500), torch.randn(3, 1500)
    out, d_gate, d_up = (torch.full_like(gate, torch.nan) for _ in range(3))
    machine.run(machine.kernels.fused.swiglu_plan(out, gate, up))
    machine.run(machine.kernels.fused.swiglu_backward_plan(d_gate, d_up, dy, gate, up))
    exact = lambda g, u: torch.nn.functional.silu(g) * u  # noqa: E731
    assert relative_error(out, exact(gate.double(), up.double())) <= EPS
    for found, wanted in zip((d_gate, d_up), gradients(exact, dy, gate, up), strict=True):
        assert relative_error(found, wanted) <= EPS


def half_turned(x):
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


@pytest.mark.parametrize(("rows", "heads", "size"), [(1, 3, 16), (2, 2, 20)])
def test_rotary(machine, rows, heads, size):
    """Heads behind tokens, as a projection leaves them; angles of all rows, or of each."""
    x, dy = (torch.randn(2, 7, heads, size).transpose(1, 2) for _ in range(2))
    cos, sin = torch.randn(rows, 7, size), torch.randn(rows, 7, size)
    exact = lambda a: a * cos[:, None].double() + half_turned(a) * sin[:, None].double()  # noqa: E731
    out, dx = torch.full_like(x, torch.nan), torch.full_like(x, torch.nan)
    machine.run(machine.kernels.fused.rotary_plan(out, x, cos, sin, False))
    machine.run(machine.kernels.fused.rotary_plan(dx, dy, cos, sin, True))
    assert relative_error(out, exact(x.double())) <= EPS
    assert relative_error(dx, gradients(exact, dy, x)[0]) <= EPS


def test_bfloat16_is_rounded_once(machine):
    gate, up = torch.randn(700).bfloat16(), torch.randn(700).bfloat16()
    out = torch.empty_like(gate)
    machine.run(machine.kernels.fused.swiglu_plan(out, gate, up))
    wanted = (torch.nn.functional.silu(gate.double()) * up.double()).bfloat16()
    assert float((out != wanted).float().mean()) < 5e-3


def exact_softmax(logits, targets, z_loss):
    """Gradient, losses and log Σ exp, in float64."""
    z = logits.double().requires_grad_()
    lse = z.logsumexp(1)
    losses = lse - z.gather(1, targets[:, None]).squeeze(1)
    (losses + z_loss * lse.square()).sum().backward()
    return z.grad, losses.detach(), lse.detach()


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@pytest.mark.parametrize("columns", [96, 50, 4133])
def test_softmax(machine, columns, z_loss):
    """Rows of one block, ragged ones, and of more than one block."""
    logits, targets = torch.randn(5, columns) * 4, torch.randint(columns, (5,))
    exact = exact_softmax(logits, targets, z_loss)
    losses, lse = torch.full((5,), torch.nan), torch.full((5,), torch.nan)
    machine.run(machine.kernels.fused.softmax_plan(logits, targets, losses, lse, z_loss))
    for found, wanted in zip((logits, losses, lse), exact, strict=True):
        assert relative_error(found, wanted) <= 1e-6


def test_softmax_of_a_target_whose_probability_underflows(machine):
    logits, targets = torch.zeros(2, 40), torch.tensor([3, 0])
    logits[0, 7] = 400.0
    losses, lse = torch.empty(2), torch.empty(2)
    machine.run(machine.kernels.fused.softmax_plan(logits, targets, losses, lse, 0.0))
    assert losses[0] == 400
    assert logits[0, 3] == -1
    assert logits[0, 7] == 1


@pytest.mark.parametrize("wrong", ["nan", "inf", "target"])
def test_softmax_of_what_is_no_number_is_none(machine, wrong):
    """Of that row alone; a target that is no column is not read either."""
    logits, targets = torch.randn(3, 40), torch.tensor([1, 2, 3])
    if wrong == "target":
        targets[1] = 40
    else:
        logits[1, 5] = float(wrong)
    losses, lse = torch.empty(3), torch.empty(3)
    machine.run(machine.kernels.fused.softmax_plan(logits, targets, losses, lse, 0.0))
    assert losses.isnan().tolist() == [False, True, False]
    assert logits.isnan().any(1).tolist() == [False, True, False]
    if wrong == "target":
        assert logits[1].isnan().all()
