"""Every storage of a running step from birth to death, with what it is and which module it belongs to."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from galore.trainer.memory.trace.trace import Allocation
from galore.trainer.memory.trace.tracer import Tracer


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """As in a rehearsal: storages die when their last reference does."""
    gc.disable()
    yield
    gc.enable()


class Block(nn.Module):
    """x + up(tanh(down(x))), with one tensor that is given up at once."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(4, 6, bias=False), nn.Linear(6, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        scale = float((x.detach() * 0).sum()) + 1
        return x + self.up(torch.tanh(self.down(x))) * scale


class Model(nn.Module):
    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block(), Block()])
        self.checkpointed = checkpointed

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False) if self.checkpointed else layer(x)
        return x


def traced(work: Callable[[Tracer], Any], model: nn.Module | None = None, **settings: Any) -> Tracer:
    """What `work` did under a tracer of the CPU, which knows `model`."""
    tracer = Tracer("cpu", **settings)
    if model is not None:
        tracer.label("weights", model.parameters())
        tracer.follow(model)
    with tracer:
        tracer.begin("step")
        work(tracer)
    tracer.close()
    return tracer


def step(model: nn.Module, micro_batches: int = 1) -> Callable[[Tracer], None]:
    def work(tracer: Tracer) -> None:
        x = torch.randn(2, 4)
        for _ in range(micro_batches):
            loss = model(x).square().sum()
            loss.backward()
            del loss
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
                parameter.grad = None

    return work


def stretch(tracer: Tracer, mark: str) -> list[Allocation]:
    """What was born in the first stage of that name."""
    trace = tracer.trace
    number = [what for _, what in trace.marks].index(mark)
    ends = [at for at, _ in trace.marks] + [len(trace.events)]
    return [each for each in trace.allocations if ends[number] <= each.born < ends[number + 1]]


# -- births and deaths


def test_a_storage_is_born_with_an_operation_and_dies_with_its_last_reference() -> None:
    def work(tracer: Tracer) -> None:
        a = torch.ones(10)
        b = a + 1
        del a
        assert tracer.trace.events == [1, 2, -1]  # not later, with the next operation
        del b

    trace = traced(work).trace
    assert trace.events == [1, 2, -1, -2]
    assert [(each.op, each.nbytes, each.shape, each.dtype) for each in trace.allocations] == [
        ("ones", 40, (10,), "float32"),
        ("add", 40, (10,), "float32"),
    ]


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.view(5, 2),
        lambda x: x[3:],
        lambda x: x.mT,
        lambda x: x.detach(),
        lambda x: x.expand(3, 2, 5),
        lambda x: x.split(1)[1],
        lambda x: x.add_(1),
        lambda x: x.contiguous(),
        lambda x: x.float(),
        lambda x: torch.mul(x, 2, out=x),
    ],
)
def test_a_view_is_no_birth_and_keeps_the_storage(view: Callable[[Tensor], Tensor]) -> None:
    def work(tracer: Tracer) -> None:
        base = torch.ones(2, 5)
        part = view(base)
        del base
        assert tracer.trace.events == [1]
        del part

    assert traced(work).trace.events == [1, -1]


@pytest.mark.parametrize("copy", [lambda x: x.clone(), lambda x: x.mT.contiguous(), lambda x: x.double()])
def test_a_copy_is_a_birth(copy: Callable[[Tensor], Tensor]) -> None:
    def work(tracer: Tracer) -> None:
        base = torch.ones(2, 5)
        kept = copy(base)
        assert tracer.trace.events == [1, 2]
        del kept

    assert traced(work).trace.events == [1, 2, -2, -1]


def test_all_results_of_an_operation_are_seen() -> None:
    trace = traced(lambda _: torch.ones(3, 4).sort()).trace
    assert [(each.op, each.nbytes) for each in trace.allocations] == [("ones", 48), ("sort", 48), ("sort", 96)]


def test_other_devices_and_empty_tensors_do_not_count() -> None:
    assert traced(lambda _: (torch.ones(3, device="meta") + 1, torch.ones(0) + 1)).trace.events == []


def test_the_tracer_keeps_no_tensor_alive() -> None:
    def work(tracer: Tracer) -> None:
        tensor = torch.ones(3) * 2
        tracer.label("weights", [tensor])
        kept = [weakref.ref(tensor), weakref.ref(tensor.untyped_storage())]
        del tensor
        assert [ref() for ref in kept] == [None, None]

    assert traced(work).trace.events == [1, 2, -1, -2]


def test_the_tracer_keeps_no_model_alive() -> None:
    model = Model()
    tracer, kept = traced(step(model), model), weakref.ref(model)
    assert {each.category for each in tracer.trace.allocations if each.died is None} == {"weights"}
    del model
    gc.collect()
    assert kept() is None


def test_memory_that_outlives_the_tracer_lives_on_in_the_trace() -> None:
    kept: list[Tensor] = []
    tracer = traced(lambda _: kept.append(torch.ones(3)))
    kept.clear()
    assert tracer.trace.events == [1]
    assert tracer.trace.allocations[0].died is None


# -- labels


def test_labels_say_what_a_storage_is_whenever_it_was_born() -> None:
    old = torch.ones(3)

    def work(tracer: Tracer) -> None:
        new = old + 1
        tracer.label("weights", [old, old[1:], new])  # two storages
        tracer.label("gradients", [new])

    trace = traced(work).trace
    assert [(each.nbytes, each.category) for each in trace.allocations] == [(12, "gradients"), (12, "weights")]
    assert [each.born for each in trace.allocations] == [0, 1]


def test_no_label_for_what_is_elsewhere() -> None:
    assert traced(lambda tracer: tracer.label("weights", [torch.ones(3, device="meta")])).trace.allocations == []


# -- stages, modules and categories


def test_stages_of_a_step() -> None:
    model = Model()
    assert [what for _, what in traced(step(model), model).trace.marks] == [
        "step: forward", "step: backward", "step: update"
    ]  # fmt: skip


def test_a_micro_batch_goes_forward_again() -> None:
    model = Model()
    marks = [what for _, what in traced(step(model, 2), model).trace.marks]
    passes = [what for what in marks if "update" not in what]
    assert passes == ["step: forward", "step: backward"] * 2
    assert marks[-1] == "step: update"


@pytest.mark.parametrize("checkpointed", [False, True])
def test_the_forward_belongs_to_the_innermost_module(checkpointed: bool) -> None:
    model = Model(checkpointed)
    forward = stretch(traced(step(model), model), "step: forward")
    made = [(each.op, each.module) for each in forward if each.op in ("mm", "tanh", "add")]
    block = [("mm", "down"), ("tanh", ""), ("mm", "up"), ("add", "")]
    assert made == [(op, f"layers.{i}.{leaf}".strip(".")) for i in (0, 1) for op, leaf in block]


@pytest.mark.parametrize("checkpointed", [False, True])
def test_the_backward_belongs_to_the_module_whose_forward_it_is(checkpointed: bool) -> None:
    model = Model(checkpointed)
    backward = stretch(traced(step(model), model), "step: backward")
    products = [(each.shape, each.module) for each in backward if each.op == "mm" and each.category != "recompute"]
    of_block = [((4, 6), "up"), ((2, 6), "up"), ((6, 4), "down"), ((2, 4), "down")]
    expected = [(shape, f"layers.{i}.{leaf}") for i in (1, 0) for shape, leaf in of_block]
    assert products == expected[:-1]  # the input wants no gradient


def test_what_a_hook_makes_of_a_gradient_belongs_to_the_parameters_module() -> None:
    def hook(parameter: Tensor) -> None:
        assert parameter.grad is not None
        torch.tanh(parameter.grad)

    model = Model()
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(hook)

    def work(tracer: Tracer) -> None:
        model(torch.ones(2, 4)).sum().backward()

    backward = stretch(traced(work, model), "step: backward")
    assert [each.module for each in backward if each.op == "tanh"] == [
        "layers.1.up",
        "layers.1.down",
        "layers.0.up",
        "layers.0.down",
    ]


def test_the_first_operation_of_a_module_is_its_own() -> None:
    model = nn.Sequential(nn.Tanh(), nn.Sigmoid())

    def work(tracer: Tracer) -> None:
        model(torch.ones(3, requires_grad=True)).sum().backward()

    made = {each.op: each.module for each in traced(work, model).trace.allocations}
    assert (made["tanh_backward"], made["sigmoid_backward"]) == ("0", "1")


def test_a_checkpointed_block_is_computed_again_as_itself() -> None:
    model = Model(checkpointed=True)
    again = [each for each in stretch(traced(step(model), model), "step: backward") if each.category == "recompute"]
    assert [(each.op, each.module) for each in again if each.op in ("mm", "tanh")] == [
        (op, f"layers.{i}.{leaf}".strip("."))
        for i in (1, 0)
        for op, leaf in (("mm", "down"), ("tanh", ""))  # the rest of a block saves nothing
    ]


def test_activations_are_what_the_forward_keeps() -> None:
    model = Model()
    tracer = traced(step(model), model)
    forward = {each.op: each.category for each in stretch(tracer, "step: forward") if each.module}
    assert forward["tanh"] == "activations"  # its backward needs it
    assert forward["mul"] == "temporaries"  # given up before the forward ended
    backward_begins = next(at for at, what in tracer.trace.marks if what == "step: backward")
    for each in stretch(tracer, "step: forward"):
        if each.category in ("activations", "temporaries"):
            kept = each.died is not None and each.died >= backward_begins
            assert each.category == ("activations" if kept else "temporaries"), each


def test_outside_of_all_modules_is_the_loss() -> None:
    model = Model()
    tracer = traced(step(model), model)
    loss = [each for each in stretch(tracer, "step: forward") if not each.module]
    assert [each.op for each in loss] == ["randn", "pow", "sum", "ones_like"]  # the last is the loss's own gradient
    assert {each.category for each in loss} == {"logits_and_loss"}
    assert {each.module for each in stretch(tracer, "step: update")} == {""}
    assert {each.category for each in stretch(tracer, "step: update")} == {"temporaries"}


def test_a_module_that_fails_is_left() -> None:
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError

    model = nn.Sequential(nn.Identity(), Failing())

    def work(tracer: Tracer) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - it is ours
            model(torch.ones(1))
        torch.ones(2)

    assert traced(work, model).trace.allocations[-1].module == ""


def test_after_close_the_model_runs_as_before() -> None:
    model = Model()
    tracer = traced(step(model), model)
    before = list(tracer.trace.marks)
    model(torch.ones(2, 4)).sum().backward()
    assert tracer.trace.marks == before
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


# -- scratch memory


def test_scratch_of_an_operation_exists_together_and_ends_with_it() -> None:
    def hidden(func: Any, args: Any, kwargs: Any, out: Any) -> list[tuple[int, int]]:
        return [(100, 100), (7, 9)] if func is torch.ops.aten.add.Tensor else []

    def work(_: Tracer) -> None:
        result = torch.ones(2) + 1
        del result

    trace = traced(work, hidden=hidden).trace
    assert [(each.op, each.category, each.nbytes, each.high) for each in trace.allocations] == [
        ("ones", "logits_and_loss", 8, 8),
        ("add", "logits_and_loss", 8, 8),
        ("add", "workspaces", 100, 100),
        ("add", "workspaces", 7, 9),
    ]
    assert trace.events[:6] == [1, 2, 3, 4, -4, -3]  # with its operands and its result


def test_a_library_stays_once_per_thread() -> None:
    model = Model()
    trace = traced(step(model, 2), model, library=5000).trace
    kept = [each for each in trace.allocations if each.category == "workspaces"]
    assert [(each.nbytes, each.died, trace.mark_at(each.born)) for each in kept] == [
        (5000, None, "step: forward"),
        (5000, None, "step: backward"),
    ]
