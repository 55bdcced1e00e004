"""A state that is not this optimizer's is refused by its first tensor, and nothing is changed."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from galore.trainer.optim import GaLoreAdamW, galore_groups


def trained(rank: int = 4, **options: Any) -> GaLoreAdamW:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 20, bias=False), nn.Tanh(), nn.Linear(20, 12, bias=False))
    groups = galore_groups(net, rank, targets=["0", "2"])
    optimizer = GaLoreAdamW(groups, update_proj_gap=3, **options)
    for _ in range(2):
        net(torch.randn(6, 12)).square().sum().backward()
        optimizer.step()
    return optimizer


def everything(optimizer: GaLoreAdamW) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in optimizer.state_tensors().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


ALTERED = {
    "another shape": ("2.weight.exp_avg", lambda x: x[:2], r"2\.weight\.exp_avg: .*\(2, 20\) saved, .*\(4, 20\) here"),
    "another dtype": ("0.weight.projector", lambda x: x.double(), r"0\.weight\.projector: torch.float64"),
    "missing": ("0.weight.exp_avg_sq", lambda x: None, r"0\.weight\.exp_avg_sq is missing"),
    "of no rule here": ("0.weight.row", lambda x: torch.ones(3), r"0\.weight\.row is saved, and nothing like it"),
    "of no parameter": (
        "7.weight.step",
        lambda x: torch.ones(3),
        r"no parameter for the saved tensor '7\.weight\.step'",
    ),
}


@pytest.mark.parametrize("name", ALTERED)
@pytest.mark.parametrize("through", ["tensors", "state_dict"])
def test_an_altered_state_is_refused_by_name(name: str, through: str) -> None:
    key, change, message = ALTERED[name]
    optimizer, tensors = trained(), everything(trained())
    before = everything(optimizer)
    changed = change(tensors.get(key))
    if through == "tensors":
        tensors = {k: v for k, v in tensors.items() if k != key} | ({} if changed is None else {key: changed})
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_tensors(tensors, clock=9)
    else:
        if name == "of no parameter":
            pytest.skip("torch's state dict numbers its parameters")
        state = copy.deepcopy(optimizer.state_dict())
        layer, _, field = key.partition(".weight.")
        of_layer = state["state"][0 if layer == "0" else 1]
        of_layer.pop(field, None)
        of_layer |= {} if changed is None else {field: changed}
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(state)
    assert same(everything(optimizer), before)
    assert optimizer.clock == 2


@pytest.mark.parametrize(
    "other", [{"rank": 3}, {"inner": "adafactor"}, {"projector_dtype": "int4"}, {"residual": "fira"}]
)
def test_the_state_of_other_settings_is_refused(other: dict[str, Any]) -> None:
    optimizer = trained()
    with pytest.raises(ValueError, match=r"0\.weight\."):
        optimizer.load_state_tensors(everything(trained(**other)), clock=2)
    with pytest.raises(ValueError, match=r"0\.weight\."):
        optimizer.load_state_dict(trained(**other).state_dict())


@pytest.mark.parametrize("there", [0.0, 0.9])
@pytest.mark.parametrize("here", [0.0, 0.9])
@pytest.mark.parametrize("options", [{"inner": "adafactor"}, {"inner": "soap"}, {"residual": "alice"}], ids=str)
def test_a_state_is_what_the_numbers_saved_with_it_ask_for(options: dict[str, Any], there: float, here: float) -> None:
    saved, optimizer = (trained(betas=(beta, 0.99), **options) for beta in (there, here))
    optimizer.load_state_dict(saved.state_dict())
    assert same(everything(optimizer), everything(saved))
    assert all(slot.group["betas"] == (there, 0.99) for slot in optimizer.slots.values())
    damaged = copy.deepcopy(saved.state_dict())
    del damaged["state"][0]["exp_avg_sq" if "exp_avg_sq" in damaged["state"][0] else "row"]
    with pytest.raises(ValueError, match=r"0\.weight\.\w+ is missing"):
        optimizer.load_state_dict(damaged)
    assert all(slot.group in optimizer.param_groups for slot in optimizer.slots.values())


def test_the_state_of_another_optimizer_is_refused() -> None:
    weights = [nn.Parameter(torch.ones(20, 12)), nn.Parameter(torch.ones(12, 20))]
    adamw = torch.optim.AdamW(weights)
    with pytest.raises(ValueError, match="not of a GaLoreAdamW"):
        trained().load_state_dict(adamw.state_dict())


class Copied(TorchDispatchMode):
    """Counts the bytes of all copies."""

    nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.nbytes += found.nbytes if func.overloadpacket.__name__ in ("_to_copy", "clone") else 0
        return found


@pytest.mark.parametrize("through", ["tensors", "state_dict"])
def test_what_is_loaded_is_copied_once_and_in_its_own_dtype(through: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("galore.trainer.optim.parts.storage.SMALLEST_QUANTIZED", 16)
    saved, optimizer = trained(state_dtype="8bit"), trained(state_dtype="8bit")
    with Copied() as copied:
        if through == "tensors":
            optimizer.load_state_tensors(saved.state_tensors(), clock=2)
        else:
            optimizer.load_state_dict(saved.state_dict())
    assert copied.nbytes == sum(tensor.nbytes for tensor in saved.state_tensors().values())
    assert same(everything(optimizer), everything(saved))


def test_what_is_kept_is_gone_before_what_is_loaded_is_copied() -> None:
    saved, optimizer = trained(), trained()
    held = [weakref.ref(slot.state["exp_avg"]) for slot in optimizer.slots.values()]
    alive: list[int] = []

    class Counts(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.overloadpacket.__name__ == "_to_copy":
                alive.append(sum(each() is not None for each in held))
            return func(*args, **(kwargs or {}))

    with Counts():
        optimizer.load_state_dict(saved.state_dict())
    assert (alive[0], alive[-1]) == (1, 0)


def test_a_load_that_fails_leaves_no_state_and_says_so() -> None:
    """A half of either would go on silently."""
    saved, optimizer = trained(), trained()

    class OutOfMemory(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.overloadpacket.__name__ == "_to_copy" and optimizer.slots[second].state == {}:
                raise torch.OutOfMemoryError("no room")
            return func(*args, **(kwargs or {}))

    second = list(optimizer.slots)[1]
    with OutOfMemory(), pytest.raises(torch.OutOfMemoryError) as failed:
        optimizer.load_state_dict(saved.state_dict())
    assert failed.value.__notes__ == [
        "nothing is left of the optimizer's state, that of before included: load it again"
    ]
    assert not any(slot.state for slot in optimizer.slots.values())
    assert all(slot.weight.group in optimizer.param_groups for slot in optimizer.slots.values())
    optimizer.load_state_dict(saved.state_dict())
    assert same(everything(optimizer), everything(saved))


def test_a_saved_number_in_place_of_a_tensor_is_refused_by_name() -> None:
    saved = trained().state_dict()
    saved["state"][0]["step"] = 3
    with pytest.raises(ValueError, match=r"step: 3 is saved, and a tensor is kept here"):
        trained().load_state_dict(saved)


class Fails(TorchFunctionMode):
    """The n-th tensor that is made finds no memory."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= func in (torch.zeros, torch.full, torch.tensor)
        if self.left == 0:
            self.left = -1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"state_dtype": "8bit"},
        {"inner": "adafactor"},
        {"inner": "soap"},
        {"inner": "normuon", "residual": "joint-4bit", "state_dtype": "4bit"},
        {"inner": "muon", "residual": "sampled"},
        {"residual": "alice", "proj_type": "random", "transport": "reset"},
        {"weight_rounding": "compensated"},
    ],
    ids=str,
)
def test_a_first_step_that_finds_no_memory_leaves_a_state_that_is_whole(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("galore.trainer.optim.parts.storage.SMALLEST_QUANTIZED", 16)
    failed, number = 0, 0
    while failed == number:
        number += 1
        net = nn.Linear(12, 20, bias=False).bfloat16()
        optimizer, again = (GaLoreAdamW(galore_groups(net, 4, targets=[""]), **options) for _ in range(2))
        optimizer.attach()
        x = torch.randn(6, 12).bfloat16()
        net(x).square().sum().backward()
        try:
            with Fails(number):
                optimizer.step()
        except torch.OutOfMemoryError:
            failed += 1
        again.load_state_dict(optimizer.state_dict())
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()
        assert all(torch.isfinite(tensor).all() for tensor in everything(optimizer).values())
    assert failed > 2


def test_a_state_from_before_the_first_step_is_taken() -> None:
    optimizer = trained()
    optimizer.load_state_tensors({}, clock=0)
    assert (optimizer.state_tensors(), optimizer.clock) == ({}, 0)


def test_an_option_that_is_younger_than_a_state_dict_stays_as_it_is() -> None:
    saved, other = trained().state_dict(), trained(momentum=0.5, scale=2.0)
    for group in saved["param_groups"]:
        del group["momentum"], group["scale"]
    other.load_state_dict(saved)
    assert {(group["momentum"], group["scale"]) for group in other.param_groups} == {(0.5, 2.0)}
    assert all(slot.group in other.param_groups and slot._lr == 2e-2 for slot in other.slots.values())


def test_a_state_that_is_loaded_within_a_step_brings_its_own_rounding() -> None:
    """With `immediate` weights have moved when a step is given up for an earlier state."""
    found = []
    for given_up in (False, True):
        torch.manual_seed(0)
        net = nn.Linear(64, 64, bias=False).bfloat16()
        optimizer = GaLoreAdamW(galore_groups(net, 4, targets=[""]), update="immediate", lr=1e-3)
        first, second = torch.randn(2, 8, 64).bfloat16()
        net(first).square().sum().backward()
        optimizer.step()
        weights, state = net.weight.detach().clone(), everything(optimizer)
        for _ in range(2 if given_up else 0):
            net(second).square().sum().backward()
            optimizer.step()
        if given_up:
            net(second).square().sum().backward()
            optimizer.load_state_tensors(state, clock=1)
            with torch.no_grad():
                net.weight.copy_(weights)
            optimizer.zero_grad()
        net(second).square().sum().backward()
        optimizer.step()
        found.append(net.weight.detach().clone())
    assert torch.equal(*found)


@pytest.mark.parametrize("through", ["tensors", "state_dict"])
@pytest.mark.parametrize("accumulated", [False, True])
def test_a_load_forgets_what_was_accumulated_in_other_subspaces(through: str, accumulated: bool) -> None:
    found = []
    for before_the_load in (False, accumulated):
        optimizer, saved = trained(max_grad_norm=1.0), trained()
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        if before_the_load:
            sum(p.square().sum() for p in weights).backward()  # type: ignore[union-attr]
            optimizer.clip_grad_norm_(0.5)
        if through == "tensors":
            optimizer.load_state_tensors(everything(saved), clock=2)
        else:
            optimizer.load_state_dict(saved.state_dict())
        sum((p - 1).square().sum() for p in weights).backward()  # type: ignore[union-attr]
        optimizer.step()
        found.append([p.detach() for p in weights])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def two(*names: str, groups: int = 1, lr: float = 1e-2) -> GaLoreAdamW:
    """Of square weights, which no shape tells apart, after a step whose gradients do."""
    given = [(name, nn.Parameter(torch.ones(4, 4))) for name in names]
    size = -(-len(given) // groups)
    cut = [given[start : start + size] for start in range(0, len(given), size)]
    optimizer = GaLoreAdamW([{"params": own, "lr": lr * (1 + number)} for number, own in enumerate(cut)])
    for name, weight in given:
        weight.grad = torch.full((4, 4), float(ord(name[-1])))
    optimizer.step()
    return optimizer


def firsts(optimizer: GaLoreAdamW) -> dict[str, float]:
    """A number of each parameter's first moment, which says of whose gradients it is."""
    return {slot.name: round(float(slot.state["exp_avg"].mean()) * 10) for slot in optimizer.slots.values()}


@pytest.mark.parametrize(
    ("saved", "here"), [("abcd", "dcba"), ("abcd", "cdab"), ("abcd", "badc")], ids=["all", "groups", "within groups"]
)
@pytest.mark.parametrize("groups", [1, 2])
def test_parameters_are_those_of_the_same_names_in_whatever_order(saved: str, here: str, groups: int) -> None:
    other, optimizer = two(*saved, groups=groups), two(*here, groups=groups)
    for slot in optimizer.slots.values():
        slot.state["exp_avg"].zero_()
    rates = {name: group["lr"] for group in other.param_groups for name in group["param_names"]}
    optimizer.load_state_dict(other.state_dict())
    assert firsts(optimizer) == {name: ord(name) for name in here}
    assert [name for group in optimizer.param_groups for name in group["param_names"]] == list(here)
    assert {name: group["lr"] for group in optimizer.param_groups for name in group["param_names"]} == rates
    assert all(any(slot.group is group for group in optimizer.param_groups) for slot in optimizer.slots.values())


@pytest.mark.parametrize(
    ("saved", "here", "groups", "said"),
    [
        ("ab", "ac", 1, "the saved state has no parameter 'c' in the group of 'a'"),
        ("abc", "ab", 1, "the saved state has a parameter 'c' in the group of 'a'"),
        ("abcd", "acbd", 2, "the saved state has no parameter 'c' in the group of 'a'"),
    ],
)
def test_other_names_are_refused_by_the_first(saved: str, here: str, groups: int, said: str) -> None:
    optimizer = two(*here, groups=groups)
    before = everything(optimizer)
    with pytest.raises(ValueError, match=said):
        optimizer.load_state_dict(two(*saved, groups=groups).state_dict())
    assert same(everything(optimizer), before)


def test_a_group_that_nobody_has_here_is_refused() -> None:
    with pytest.raises(ValueError, match="the saved state has a parameter 'b', and the optimizer has none of that"):
        two("a").load_state_dict(two("a", "b", groups=2).state_dict())


@pytest.mark.parametrize("side", ["saved", "here"])
def test_the_nameless_go_by_their_places(side: str) -> None:
    named, nameless = two("b", "a"), GaLoreAdamW([nn.Parameter(torch.ones(4, 4)) for _ in range(2)])
    for weight, number in zip(nameless.slots, (98.0, 97.0), strict=True):
        weight.grad = torch.full((4, 4), number)
    nameless.step()
    saved, optimizer = (nameless, two("x", "y")) if side == "saved" else (named, nameless)
    optimizer.load_state_dict(saved.state_dict())
    assert list(firsts(optimizer).values()) == [98, 97]


def test_a_state_dict_of_older_versions_has_no_names() -> None:
    state, optimizer = two("b", "a").state_dict(), two("x", "y")
    del state["param_groups"][0]["param_names"]
    optimizer.load_state_dict(state)
    assert firsts(optimizer) == {"x": 98, "y": 97}


@pytest.mark.parametrize("wrapped", ["module.", "_orig_mod.", "_fsdp_wrapped_module."])
def test_wrappers_around_a_model_are_no_part_of_a_name(wrapped: str) -> None:
    optimizer = two("b", "a")
    optimizer.load_state_dict(two(f"{wrapped}a", f"{wrapped}b").state_dict())
    assert firsts(optimizer) == {"a": 97, "b": 98}
    assert [slot.name for slot in optimizer.slots.values()] == ["b", "a"]


def test_hooks_before_change_what_is_read_and_hooks_after_see_what_was() -> None:
    optimizer, seen = two("x", "y"), list[dict[str, float]]()

    def renamed(_: Any, state: dict[str, Any]) -> dict[str, Any]:
        groups = [{**group, "param_names": ["y", "x"]} for group in state["param_groups"]]
        return {**state, "param_groups": groups}

    optimizer.register_load_state_dict_pre_hook(renamed)
    optimizer.register_load_state_dict_post_hook(lambda each: seen.append(firsts(each)))  # type: ignore[arg-type]
    optimizer.load_state_dict(two("a", "b").state_dict())
    optimizer.load_state_dict(two("a", "b").state_dict())
    assert seen == [{"x": 98, "y": 97}] * 2
