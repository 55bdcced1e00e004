"""Layers whose weights are codes: the products and gradients of float layers, trained as those are, and no m×n gradient anywhere."""

from __future__ import annotations

import copy
import gc
import itertools
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from galore.kernels.linear import Factors
from galore.kernels.ops.int8 import int8_bytes
from galore.trainer.optim import GaLoreAdamW, check_complete, galore_groups, hand_over_int8, project_in_backward
from galore.trainer.optim.int8_linear import Int8Linear, int8_layers, to_floating, to_int8
from galore.trainer.optim.projected import ProjectedSlot

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
SHAPES = pytest.mark.parametrize("shape", [(24, 40), (40, 24), (24, 24), (48, 128)])


class Network(nn.Module):
    """Wide, tall and square, with and without a bias; the last layer stays in floating point."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(24, 40, bias=False), nn.Linear(40, 24)
        self.third, self.head = nn.Linear(24, 24, bias=False), nn.Linear(24, 24, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.third(torch.tanh(self.second(torch.tanh(self.first(x)))))))  # type: ignore[no-any-return]


TARGETS = ("first", "second", "third")


def twins(dtype: torch.dtype = torch.float32) -> tuple[Network, Network]:
    """A network with codes, and one with the same numbers in floating point."""
    torch.manual_seed(0)
    ours = Network().to(dtype)
    for name in TARGETS:
        to_int8(ours.get_submodule(name))
    theirs = copy.deepcopy(ours)
    to_floating(theirs)
    for parameter in theirs.parameters():
        parameter.requires_grad_(True)
    return ours, theirs


def galore(model: nn.Module, rank: int = 4, **options: Any) -> GaLoreAdamW:
    groups = galore_groups(model, rank, targets=TARGETS, inner=options.pop("inner", "adamw"))
    check_complete(model, groups)
    optimizer = GaLoreAdamW(groups, **{"lr": 1e-2, "eps": 1e-5, "update_proj_gap": 3, **options})
    hand_over_int8(model, optimizer)
    project_in_backward(model, optimizer)
    return optimizer


def layer_with_factors(
    shape: tuple[int, int], dtype: torch.dtype, bias: bool = True
) -> tuple[nn.Linear, Int8Linear, list[Factors]]:
    """A float layer, its twin in codes, and what that hands over."""
    torch.manual_seed(0)
    ours = nn.Linear(shape[1], shape[0], bias=bias, dtype=dtype)
    to_int8(ours)
    assert isinstance(ours, Int8Linear)
    theirs = copy.deepcopy(ours)
    to_floating(theirs)
    received: list[Factors] = []
    ours.receive = received.append
    return theirs.requires_grad_(True), ours, received


# -- one layer


@DTYPES
@SHAPES
@pytest.mark.parametrize("bias", [False, True])
def test_forward_and_gradients_are_those_of_the_dequantized_weight(
    shape: tuple[int, int], dtype: torch.dtype, bias: bool
) -> None:
    theirs, ours, received = layer_with_factors(shape, dtype, bias)
    assert ours.weight.dtype == torch.int8
    assert torch.equal(ours.floating, theirs.weight)
    assert ours.weight.nbytes + ours.weight_scale.nbytes == int8_bytes(*shape)
    x = torch.randn(3, 5, shape[1], dtype=dtype)
    a, b = x.clone().requires_grad_(True), x.clone().requires_grad_(True)
    out, expected = ours(a), theirs(b)
    assert torch.equal(out, expected)
    direction = torch.randn_like(out)
    out.backward(direction)
    expected.backward(direction)
    assert a.grad is not None
    torch.testing.assert_close(a.grad, b.grad)
    (factors,) = received
    torch.testing.assert_close(factors.multiply(), theirs.weight.grad)
    assert (ours.bias is not None) == bias
    if bias:
        torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)
    with torch.no_grad():
        assert torch.equal(ours(x), out.detach()), "with and without a gradient"


@pytest.mark.parametrize("transposed", [None, False, True])
def test_factors_are_oriented_as_the_receiver_wants(transposed: bool | None) -> None:
    theirs, ours, received = layer_with_factors((24, 40), torch.float32)
    ours.transposed = transposed
    x = torch.randn(7, 40)
    ours(x).square().sum().backward()
    theirs(x).square().sum().backward()
    assert received[0].transposed == bool(transposed)
    torch.testing.assert_close(received[0].multiply(), theirs.weight.grad)


def test_factors_come_even_if_the_input_needs_no_gradient_and_never_without_a_backward() -> None:
    _, ours, received = layer_with_factors((24, 40), torch.float32, bias=False)
    x = torch.randn(2, 40)
    with torch.no_grad():
        assert not ours(x).requires_grad
    ours(x).sum().backward()
    assert len(received) == 1
    ours.receive = None
    assert not ours(x).requires_grad, "nobody is there to train it"
    x.requires_grad_(True)
    ours(x).sum().backward()
    assert x.grad is not None
    assert len(received) == 1


@DTYPES
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_factors(dtype: torch.dtype, reentrant: bool) -> None:
    _, ours, received = layer_with_factors((24, 40), dtype)
    x, grads = torch.randn(4, 40, dtype=dtype), []
    for recompute in (False, True):
        leaf, ours.bias.grad = x.clone().requires_grad_(True), None
        out = checkpoint(ours, leaf, use_reentrant=reentrant) if recompute else ours(leaf)
        out.square().sum().backward()
        assert leaf.grad is not None
        assert ours.bias.grad is not None
        grads.append((leaf.grad, ours.bias.grad))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert len(received) == 2
    assert torch.equal(received[0].multiply(), received[1].multiply())


def test_a_weight_may_be_updated_by_its_receiver() -> None:
    """dx is that of the weight that made the output."""
    theirs, ours, _ = layer_with_factors((24, 40), torch.float32)
    ours.receive = lambda factors: ours.weight.zero_()  # type: ignore[assignment, return-value]
    a = torch.randn(4, 40)
    b = a.clone().requires_grad_(True)
    ours(a.requires_grad_(True)).square().sum().backward()
    theirs(b).square().sum().backward()
    assert a.grad is not None
    torch.testing.assert_close(a.grad, b.grad)


@DTYPES
def test_to_int8_and_back(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 24, dtype=dtype), nn.ReLU(), nn.Linear(24, 40, bias=False, dtype=dtype))
    weight, bias = model[0].weight.detach().clone(), model[0].bias
    to_int8(model[0])
    assert [type(layer) for layer in int8_layers(model)] == [Int8Linear]
    assert set(model.state_dict()) == {"0.weight", "0.weight_scale", "0.bias", "2.weight"}
    assert model[0].bias is bias
    assert bias.requires_grad
    to_floating(model)
    assert type(model[0]) is nn.Linear
    assert set(model.state_dict()) == {"0.weight", "0.bias", "2.weight"}
    assert model[0].weight.dtype == dtype
    assert (model[0].weight - weight).norm() < 0.01 * weight.norm()


# -- under the optimizer, beside the same optimizer on float weights


def passes(net: nn.Module, xs: Tensor) -> None:
    for x in xs:
        ((net(x) - x.roll(1, -1)).square().sum() / xs.shape[0] / x.shape[0]).backward()


def accumulated(net: nn.Module, optimizer: GaLoreAdamW, xs: Tensor) -> None:
    if optimizer.wants_sketch_pass:
        with optimizer.sketching():
            passes(net, xs)
    passes(net, xs)


def inputs(steps: int, parts: int = 2) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(parts, 32 // parts, 24, generator=draw) for _ in range(steps)]


def tie(ours: nn.Module, theirs: nn.Module) -> None:
    """Give the float network the numbers that the one with codes has now, or both would part by rounding alone."""
    for name in TARGETS:
        layer, plain = ours.get_submodule(name), theirs.get_submodule(name)
        plain.weight.data.copy_(layer.floating)  # type: ignore[operator, union-attr]


OPTIONS: dict[str, dict[str, Any]] = {
    "delayed": {},
    "two-pass": {"refresh": "two-pass", "stagger": False},
    "summed": {"refresh": "summed"},
    "first": {"refresh": "first-micro-batch"},
    "svd": {"proj_type": "svd"},
    "power": {"proj_type": "power"},
    "dct": {"proj_type": "dct"},
    "random": {"proj_type": "random"},
    "fira": {"residual": "fira"},
    "frugal": {"residual": "frugal"},
    "apollo": {"residual": "apollo", "proj_type": "random"},
    "left": {"side": "left"},
    "right": {"side": "right"},
    "rotate": {"transport": "rotate"},
    "muon": {"inner": "muon"},
    "reference": {"proj_type": "svd", "stagger": False, "convention": "reference", "weight_decay": 0.1},
    "8bit": {"state_dtype": "8bit", "projector_dtype": "int8"},
    "nearest": {"weight_rounding": "nearest"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_trained_as_a_float_weight_is_up_to_the_rounding_of_the_update(name: str) -> None:
    """Accumulators, norm and clipping at every step; the weight after it is within one scale of the float one."""
    ours, theirs = twins()
    one, other = (galore(net, **OPTIONS[name]) for net in (ours, theirs))
    for xs in inputs(8):
        tie(ours, theirs)
        for net, optimizer in ((ours, one), (theirs, other)):
            accumulated(net, optimizer, xs)
        assert all(p.grad is None for p in ours.parameters())
        norms = one.clip_grad_norm_(0.05), other.clip_grad_norm_(0.05)
        assert norms[0] == pytest.approx(norms[1], rel=1e-4)
        for mine, its in zip(one.slots.values(), other.slots.values(), strict=True):
            for a, b in ((mine.sum.value, its.sum.value), *whole_and_sketch(mine, its)):
                assert (a is None) == (b is None)
                if a is not None and b is not None:
                    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
        one.step()
        other.step()
        assert one.report is not None
        assert other.report is not None
        assert one.report.refreshed == other.report.refreshed
        for layer, plain in pairs(ours, theirs):
            within = layer.weight_scale.float().repeat_interleave(
                layer.weight.shape[1] // layer.weight_scale.shape[1], 1
            )
            assert bool(((layer.floating - plain.weight).abs() <= 1.05 * within + 1e-5).all())
    assert torch.allclose(ours.head.weight, theirs.head.weight, rtol=1e-3, atol=1e-4)
    assert torch.allclose(ours.second.bias, theirs.second.bias, rtol=1e-3, atol=1e-4)


def whole_and_sketch(mine: Any, its: Any) -> list[tuple[Tensor | None, Tensor | None]]:
    if not isinstance(mine, ProjectedSlot):
        return []
    ours, theirs = mine.refresh, its.refresh
    return [(ours.whole.value, theirs.whole.value), (ours.sketch.value, theirs.sketch.value)]


def pairs(ours: nn.Module, theirs: nn.Module) -> list[tuple[Any, Any]]:
    return [(ours.get_submodule(name), theirs.get_submodule(name)) for name in TARGETS]


def test_update_immediate_steps_in_the_backward() -> None:
    ours, theirs = twins()
    one, other = (galore(net, update="immediate") for net in (ours, theirs))
    for xs in inputs(6, parts=1):
        tie(ours, theirs)
        before = ours.third.weight.clone()
        for net in (ours, theirs):
            passes(net, xs)
        assert not torch.equal(ours.third.weight, before)
        for layer, plain in pairs(ours, theirs):
            assert (layer.floating - plain.weight).abs().max() <= 1.05 * layer.weight_scale.float().max()
        one.step()
        other.step()


@DTYPES
def test_many_steps_follow_the_float_network(dtype: torch.dtype) -> None:
    """Losses of a regression; what rounding to codes costs is little beside what training gains."""
    losses: list[list[float]] = []
    for net in twins(dtype):
        optimizer, seen = galore(net, rank=8, scale=1.0), []
        for xs in inputs(60):
            accumulated(net, optimizer, xs.to(dtype))
            optimizer.step()
            with torch.no_grad():
                seen.append(float((net(xs[0].to(dtype)) - xs[0].to(dtype).roll(1, -1)).float().square().mean()))
        losses.append(seen)
    first, (ours, theirs) = losses[0][0], (sum(each[-10:]) / 10 for each in losses)
    assert theirs < 0.98 * first
    assert abs(ours - theirs) < 0.2 * (first - theirs)


@pytest.mark.parametrize("options", [{}, {"proj_type": "svd"}, {"residual": "fira"}, {"proj_type": "random"}])
def test_one_micro_batch_of_four_is_four_of_one(options: dict[str, Any]) -> None:
    kept = []
    for parts in (1, 4):
        net, _ = twins()
        optimizer = galore(net, **options)
        accumulated(net, optimizer, inputs(1)[0].view(parts, 32 // parts, 24))
        optimizer.clip_grad_norm_(None)
        kept.append([value for slot in optimizer.projected for value in (slot.sum.value, slot.refresh.whole.value)])
    for a, b in zip(*kept, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# -- memory


class Storages(TorchDispatchMode):
    """Live storages of `sizes` elements, by number of elements and dtype."""

    def __init__(self, sizes: set[int]) -> None:
        super().__init__()
        self.sizes, self.alive = sizes, weakref.WeakValueDictionary[int, Any]()
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.numel() in self.sizes and tensor.is_floating_point():
                self.alive[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        self.most = max(self.most, len(self.alive))
        return out


def alive_around_backward(options: dict[str, Any]) -> tuple[int, int]:
    """Matrices of the size of two of the weights: most that are alive at a time, and after the backward of the second step."""
    net = twins()[0]
    optimizer = galore(net, **options)
    left, most = 0, 0
    for xs in inputs(2):
        with Storages({net.first.weight.numel()}) as storages:
            accumulated(net, optimizer, xs)
            gc.collect()
            left, most = len(storages.alive), storages.most
        optimizer.step()
    return most, left


def test_neither_a_gradient_nor_a_float_weight_outlives_its_product() -> None:
    assert alive_around_backward({"stagger": False, "update_proj_gap": 9}) == (1, 0)
    assert alive_around_backward({"stagger": False, "update_proj_gap": 1}) == (1, 0), "of a delayed refresh either"
    assert alive_around_backward({"residual": "fira"})[1] == 2, "the tracker sees what is kept"


@DTYPES
@pytest.mark.parametrize("side", ["left", "right", "auto"])
def test_bytes_are_as_planned(dtype: torch.dtype, side: str) -> None:
    net = twins(dtype)[0]
    optimizer = galore(net, side=side)
    for xs in inputs(2):
        accumulated(net, optimizer, xs.to(dtype))
        optimizer.step()
    for slot in optimizer.projected:
        a, b = slot.subspace.a, slot.subspace.b
        planned = (2 * 4 * 4 * b, 4 * a * dtype.itemsize)
        held = {category: 0 for category, _ in slot.tensors()}
        for category, tensor in slot.tensors():
            held[category] += tensor.nbytes
        assert slot.planned_bytes() == planned == (held["optimizer_states"] - 8, held["projectors"])
        assert slot.projector.dtype == slot.weight.dtype == dtype
        assert slot.weight.scales is not None
        assert slot.transposed == (
            side == "right" if side != "auto" else slot.parameter.shape[0] >= slot.parameter.shape[1]
        )


# -- resumed, released, refused


@DTYPES
@pytest.mark.parametrize("options", [{}, {"proj_type": "dct", "transport": "rotate", "state_dtype": "8bit"}])
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(options: dict[str, Any], dtype: torch.dtype) -> None:
    unbroken, resumed = twins(dtype)[0], twins(dtype)[0]
    one, other = galore(unbroken, **options), galore(resumed, **options)
    xs = [x.to(dtype) for x in inputs(8)]
    for x in xs[:4]:
        accumulated(unbroken, one, x)
        one.step()
    resumed.load_state_dict(unbroken.state_dict())
    other.load_state_tensors(one.state_tensors(), one.clock)
    for x, (net, optimizer) in itertools.product(xs[4:], ((unbroken, one), (resumed, other))):
        accumulated(net, optimizer, x)
        optimizer.step()
    for (name, a), b in zip(unbroken.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert all(
        torch.equal(a, b) for a, b in zip(one.state_tensors().values(), other.state_tensors().values(), strict=True)
    )


def test_a_step_that_is_not_finite_leaves_codes_and_scales_alone() -> None:
    net = twins()[0]
    optimizer = galore(net)
    for xs in inputs(2):
        accumulated(net, optimizer, xs)
        optimizer.step()
    before = copy.deepcopy(net.state_dict())
    accumulated(net, optimizer, inputs(1)[0] * float("nan"))
    optimizer.clip_grad_norm_(1.0)
    optimizer.step()
    assert optimizer.report is not None
    assert optimizer.report.skipped
    assert all(torch.equal(a, before[name]) for name, a in net.state_dict().items())


def test_a_released_optimizer_takes_nothing_and_another_one_can() -> None:
    net = twins()[0]
    first = galore(net)
    accumulated(net, first, inputs(1)[0])
    first.step()
    first.release()
    passes(net, inputs(1)[0])
    assert not any(slot.has_gradient for slot in first.slots.values())
    for parameter in net.parameters():
        parameter.grad = None
    second = galore(net)
    before = net.third.weight.clone()
    accumulated(net, second, inputs(1)[0])
    assert all(slot.has_gradient for slot in second.projected)
    assert not any(slot.has_gradient for slot in first.slots.values())
    second.step()
    assert not torch.equal(net.third.weight, before)


def test_evaluation_gives_no_factors() -> None:
    net = twins()[0]
    optimizer = galore(net)
    with torch.no_grad():
        net(inputs(1)[0][0])
    assert not any(slot.has_gradient for slot in optimizer.slots.values())


def test_codes_need_a_rank() -> None:
    net = twins()[0]
    with pytest.raises(ValueError, match=r"first.weight is kept in int8.*give its group a rank"):
        GaLoreAdamW(galore_groups(net, None, targets=TARGETS))
    with pytest.raises(ValueError, match=r"third.weight is kept in int8"):
        GaLoreAdamW(galore_groups(net, 4, targets=TARGETS[:2]))
    groups = [{"params": [(name, p) for name, p in net.named_parameters() if p.requires_grad]}]
    with pytest.raises(ValueError, match=r"no group updates first.weight"):
        check_complete(net, groups)


def test_a_weight_that_others_have_too_is_not_left_behind_in_silence() -> None:
    net, kept = Network(), Network()
    net.third.weight = net.head.weight
    to_int8(net.third)
    with pytest.raises(ValueError, match="shared with a layer that is in int8 now"):
        to_int8(net.head)
    assert type(net.head) is nn.Linear
    kept.third.weight = kept.head.weight
    to_int8(kept.third)
    optimizer = GaLoreAdamW(galore_groups(kept, 4, targets=("third",)))
    with pytest.raises(ValueError, match=r"head\.weight is shared with a layer that is in int8 now"):
        hand_over_int8(kept, optimizer)


def test_a_copy_trains_nothing_and_a_float_layer_has_nothing_left_of_it() -> None:
    net = twins()[0]
    optimizer = galore(net)
    twin = copy.deepcopy(net)
    passes(twin, inputs(1)[0])
    assert not any(slot.has_gradient for slot in optimizer.projected)
    assert torch.equal(twin.third.floating, net.third.floating)
    hand_over_int8(twin, galore(twin))
    to_floating(net)
    copy.deepcopy(net.third)
    assert not {"receive", "transposed"} & vars(net.third).keys()


def test_without_a_receiver_a_layer_is_frozen_until_it_is_handed_over_again() -> None:
    net = twins()[0]
    optimizer = galore(net, weight_rounding="nearest", lr=1.0)
    moved = []
    for given in (True, False, True):
        net.third.receive = net.third.receive if given else None
        if given:
            hand_over_int8(net, optimizer)
        before = net.third.floating
        accumulated(net, optimizer, inputs(1)[0])
        optimizer.step()
        moved.append(not torch.equal(net.third.floating, before))
    assert moved == [True, False, True]


def test_the_input_may_be_given_by_its_name() -> None:
    _, ours, received = layer_with_factors((24, 40), torch.float32)
    x = torch.randn(3, 40)
    y = ours(input=x)
    assert torch.equal(y, ours(x))
    y.sum().backward()
    assert len(received) == 1


@pytest.mark.parametrize("leading", [(), (0,), (2, 3)])
def test_inputs_of_any_number_of_dimensions(leading: tuple[int, ...]) -> None:
    theirs, ours, received = layer_with_factors((24, 40), torch.float32)
    x, dy = torch.randn(*leading, 40), torch.randn(*leading, 24)
    for each in (theirs, ours):
        each(x).backward(dy)
    torch.testing.assert_close(received[0].multiply(), theirs.weight.grad)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)


def test_a_layer_that_is_used_twice_cannot_move_at_once() -> None:
    net = twins()[0]
    optimizer = galore(net, update="immediate")
    with pytest.raises(RuntimeError, match=r"third\.weight has moved in this step"):
        net.third(torch.tanh(net.third(torch.randn(8, 24)))).square().sum().backward()
    assert optimizer.attached


@pytest.mark.parametrize("proj_type", ["svd", "random"])
def test_autocast_is_that_of_float_layers(proj_type: str) -> None:
    found = []
    for net in twins():
        optimizer = galore(net, proj_type=proj_type)
        x = inputs(1)[0][0].requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out = net(x)
            assert out.dtype == torch.bfloat16
        out.float().square().sum().backward()
        norm = optimizer.clip_grad_norm_(None)
        found.append((x.grad, norm, [slot.sum.value for slot in optimizer.projected]))
        optimizer.step()
    (a, one, ours), (b, other, theirs) = found
    torch.testing.assert_close(a, b, rtol=3e-2, atol=3e-2)
    assert one == pytest.approx(other, rel=1e-2)
    for mine, its in zip(ours, theirs, strict=True):
        assert mine.dtype == its.dtype == torch.float32
        assert (mine.norm() - its.norm()).abs() < 0.02 * its.norm()


def test_autocast_is_asked_before_products_of_other_kinds() -> None:
    _, ours, received = layer_with_factors((24, 40), torch.float32)

    class Seen:
        def forward(self, x: Tensor, weight: Tensor, scales: Tensor | None = None) -> Tensor:
            assert x.dtype == torch.bfloat16
            return x @ ours.floating.to(x.dtype).mT

        def input_gradient(self, dy: Tensor, weight: Tensor, scales: Tensor | None = None) -> Tensor:
            return dy @ ours.floating.to(dy.dtype)

    ours.products = Seen()
    with torch.autocast("cpu", torch.bfloat16):
        out = ours(torch.randn(7, 40))
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert received[0].side.dtype == received[0].other.dtype == torch.float32
    assert ours.bias.grad is not None
    assert ours.bias.grad.dtype == torch.float32


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize("uses", [1, 2])
def test_the_basis_of_a_summed_gradient_is_that_of_all_uses_of_a_layer(uses: int, anew: bool) -> None:
    """Also where the number of micro-batches is known; of one use it is found, and the sum freed, in the backward."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 64, bias=False).bfloat16()
    to_int8(layer)
    draw = torch.Generator().manual_seed(1)
    x, bases = torch.randn(7, 64, generator=draw).bfloat16(), []
    for accumulation in (None, 1):
        groups = galore_groups(nn.ModuleDict({"it": layer}), 4, targets=("it",), proj_type="svd")
        optimizer = GaLoreAdamW(groups, lr=1e-2, refresh="summed", accumulation=accumulation)
        hand_over_int8(layer, optimizer)
        y = x
        for _ in range(uses):
            y = 3 * torch.tanh(checkpoint(layer, y, use_reentrant=False) if anew else layer(y))
        y.square().sum().backward()
        (slot,) = optimizer.projected
        assert slot.refresh.whole.exists is (accumulation is None or uses > 1)
        optimizer.clip_grad_norm_(None)
        basis = slot.refresh.basis
        assert basis is not None
        bases.append(basis["projector"])
        optimizer.zero_grad()
    assert torch.equal(*bases)
