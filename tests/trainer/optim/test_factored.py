"""Projecting inside the backward equals projecting in the hook, and never makes the m×n gradient between refreshes."""

import copy
import pickle

import pytest
import torch
from torch import nn

from galore.kernels.linear import PLAIN
from galore.trainer.optim import GaLoreAdamW, galore_groups, multiply_by, project_in_backward
from galore.trainer.optim.parts.hooks import has_hook


def network(bias=False):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(24, 40, bias=bias), nn.Tanh(), nn.Linear(40, 24, bias=False), nn.Tanh(), nn.Linear(24, 24, bias=False)
    )


def trained(backward, steps=9, **options):
    net = network()
    optimizer = GaLoreAdamW(
        galore_groups(net, 4, targets=["0", "2", "4"], inner=options.pop("inner", "adamw")),
        lr=1e-2,
        eps=1e-5,
        update_proj_gap=3,
        **options,
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
        {"residual": "sampled", "inner": "muon"},
        {"residual": "sampled", "inner": "muon", "proj_type": "svd"},
        {"residual": "sampled", "inner": "muon", "update": "immediate"},
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
        accumulates = torch.autograd.graph.get_gradient_edge(slot.parameter).node
        accumulates.register_prehook(lambda grads: seen.extend(each for each in grads if each is not None))
    for due in (False, True):
        for slot in optimizer.projected:
            object.__setattr__(slot.schedule, "offset", 1 if due else 2)
        assert all(slot.due == due for slot in optimizer.projected)
        net(torch.randn(16, 24)).square().sum().backward()
        assert seen == []
        assert all(slot.has_gradient and (slot.refresh.sketch.value is not None) == due for slot in optimizer.projected)
        optimizer.zero_grad()


@pytest.mark.parametrize("first", [False, True])
def test_a_weight_with_a_hook_of_the_users_has_its_gradient(first):
    mask = torch.zeros(24, 40).index_fill_(1, torch.arange(5), 1.0)
    moved = []
    for backward in (False, True):
        net = network()
        before = net[2].weight.detach().clone()
        optimizer = GaLoreAdamW(galore_groups(net, 4, targets=["0", "2", "4"]), lr=1e-2, eps=1e-5)
        if backward and not first:
            assert project_in_backward(net, optimizer) == 3
        handles = [net[at].weight.register_hook(lambda grad, of=of: grad * of) for at, of in ((0, 1.0), (2, mask))]
        if backward and first:
            assert project_in_backward(net, optimizer) == 1
        for seed in range(4):
            torch.manual_seed(seed)
            net(torch.randn(16, 24)).square().mean().backward()
            optimizer.step()
        moved.append(net[2].weight.detach() - before)
        for handle in handles:
            handle.remove()
    assert moved[1][:, 5:].abs().max() < 1e-6 < moved[1][:, :5].abs().min()
    torch.testing.assert_close(*moved, rtol=2e-4, atol=2e-5)
    assert not has_hook(net[2].weight)
    assert project_in_backward(net, optimizer) == 3


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


def test_a_weight_that_is_frozen_later_stays_and_goes_on_when_it_is_not():
    net, optimizer = trained(True, steps=1)
    weight = net[2].weight

    def step():
        before = weight.detach().clone()
        net(torch.randn(16, 24)).square().sum().backward()
        optimizer.step()
        return not torch.equal(weight, before)

    moves = [step()]
    for frozen in (True, False):
        weight.requires_grad_(not frozen)
        moves.append(step())
    assert moves == [True, False, True]


@pytest.mark.parametrize("factors", [False, True])
@pytest.mark.parametrize("by_products", [False, True])
def test_the_input_may_be_given_by_its_name(by_products, factors):
    net = network()
    if by_products:
        multiply_by(net[2], PLAIN)
    optimizer = GaLoreAdamW(galore_groups(net, 4, targets=["0", "2", "4"]))
    if factors:
        project_in_backward(net, optimizer)
    x = torch.randn(16, 40)
    for _ in range(2):  # the first step has the whole gradient, the second one factors
        y = net[2](input=x)
        assert torch.equal(y, nn.functional.linear(x, net[2].weight))
        y.square().sum().backward()
        optimizer.step()
    with torch.no_grad():
        assert torch.equal(net[2](input=x), net[2](x))


@pytest.mark.parametrize("by_products", [False, True])
def test_a_copy_is_the_model_before(by_products):
    net = network()
    if by_products:
        multiply_by(net[2], PLAIN)
    optimizer = GaLoreAdamW(galore_groups(net, 4, targets=["0", "2", "4"]))
    assert project_in_backward(net, optimizer) == 3
    average = torch.optim.swa_utils.AveragedModel(net).module
    for twin in (copy.deepcopy(net), average, pickle.loads(pickle.dumps(net))):
        kept = [sorted({"forward", "__getstate__"} & vars(twin[at]).keys()) for at in (0, 2, 4)]
        assert kept == [[], ["forward"] if by_products else [], []]
        twin(torch.randn(16, 24)).square().sum().backward()
        assert not any(slot.has_gradient for slot in optimizer.projected)
        assert all(p.grad is not None for p in twin.parameters())
        assert project_in_backward(twin, GaLoreAdamW(galore_groups(twin, 4, targets=["0", "2", "4"]))) == 3
    net[0].forward = net[0].forward.func  # somebody's own stays
    assert copy.deepcopy(net[0]).forward is net[0].forward


def steps_of_a_shared_weight(backward, update, layers):
    """One matrix that multiplies twice, as two modules or as one; the gradient that the inputs have got by then."""
    torch.manual_seed(0)
    first = nn.Linear(24, 24, bias=False)
    second = first if layers == 1 else nn.Linear(24, 24, bias=False)
    second.weight = first.weight
    net = nn.ModuleList([first, second])
    optimizer = GaLoreAdamW(galore_groups(net, 4, targets=["0"]), lr=0.1, update=update, proj_type="random")
    taken = project_in_backward(net, optimizer) if backward else 0
    grads = []
    for _ in range(3):
        x = torch.randn(16, 24, requires_grad=True)
        second(torch.tanh(first(x))).square().sum().backward()
        optimizer.step()
        grads.append(x.grad)
    return taken, grads, optimizer


def test_a_weight_of_several_modules_moves_once_in_a_step():
    _, expected, _ = steps_of_a_shared_weight(False, "accumulate", 2)
    for update, taken in (("accumulate", 2), ("immediate", 0)):
        found, grads, optimizer = steps_of_a_shared_weight(True, update, 2)
        assert found == taken
        assert int(optimizer.projected[0].state["step"]) == 3
        for ours, theirs in zip(grads, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_layer_that_is_used_twice_cannot_move_at_once():
    _, expected, _ = steps_of_a_shared_weight(False, "accumulate", 1)
    _, grads, _ = steps_of_a_shared_weight(True, "accumulate", 1)
    for ours, theirs in zip(grads, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError, match=r"0\.weight has moved in this step.*update: accumulate.*projection: hook"):
        steps_of_a_shared_weight(True, "immediate", 1)


def test_what_is_forgotten_may_come_again():
    net, optimizer = trained(True, steps=1, update="immediate")
    for _ in range(2):
        net(torch.randn(16, 24)).square().sum().backward()
        optimizer.zero_grad()


def test_under_autocast_equals_the_hook():
    found = []
    for backward in (False, True):
        net = network()
        optimizer = GaLoreAdamW(galore_groups(net, 4, targets=["0", "2", "4"]), lr=1e-2, update_proj_gap=3, eps=1e-2)
        assert not backward or project_in_backward(net, optimizer) == 3
        sums, generator = [], torch.Generator().manual_seed(1)
        for _ in range(6):
            with torch.autocast("cpu", torch.bfloat16):
                out = net(torch.randn(64, 24, generator=generator))
                assert out.dtype == torch.bfloat16
                loss = out.float().square().sum()
            loss.backward()
            sums.append([slot.sum.value for slot in optimizer.projected])
            assert all(each.dtype == torch.float32 for each in sums[-1])
            optimizer.step()
        found.append((sums[0], [p.detach() for p in net.parameters()]))
    for ours, theirs in zip(*(each for _, each in found), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-3)
