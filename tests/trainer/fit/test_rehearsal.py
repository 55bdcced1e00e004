"""Which steps are rehearsed, and what a rehearsal leaves behind."""

from __future__ import annotations

import gc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from galore.kernels.device import meta_stands_for
from galore.trainer.fit.rehearsal import Rehearsal, clocks, refreshed_share
from galore.trainer.memory.trace.simulate import SimulatedTracer, device_operations
from galore.trainer.optim.parts.subspace.schedule import RefreshSchedule, schedules
from galore.trainer.recipe.load import LoadedRecipe

Tiny = Callable[..., LoadedRecipe]


def optimizer(*layers: tuple[int, RefreshSchedule]) -> Any:
    """With a projected parameter of as many elements, and as due, as each of `layers`."""
    return SimpleNamespace(
        projected=[
            SimpleNamespace(parameter=torch.empty(size, device="meta"), schedule=schedule) for size, schedule in layers
        ]
    )


def due(found: Any, clock: int) -> list[int]:
    return [slot.parameter.numel() for slot in found.projected if slot.schedule.due(clock)]


def test_together_all_layers_refresh_in_one_step() -> None:
    found = optimizer(*[(10, schedule) for schedule in schedules([4] * 3, stagger=False)])
    steps = dict(clocks(found))
    assert list(steps) == ["first step", "ordinary step", "refresh step"]
    assert [due(found, clock) for clock in steps.values()] == [[10] * 3, [], [10] * 3]
    assert steps["first step"] == 0
    assert steps["refresh step"] > 0


def test_staggered_the_refresh_is_that_of_the_largest() -> None:
    sizes = [10, 30, 20, 5, 10]
    found = optimizer(*zip(sizes, schedules([8] * 5, stagger=True), strict=True))
    steps = dict(clocks(found))
    assert due(found, steps["ordinary step"]) == []
    assert due(found, steps["refresh step"]) == [30]


def test_where_layers_share_a_turn_their_sum_counts() -> None:
    sizes = [10, 30, 20, 15]  # two to a turn
    found = optimizer(*zip(sizes, schedules([2] * 4, stagger=True), strict=True))
    steps = dict(clocks(found))
    assert due(found, steps["ordinary step"]) == [20, 15]
    assert due(found, steps["refresh step"]) == [10, 30]


@pytest.mark.parametrize(("matrices", "gap"), [(3, 8), (5, 2), (4, 2), (4, 1), (7, 3)])
@pytest.mark.parametrize("stagger", [True, False])
def test_a_mean_step_refreshes_as_much_as_the_schedule_says(matrices: int, gap: int, stagger: bool) -> None:
    sizes = [10 * (number + 1) for number in range(matrices)]
    found = optimizer(*zip(sizes, schedules([gap] * matrices, stagger=stagger), strict=True))
    steps = dict(clocks(found))
    least, most = (sum(due(found, steps[phase])) for phase in ("ordinary step", "refresh step"))
    mean = least + refreshed_share(found, steps) * (most - least)
    assert mean == pytest.approx(sum(sizes) / gap)


def test_without_projection_there_is_no_refresh() -> None:
    assert refreshed_share(optimizer(), dict(clocks(optimizer()))) == 0
    assert dict(clocks(optimizer())) == {"first step": 0, "ordinary step": 1}


# -- carried out


def rehearsal(loaded: LoadedRecipe, micro_batches: int = 2) -> Rehearsal:
    return Rehearsal.prepare(loaded, "meta", SimulatedTracer(), micro_batches)


def run(loaded: LoadedRecipe, brief: bool = False, micro_batches: int = 2) -> list[str]:
    """The marks of a run on `meta`."""
    with meta_stands_for("cpu"):
        found = rehearsal(loaded, micro_batches)
        found.run(brief)
    assert found.model.training
    assert not found.model._forward_hooks
    return [what for _, what in found.tracer.trace.marks]


STAGES = ("forward", "backward", "update")


@pytest.mark.parametrize(
    ("method", "brief", "steps"),
    [
        ("galore", False, ["first step", "ordinary step", "refresh step"]),
        ("galore", True, ["first step", "refresh step"]),
        ("full", False, ["first step", "ordinary step"]),
        ("full", True, ["first step", "ordinary step"]),
    ],
)
def test_steps_in_order_then_an_evaluation(tiny: Tiny, method: str, brief: bool, steps: list[str]) -> None:
    marks = run(tiny(f"optim.method={method}", "optim.proj_type=svd", "optim.stagger=false"), brief)
    expected = [f"{step}: {stage}" for step in steps for stage in STAGES]
    assert marks == ["model", *expected, "evaluation: forward"]


def test_no_more_micro_batches_than_asked_for(tiny: Tiny) -> None:
    loaded = tiny("optim.method=full", "train.global_batch_size=16", "train.micro_batch_size=2")
    assert run(loaded, micro_batches=3).count("first step: forward") == 3
    assert (
        run(tiny("optim.method=full", "train.global_batch_size=4"), micro_batches=3).count("first step: forward") == 2
    )


def test_the_refresh_refreshes_and_the_ordinary_step_does_not(tiny: Tiny) -> None:
    """A decomposition is in the first step and in the refresh, of all matrices and of one."""
    with meta_stands_for("cpu"):
        found = rehearsal(tiny("optim.proj_type=svd", "optim.update_proj_gap=20"))
        found.run()
    trace = found.tracer.trace
    decomposed = [trace.mark_at(each.born) for each in trace.allocations if each.op == "_linalg_svd"]
    per_matrix = 3  # U, S and Vᵀ
    assert {mark.partition(":")[0]: decomposed.count(mark) // per_matrix for mark in decomposed} == {
        "first step": 14,
        "refresh step": 1,
    }


def test_what_the_optimizer_holds_between_micro_batches_is_known(tiny: Tiny) -> None:
    """After the first backward: projected gradients (8, 64 or 176) of 7 matrices a layer, and those of all other weights."""
    with meta_stands_for("cpu"):
        found = rehearsal(tiny("train.global_batch_size=4", "optim.update_proj_gap=20"))
        found.run()
    trace = found.tracer.trace
    begins = [at for at, what in trace.marks if what == "ordinary step: forward"][1]
    held = trace.by_category(begins)
    assert held["accumulators"] == 2 * 8 * 2 * (4 * 64 + 3 * 176)
    assert held["gradients"] == 2 * (2 * 256 * 64 + 5 * 64)
    assert held["projectors"] == 2 * 8 * 2 * (7 * 64)
    assert held["optimizer_states"] == 2 * 4 * (8 * 2 * (4 * 64 + 3 * 176) + 2 * 256 * 64 + 5 * 64)


def test_an_evaluation_has_its_own_micro_batch_and_keeps_nothing(tiny: Tiny) -> None:
    def evaluated(*overrides: str) -> int:
        with meta_stands_for("cpu"):
            found = rehearsal(tiny("optim.method=full", *overrides))
            found.run()
        trace = found.tracer.trace
        begins = trace.marks[-1][0]
        assert not [each for each in trace.allocations if each.born >= begins and each.died is None]
        return max(trace.requested()[begins:]) - trace.requested()[begins - 1]

    assert evaluated("eval.micro_batch_size=64") > 10 * evaluated("eval.micro_batch_size=2") > 0
    assert evaluated("eval.micro_batch_size=2") == evaluated()


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_the_collector_rests_meanwhile(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, enabled: bool, fails: bool) -> None:
    seen = []

    def step(self: Rehearsal, clock: int) -> None:
        seen.append(gc.isenabled())
        if fails:
            raise ValueError("planted")

    monkeypatch.setattr(Rehearsal, "_step", step)
    (gc.enable if enabled else gc.disable)()
    try:
        with meta_stands_for("cpu"):
            found = rehearsal(tiny("optim.method=full"))
            if fails:
                with pytest.raises(ValueError, match="planted"):
                    found.run()
            else:
                found.run()
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
    assert set(seen) == {False}


# -- documents that do not see each other


def operations(loaded: LoadedRecipe, kind: str, capability: tuple[int, int]) -> set[str]:
    """Names of the operations of a run on `meta` tensors that stand for `kind`."""
    seen = set[str]()

    def hidden(func: Any, *_: object) -> list[tuple[int, int]]:
        seen.add(func._schema.name)
        return []

    with meta_stands_for(kind), device_operations(kind, capability):
        Rehearsal.prepare(loaded, "meta", SimulatedTracer(hidden), 1).run(brief=True)
    return seen


def test_isolated_documents_are_traced_through_the_attention_they_take(tiny: Tiny) -> None:
    varlen = {"torch_attn::_varlen_attn", "torch_attn::_varlen_attn_backward"}
    flash = "aten::_scaled_dot_product_flash_attention"
    isolated = ("data.isolate_documents=true", "data.max_length=128", "train.gradient_checkpointing=true")
    found = operations(tiny(*isolated, "model.dtype=bfloat16"), "cuda", (8, 9))
    assert varlen <= found
    assert flash not in found
    for dtype, card in (("float32", (8, 9)), ("bfloat16", (7, 5))):
        assert not varlen & operations(tiny(*isolated, f"model.dtype={dtype}"), "cuda", card)
    assert flash in operations(tiny("data.max_length=128", "model.dtype=bfloat16"), "cuda", (8, 9))
    assert f"{flash}_for_cpu" in operations(tiny(*isolated, "model.dtype=float32"), "cpu", (0, 0))


def test_positions_that_skip_need_no_mask(tiny: Tiny) -> None:
    skips = ("train.position_skips={target_length: 256}", "data.max_length=128", "model.dtype=bfloat16")
    found = operations(tiny(*skips, "model.max_position_embeddings=256"), "cuda", (8, 9))
    assert "aten::_scaled_dot_product_flash_attention" in found
