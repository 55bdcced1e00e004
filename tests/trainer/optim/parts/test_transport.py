"""New directions of a basis, half of it drawn anew: how far Adam goes along them under each transport."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from galore.trainer.optim import GaLoreAdamW

GAP, RANK = 30, 8


def course(transport: str) -> tuple[Tensor, Tensor]:
    """Root mean square of Adam's direction along new and along kept vectors, in every step from a turn on."""
    draw = torch.Generator().manual_seed(1)
    leading = torch.linalg.qr(torch.randn(32, 6, generator=draw)).Q * torch.linspace(3, 1, 6)
    weight, directions = nn.Parameter(torch.zeros(32, 128)), []
    composed = {"residual": "columns", "transport": transport, "switch": 0.5, "proj_type": "svd"}
    optimizer = GaLoreAdamW(
        [{"params": [weight], "rank": RANK}],
        lr=1e-3,
        update_proj_gap=GAP,
        stagger=False,
        betas=(0.9, 0.999),
        **composed,
    )
    (slot,) = optimizer.projected
    direction = slot.inner.direction
    slot.inner.direction = lambda *given: directions.append(direction(*given)) or directions[-1]
    bases = []
    for _ in range(4 * GAP):
        weight.grad = leading @ torch.randn(6, 128, generator=draw) + 0.5 * torch.randn(32, 128, generator=draw)
        optimizer.step()
        bases.append(slot.projector.clone())
    turn = 3 * GAP
    new = (bases[turn].T @ bases[turn - 1]).square().sum(1) < 0.4
    assert 2 <= int(new.sum()) <= 4
    sizes = torch.stack([each.square().mean(1) for each in directions[turn:]])
    return sizes[:, new].mean(1).sqrt(), sizes[:, ~new].mean(1).sqrt()


def test_a_rotated_state_overshoots_along_new_directions_and_a_completed_one_does_not() -> None:
    new, kept = course("rotate")
    assert float((new / kept)[5:].min()) > 1.4
    new, kept = course("complete")
    assert float((new / kept).max()) < 1.15
    assert float((new / kept)[-5:].mean()) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("stored", [None, "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("shape", [(64, 128), (128, 64)])
def test_what_lies_outside_is_told_whatever_the_basis_is_stored_in(shape: tuple[int, int], stored: str | None) -> None:
    """Also where it is little, and no column of it is told to be nothing."""
    torch.manual_seed(0)
    weight, inside = nn.Parameter(torch.zeros(shape)), torch.linalg.qr(torch.randn(64, RANK)).Q
    composed = {"residual": "columns", "transport": "complete", "proj_type": "svd", "projector_dtype": stored}
    optimizer = GaLoreAdamW([{"params": [weight], "rank": RANK}], lr=1e-3, **composed)
    (slot,) = optimizer.projected

    def gradient(noise: float) -> Tensor:
        found = inside @ torch.randn(RANK, 128) + noise * torch.randn(64, 128)
        return found.mT.contiguous() if slot.transposed else found

    weight.grad = gradient(0.02)
    optimizer.step()
    span = torch.linalg.qr(slot.projector.double()).Q
    for noise in (0.02, 0.1):
        whole = gradient(noise)
        slot.refresh.whole.value = whole
        found = slot._outside(2.0)
        g = 2 * slot.subspace.oriented(whole).double()
        ratio = found / ((g - span @ (span.mT @ g)).square().sum(0) / (64 - RANK))
        assert float(ratio.min()) > 0.5
        assert float(ratio.mean()) < 1.5
