"""In a training loop that is not ours: what torch's optimizers are expected to do works, or ends in one clear error."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from galore.trainer.optim import GaLoreAdamW, galore_groups, kinds_with_own_forward, project_in_backward, to_int8
from galore.trainer.optim.clipping import CLIPPERS


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 12, bias=False))


def galore(net: nn.Module, **options: Any) -> GaLoreAdamW:
    return GaLoreAdamW(galore_groups(net, 4, targets=["0", "2"]), **{"lr": 1e-2, "update_proj_gap": 3, **options})


def backward(net: nn.Module, seed: int = 1) -> None:
    x = torch.randn(8, 12, generator=torch.Generator().manual_seed(seed))
    (net(x) - x.flip(0)).square().mean().backward()


def weights(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


WRONG = [
    ("lr", math.nan),
    ("lr", -1e-3),
    ("lr", math.inf),
    ("betas", (0.9, 1.5)),
    ("betas", (math.nan, 0.9)),
    ("betas", 0.9),
    ("eps", 0.0),
    ("eps", math.nan),
    ("weight_decay", -0.1),
    ("weight_decay", math.nan),
    ("update_proj_gap", 0),
    ("update_proj_gap", 2.5),
    ("rank", 0),
    ("rank", -2),
    ("rank", math.nan),
    ("rank", 2.5),
    ("scale", math.nan),
    ("momentum", 1.0),
    ("refresh_overlap", math.nan),
    ("proj_type", "svdd"),
    ("side", "top"),
    ("inner", "sgd"),
    ("transport", "carry"),
    ("residual", "all"),
    ("projector_dtype", "int2"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_setting_that_cannot_be_meant_names_itself_and_its_group(name: str, value: object) -> None:
    good, bad = (nn.Parameter(torch.ones(6, 8)) for _ in range(2))
    groups = [{"params": [good], "rank": 2}, {"params": [("bad", bad)], "rank": 2, name: value}]
    with pytest.raises(ValueError, match=rf"{name}=.* in group 1 \(bad") as error:
        GaLoreAdamW(groups)
    assert repr(value) in str(error.value)


def test_a_schedule_that_ends_in_no_number_changes_nothing() -> None:
    net = network()
    optimizer, before = galore(net), weights(net)
    backward(net)
    optimizer.param_groups[1]["lr"] = math.nan
    with pytest.raises(ValueError, match=r"lr=nan in group 1"):
        optimizer.step()
    assert torch.equal(weights(net), before)


OFFICIAL = [("std", (6, 8), "left"), ("std", (8, 6), "right"), ("std", (6, 6), "right")]
OFFICIAL += [("reverse_std", (6, 8), "right"), ("reverse_std", (8, 6), "left"), ("reverse_std", (6, 6), "left")]
OFFICIAL += [("left", (8, 6), "left"), ("right", (6, 8), "right")]


@pytest.mark.parametrize(("proj_type", "shape", "side"), OFFICIAL)
def test_the_official_packages_groups_are_taken_as_they_are(proj_type: str, shape: tuple[int, int], side: str) -> None:
    """And the subspaces are its own."""
    official = pytest.importorskip("galore_torch.galore_projector", reason="the bench extra is not installed")
    weight, gradient = nn.Parameter(torch.ones(shape)), torch.randn(shape)
    group = {"params": [weight], "rank": 3, "update_proj_gap": 7, "scale": 0.5, "proj_type": proj_type}
    optimizer = GaLoreAdamW([group])
    (slot,) = optimizer.projected
    assert (slot.transposed, slot.group["proj_type"], slot.schedule.gap) == (side == "right", "svd", 7)
    weight.grad = gradient.clone()
    optimizer.step()
    projector = official.GaLoreProjector(3, update_proj_gap=7, proj_type=proj_type)
    projector.project(gradient, 0)
    theirs = projector.ortho_matrix if side == "left" else projector.ortho_matrix.mT
    torch.testing.assert_close(slot.projector, theirs)


def test_what_of_the_official_groups_has_no_equal_is_refused() -> None:
    wide, tall = nn.Parameter(torch.ones(6, 8)), nn.Parameter(torch.ones(8, 6))
    with pytest.raises(ValueError, match=r"'full' in group 0 .*: projecting both sides is not offered"):
        GaLoreAdamW([{"params": [wide], "rank": 2, "proj_type": "full"}])
    with pytest.raises(ValueError, match="put wide and tall matrices into groups of their own"):
        GaLoreAdamW([{"params": [wide, tall], "rank": 2, "proj_type": "reverse_std"}])
    with pytest.raises(ValueError, match="names a side already"):
        GaLoreAdamW([{"params": [wide], "rank": 2, "proj_type": "std", "side": "left"}])


def test_several_processes_are_refused_at_the_start_and_at_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    optimizer, before = galore(net), weights(net)
    backward(net)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    with pytest.raises(RuntimeError, match="2 processes, and GaLoreAdamW trains in one"):
        optimizer.step()
    with pytest.raises(RuntimeError, match="2 processes"):
        galore(network())
    assert torch.equal(weights(net), before)
    monkeypatch.setattr(dist, "get_world_size", lambda: 1)
    optimizer.step()
    assert not torch.equal(weights(net), before)


@pytest.mark.parametrize(
    ("own", "asked", "limit"),
    [(0.01, None, 0.01), (0.01, math.inf, None), (0.01, 0.1, 0.1), (None, None, None), (None, 0.1, 0.1)],
)
def test_a_call_that_sets_no_limit_leaves_the_own_one(
    own: float | None, asked: float | None, limit: float | None
) -> None:
    net = network()
    optimizer = galore(net, max_grad_norm=own)
    backward(net)
    norm = optimizer.clip_grad_norm_(asked)
    optimizer.step()
    assert optimizer.report is not None
    assert norm > 0.1
    assert optimizer.report.grad_norm * optimizer.report.grad_scale == pytest.approx(limit or norm)


def test_max_grad_norm_clips_as_the_call_before_the_step_does() -> None:
    one, two, free = network(), network(), network()
    by_option, by_call, never = galore(one, max_grad_norm=0.01), galore(two), galore(free)
    for _ in range(2):
        for net in (one, two, free):
            backward(net)
        by_call.clip_grad_norm_(0.01)
        for optimizer in (by_option, by_call, never):
            optimizer.step()
    assert by_option.report is not None
    assert by_option.report.grad_scale < 1
    assert by_option.report == by_call.report
    assert torch.equal(weights(one), weights(two))
    assert not torch.equal(weights(one), weights(free))
    for wrong in (math.nan, 0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="max_grad_norm"):
            galore(network(), max_grad_norm=wrong)
    with pytest.raises(ValueError, match="update='immediate' steps before all gradients exist"):
        galore(network(), max_grad_norm=1.0, update="immediate")


@pytest.mark.parametrize("scheduled", [False, True])
def test_clipping_that_finds_no_gradients_is_told_once(scheduled: bool) -> None:
    net = network()
    optimizer = galore(net)
    if scheduled:  # which wraps step
        torch.optim.lr_scheduler.ConstantLR(optimizer)

    def clipped_by_torch() -> None:
        backward(net)
        assert nn.utils.clip_grad_norm_(net.parameters(), 1.0) == 0
        optimizer.step()

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        clipped_by_torch()
        clipped_by_torch()
    assert [str(each.message).partition(":")[0] for each in told] == [f"clipped_by_torch names {CLIPPERS[0]}"]
    assert told[0].filename == __file__


def test_clipping_that_is_asked_of_the_optimizer_is_told_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in ({}, {"max_grad_norm": 1.0}):
            net = network()
            optimizer = galore(net, **options)
            backward(net)
            if not options:
                optimizer.clip_grad_norm_(1.0)
            optimizer.step()


class Pair(nn.Linear):
    """A linear layer that returns more than its product."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x), self.bias


def test_a_linear_layer_with_a_forward_of_its_own_keeps_it() -> None:
    net = nn.ModuleList([Pair(12, 12, bias=False), nn.Linear(12, 12, bias=False)])
    optimizer = GaLoreAdamW(galore_groups(net, 2, targets=["0", "1"]), proj_type="svd")
    assert project_in_backward(net, optimizer) == 1
    assert kinds_with_own_forward(optimizer, net) == ["Pair"]
    for _ in range(3):
        x, bias = net[0](torch.randn(5, 12))
        assert bias is None
        net[1](x).square().sum().backward()
        optimizer.step()
    assert optimizer.clock == 3
    assert len(optimizer.state_tensors()) == 8
    with pytest.raises(ValueError, match="Pair has a forward of its own"):
        to_int8(net[0])


def test_a_layer_whose_forward_was_replaced_keeps_it_and_ours_may_be_replaced() -> None:
    net = nn.Sequential(nn.Linear(12, 12, bias=False))
    first = GaLoreAdamW(galore_groups(net, 2, targets=["0"]))
    assert project_in_backward(net, first) == 1
    first.release()
    second = GaLoreAdamW(galore_groups(net, 2, targets=["0"]))
    assert project_in_backward(net, second) == 1
    net[0].forward = lambda x: x
    assert project_in_backward(net, second) == 0


SCHEDULERS = [
    lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1)),
    lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5),
    lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=8),
    lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, 0.1),
]


@pytest.mark.parametrize("make", SCHEDULERS)
def test_torchs_schedulers_steer_the_update(make: Any) -> None:
    net = network()
    optimizer = galore(net)
    scheduler, rates = make(optimizer), []
    for _ in range(4):
        backward(net)
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert len(set(rates)) == 4
    slot = optimizer.projected[0]
    assert slot._lr == pytest.approx(rates[-1] * 0.25)


def test_step_takes_a_closure_and_returns_its_loss() -> None:
    net, called = network(), network()
    optimizer, other = galore(net), galore(called)

    def closure() -> float:
        optimizer.zero_grad()
        backward(net)
        return 3.0

    assert optimizer.step(closure) == 3.0
    backward(called)
    other.step()
    assert torch.equal(weights(net), weights(called))


def test_zero_grad_forgets_and_a_state_dict_goes_round() -> None:
    net = network()
    optimizer, before = galore(net), weights(net)
    backward(net)
    optimizer.zero_grad()
    optimizer.step()
    assert torch.equal(weights(net), before)
    backward(net)
    optimizer.step()
    twin = copy.deepcopy(net)
    other = galore(twin)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, its in ((net, optimizer), (twin, other)):
        backward(each, 5)
        its.step()
    assert torch.equal(weights(net), weights(twin))


def test_a_later_group_is_refused() -> None:
    optimizer = galore(network())
    with pytest.raises(ValueError, match="cannot be added later"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3))]})
    assert len(optimizer.param_groups) == len(optimizer.state_dict()["param_groups"])


def test_a_gradient_scaler_finds_nothing_to_unscale_and_says_so() -> None:
    net = network()
    optimizer, before = galore(net), weights(net)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(net(torch.ones(2, 12)).sum()).backward()
    with pytest.raises(RuntimeError, match=r"use bfloat16 autocast without a scaler, or GradScaler\(enabled=False\)"):
        scaler.step(optimizer)
    assert torch.equal(weights(net), before)
