"""Logits overwritten by the gradient of their loss: rows against float64, columns against rows, few launches on a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from galore.kernels.model import softmax

ROWS, COLUMNS = 36, 501


@pytest.fixture
def few_rows(monkeypatch) -> None:
    """Nine rows are copied at a time."""
    monkeypatch.setattr(softmax, "ELEMENTS", {"cpu": 9 * COLUMNS, "cuda": 9 * COLUMNS})


def drawn() -> tuple[Tensor, Tensor]:
    """Logits (36, 501) in bf16 and targets (36,); the probability of row 3's target underflows."""
    draw = torch.Generator().manual_seed(0)
    logits = (torch.randn(ROWS, COLUMNS, generator=draw) * 5).bfloat16()
    targets = torch.randint(COLUMNS, (ROWS,), generator=draw)
    logits[3], logits[3, 7], targets[3] = -400, 0, 9
    return logits, targets


def overwritten(z_loss: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient, and losses and log Σ exp."""
    logits, targets = drawn()
    losses, lse = torch.empty(ROWS), torch.empty(ROWS)
    softmax.softmax_minus_onehot_(logits, targets, losses, lse, z_loss)
    return logits, losses, lse


@pytest.mark.parametrize("z_loss", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_rows_against_float64(kind, z_loss, few_rows, monkeypatch):
    monkeypatch.setattr(softmax, "device_type", lambda of: kind)
    logits, targets = drawn()
    z = logits.double().requires_grad_()
    lse = z.logsumexp(1)
    losses = lse - z.gather(1, targets[:, None]).squeeze(1)
    (losses + z_loss * lse.square()).sum().backward()
    found = overwritten(z_loss)
    torch.testing.assert_close(found[0], z.grad.bfloat16(), rtol=8e-3, atol=1e-6)
    torch.testing.assert_close(found[1:], (losses.detach().float(), lse.detach().float()), rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize("z_loss", [0.0, 0.3])
def test_columns_in_parts_are_those_of_whole_rows(z_loss, few_rows):
    logits, targets = drawn()
    whole, _, lse = overwritten(z_loss)
    for first in range(0, COLUMNS, 200):
        part = logits[:, first : first + 200].clone()
        softmax.exp_minus_onehot_(part, targets - first, lse, z_loss)
        torch.testing.assert_close(part, whole[:, first : first + 200], rtol=8e-3, atol=1e-6)


class Launches(TorchDispatchMode):
    """Operations that are no view and have something to compute."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        first = out[0] if isinstance(out, (list, tuple)) else out
        self.count += not func.is_view and "empty" not in func.name() and isinstance(first, Tensor)
        return out


def test_a_gpu_gets_the_same_bits_in_few_launches(few_rows, monkeypatch):
    """Where a p_t has underflowed the CPU takes another way to the losses of the rows around."""
    found, launches = {}, {}
    for kind in ("cpu", "cuda"):
        monkeypatch.setattr(softmax, "device_type", lambda of, kind=kind: kind)
        logits, targets = drawn()
        losses, lse = torch.empty(ROWS), torch.empty(ROWS)
        with Launches() as counted:
            softmax.softmax_minus_onehot_(logits, targets, losses, lse)
        found[kind], launches[kind] = (logits, losses, lse), counted.count
    for ours, cpus in zip(found["cuda"], found["cpu"], strict=True):
        assert torch.equal(ours[9:], cpus[9:])
        torch.testing.assert_close(ours[:9], cpus[:9])
    assert found["cuda"][1][3] == 400
    assert launches["cuda"] < 12 * 4
