"""Not for language models alone: a diffusion U-Net and a detector train with their convolutions projected."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from galore.trainer.optim import GaLoreAdamW, check_complete, galore_groups

from .networks import Detector, Network, UNet

KINDS = pytest.mark.parametrize("kind", [UNet, Detector])
STEPS, BATCH = 60, 16


def network(kind: type[Network]) -> Network:
    torch.manual_seed(0)
    return kind()


def galore(model: Network, **options: Any) -> GaLoreAdamW:
    groups = galore_groups(model, 6, targets=model.targets, scale=1.0)
    check_complete(model, groups)
    return GaLoreAdamW(groups, **{"lr": 1e-2, "update_proj_gap": 10, **options})


def adamw(model: Network) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)


def train(
    model: Network, optimizer: torch.optim.Optimizer, steps: int = STEPS, parts: int = 1, layout: Any = None
) -> list[float]:
    draw, losses = torch.Generator().manual_seed(1), []
    for _ in range(steps):
        x, *rest = model.batch(draw, BATCH)
        x = x.contiguous(memory_format=layout or torch.contiguous_format)
        if isinstance(optimizer, GaLoreAdamW) and optimizer.wants_sketch_pass:
            with optimizer.sketching():
                backward(model, (x, *rest), parts)
        losses.append(backward(model, (x, *rest), parts))
        optimizer.step()
        optimizer.zero_grad()
    return losses


def backward(model: Network, batch: tuple[Tensor, ...], parts: int) -> float:
    total = 0.0
    for micro_batch in zip(*(tensor.chunk(parts) for tensor in batch), strict=True):
        loss = model.loss(*micro_batch) / parts
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


def fall(losses: list[float]) -> float:
    """The mean of the last ten over the first."""
    return sum(losses[-10:]) / 10 / losses[0]


@KINDS
def test_the_loss_falls_nearly_as_far_as_under_full_adamw(kind: type[Network]) -> None:
    ours, theirs = network(kind), network(kind)
    low_rank, full = fall(train(ours, galore(ours))), fall(train(theirs, adamw(theirs)))
    assert full < 0.12
    assert low_rank < 0.15
    assert low_rank < 1.6 * full


@KINDS
def test_every_target_is_projected_and_no_gradient_of_one_is_left(kind: type[Network]) -> None:
    model = network(kind)
    optimizer = galore(model)
    train(model, optimizer, steps=2)
    backward(model, model.batch(torch.Generator().manual_seed(3), BATCH), parts=1)
    projected = {slot.name: slot for slot in optimizer.projected}
    named = [(name, p) for name, p in model.named_parameters() if p.ndim >= 2]
    assert list(projected) == [name for name, _ in named if name.partition(".")[0] in model.targets]
    for slot in projected.values():
        m, n = slot.parameter.shape[0], slot.parameter[0].numel()
        rank = min(6, m, n)
        assert (slot.rank, slot.transposed) == (rank, m >= n), slot.name
        held = [(category, tuple(tensor.shape)) for category, tensor in slot.tensors()]
        assert ("accumulators", (rank, max(m, n))) in held, slot.name
        assert "gradients" not in dict(held), slot.name
    assert all(p.grad is None for p in model.parameters())


OPTIONS: list[dict[str, Any]] = [
    {},
    {"proj_type": "svd"},
    {"proj_type": "dct", "transport": "rotate"},
    {"residual": "fira"},
    {"proj_type": "power"},
]


@KINDS
@pytest.mark.parametrize("options", OPTIONS)
def test_four_micro_batches_are_one_batch(kind: type[Network], options: dict[str, Any]) -> None:
    models = [network(kind), network(kind)]
    for model, parts in zip(models, (1, 4), strict=True):
        train(model, galore(model, eps=1e-3, **{"update_proj_gap": 3, **options}), steps=5, parts=parts)
    assert distance(*models) < 1e-4
    assert distance(models[0], network(kind)) > 1e-2


def distance(a: nn.Module, b: nn.Module) -> float:
    """‖a - b‖ / ‖b‖ over all parameters."""
    flat = [torch.cat([p.detach().flatten() for p in model.parameters()]).double() for model in (a, b)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


@KINDS
def test_weights_in_another_layout_are_refused_and_inputs_in_one_change_nothing(kind: type[Network]) -> None:
    model = network(kind).to(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match=r"\.weight is not contiguous; keep weights contiguous"):
        galore(model)
    models = [network(kind), network(kind)]
    for model, layout in zip(models, (torch.contiguous_format, torch.channels_last), strict=True):
        train(model, galore(model, eps=1e-3), steps=5, layout=layout)
    assert distance(*models) < 1e-4


@KINDS
@pytest.mark.parametrize("options", [{"weight_decay": 0.1}, {"residual": "fira"}, {"proj_type": "random"}])
def test_a_weight_without_a_gradient_stays_as_it_is_and_disturbs_no_other(
    kind: type[Network], options: dict[str, Any]
) -> None:
    plain, model = network(kind), network(kind)
    expected = train(plain, galore(plain, stagger=False, **options), steps=12)
    model.unused = nn.Conv2d(4, 6, 3)
    model.targets = (*model.targets, "unused")
    before = model.unused.weight.detach().clone()
    optimizer = galore(model, stagger=False, **options)
    assert train(model, optimizer, steps=12) == expected
    assert torch.equal(model.unused.weight, before)
    assert not any(name.startswith("unused") for name in optimizer.state_tensors())
    assert not optimizer.wants_sketch_pass, "or each step would run its micro-batches twice"
    assert optimizer.report is not None
    assert optimizer.report.refreshed == 0


@pytest.mark.parametrize("first", [2, 3])  # its turn to refresh, and not
def test_a_weight_whose_first_gradient_comes_late_is_projected_from_then_on(first: int) -> None:
    model = nn.ModuleList(nn.Linear(8, 12) for _ in range(2))
    optimizer = GaLoreAdamW(galore_groups(model, 3, targets=["0", "1"]), update_proj_gap=5)
    for step in range(8):
        model[1 if step in (first, 7) else 0](torch.ones(4, 8)).square().sum().backward()
        optimizer.step()
        assert ("1.weight.projector" in optimizer.state_tensors()) == (step >= first)
    assert int(optimizer.state_tensors()["1.weight.step"]) == 2


def test_a_weight_in_two_places_is_one_parameter_and_trains() -> None:
    model = network(UNet)
    assert isinstance(model, UNet)
    model.middle.conv2.weight = model.middle.conv1.weight
    optimizer = galore(model)
    assert [slot.name for slot in optimizer.projected].count("middle.conv1.weight") == 1
    assert "middle.conv2.weight" not in [slot.name for slot in optimizer.slots.values()]
    losses = train(model, optimizer, steps=20)
    assert model.middle.conv2.weight is model.middle.conv1.weight
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]
