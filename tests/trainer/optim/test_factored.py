"""Projecting inside the backward equals projecting in the hook, and never makes the m×n gradient between refreshes."""

import pytest
import torch
from torch import nn

from galore.trainer.optim import GaLoreAdamW, galore_groups, project_in_backward


def network(bias=False):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(24, 40, bias=bias), nn.Tanh(), nn.Linear(40, 24, bias=False), nn.Tanh(), nn.Linear(24, 24, bias=False)
    )


def trained(backward, steps=9, **options):
    net = network()
    optimizer = GaLoreAdamW(
        galore_groups(net, 4, targets=["0", "2", "4"]), lr=1e-2, eps=1e-5, update_proj_gap=3, **options
    )
    if backward:
        assert project_in_backward(net, optimizer) == 3
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        xs = torch.randn(2, 16, 24, generator=generator)

        def passes(xs=xs):
            for x in xs:
                ((net(x) - x.roll(1)).square().mean() / 2).backward()
                if options.get("update") == "immediate":
                    break

        if optimizer.wants_sketch_pass:
            with optimizer.sketching():
                passes()
        passes()
        if options.get("update") != "immediate":
            optimizer.clip_grad_norm_(0.05)
        optimizer.step()
    return net, optimizer


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"proj_type": "svd"},
        {"refresh": "two-pass", "stagger": False},
        {"refresh": "first-micro-batch"},
        {"update": "immediate"},
    ],
)
def test_equals_the_hook(options):
    (a, one), (b, other) = trained(False, **options), trained(True, **options)
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=2e-4, atol=2e-5)
    assert one.state_tensors().keys() == other.state_tensors().keys()


def test_no_weight_gradient_between_refreshes():
    net, optimizer = trained(True, steps=1)
    seen = []
    for slot in optimizer.projected:
        slot.parameter.register_hook(lambda grad: seen.append(grad) if grad is not None else None)
    for due in (False, True):
        for slot in optimizer.projected:
            object.__setattr__(slot.schedule, "offset", 1 if due else 2)
        assert all(slot.due == due for slot in optimizer.projected)
        net(torch.randn(16, 24)).square().sum().backward()
        assert seen == []
        assert all(slot.has_gradient and (slot.refresh.sketch.value is not None) == due for slot in optimizer.projected)
        optimizer.zero_grad()


def test_autograd_has_nothing_to_do_for_a_layer_that_gives_factors(monkeypatch):
    net, optimizer = trained(True, steps=1)
    for slot in optimizer.projected:
        object.__setattr__(slot.schedule, "offset", 2)
    asked = []
    monkeypatch.setattr(optimizer, "_final", asked.append)
    net(torch.randn(16, 24, requires_grad=True)).square().sum().backward()
    assert asked == []
    assert all(slot.has_gradient for slot in optimizer.projected)
    net(torch.randn(16, 24)).square().sum().backward()  # without its weight the first layer would have no backward
    assert [slot.name for slot in asked] == ["0.weight"]


def test_biased_layers_and_released_optimizers_use_the_ordinary_backward():
    net = network(bias=True)
    optimizer = GaLoreAdamW(galore_groups(net, 4, targets=["0", "2", "4"]))
    assert project_in_backward(net, optimizer) == 2
    net(torch.randn(16, 24)).sum().backward()
    optimizer.step()
    optimizer.release()
    net(torch.randn(16, 24)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_evaluation_gives_no_factors():
    net, optimizer = trained(True, steps=1)
    with torch.no_grad():
        net(torch.randn(16, 24))
    assert not any(slot.has_gradient for slot in optimizer.slots.values())
