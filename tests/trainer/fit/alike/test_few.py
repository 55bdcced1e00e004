"""A prediction from few blocks is that from all of them: every event, every storage, every count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from galore.kernels.device import meta_stands_for
from galore.trainer.fit import predict as module
from galore.trainer.fit.alike import few
from galore.trainer.fit.alike.grown import Blocks, UnlikeError
from galore.trainer.fit.predict import predict
from galore.trainer.fit.rehearsal import Rehearsal
from galore.trainer.machine.cards import card
from galore.trainer.memory.trace.simulate import SimulatedTracer
from galore.trainer.memory.trace.trace import Trace
from galore.trainer.recipe.load import LoadedRecipe, load_recipe
from galore.trainer.time.work import work_of

Tiny = Callable[..., LoadedRecipe]
DEEP = ("model.num_hidden_layers=11", "optim.update_proj_gap=200", "train.global_batch_size=4", "model.dtype=bfloat16")
CHECKPOINTS = "train.gradient_checkpointing=true"
KINDS: dict[str, tuple[str, ...]] = {
    "galore": ("optim.state_dtype=8bit", "optim.max_grad_norm=1", CHECKPOINTS),
    "some recomputed": ("optim.proj_type=svd", "train.gradient_checkpointing=9"),
    "lora": ("optim.method=lora",),
    "int8 weights": ("optim.weight_dtype=int8", CHECKPOINTS),
    "streamed": ("train.stream_weights=true", CHECKPOINTS),
    "tiled": ("train.tile_tokens=8", CHECKPOINTS),
    "offloaded": (CHECKPOINTS, "train.offload_activations=true"),
    "frugal": ("optim.residual=frugal",),
    "immediate": (
        *("optim.update=immediate", "optim.refresh=first-micro-batch", "optim.max_grad_norm=null"),
        "train.global_batch_size=2",
    ),
}


SLOW = ("tiled", "streamed")


@pytest.fixture(scope="module", autouse=True)
def tables(tiny_once: LoadedRecipe) -> None:
    """What is made once in a process, in the first prediction with moments in 8 bits: the maps of their format."""
    predict(tiny_once, card("rtx4090"), brief=True)


@pytest.fixture(scope="module")
def tiny_once() -> LoadedRecipe:
    return load_recipe(
        "demo", ["model.hidden_size=64", "model.num_hidden_layers=1", "optim.state_dtype=8bit", "train.device=cpu"]
    )


def whole(loaded: LoadedRecipe, monkeypatch: pytest.MonkeyPatch, on: Any) -> Trace:
    """The prediction with every block traced."""
    with monkeypatch.context() as patch:
        patch.setattr(Rehearsal, "run_few", refused)
        return predict(loaded, on)


def refused(*_: object) -> Trace:
    raise UnlikeError("planted")


def work(trace: Trace) -> list[Any]:
    """What the time model knows of each operation, in order."""
    return [(str(each.call.function), work_of(each), each.counts) for each in trace.operations]


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind in SLOW else kind for kind in KINDS]
)
def test_few_blocks_say_what_all_of_them_do(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    loaded, on = tiny(*DEEP, *KINDS[kind]), card("rtx4090")
    found, expected = predict(loaded, on), whole(loaded, monkeypatch, on)
    assert found.events == expected.events
    assert found.allocations == expected.allocations
    assert found.marks == expected.marks
    assert found.refreshes == expected.refreshes
    assert work(found) == work(expected)


def traced(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, *settings: str) -> int:
    """Operations that are carried out for a prediction."""
    count, carry_out = 0, SimulatedTracer.run

    def counted(self: SimulatedTracer, *call: Any) -> Any:
        nonlocal count
        count += 1
        return carry_out(self, *call)

    with monkeypatch.context() as patch:
        patch.setattr(SimulatedTracer, "run", counted)
        predict(tiny(*DEEP, *settings), card("rtx4090"), brief=True)
    return count


@pytest.mark.parametrize("kind", ["galore", "lora"])
def test_a_deeper_model_takes_no_more_operations_to_trace(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    shallow, deep = (
        traced(tiny, monkeypatch, *KINDS[kind], f"model.num_hidden_layers={blocks}", "optim.update_proj_gap=400")
        for blocks in (11, 30)
    )
    assert shallow == deep < 20_000


def test_what_few_blocks_cannot_do_all_of_them_are_asked(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, on = tiny(*DEEP), card("rtx4090")
    expected = whole(loaded, monkeypatch, on)

    def broken(*_: object) -> Trace:
        raise RuntimeError("split_sizes")

    monkeypatch.setattr(Rehearsal, "run_few", broken)
    assert predict(loaded, on).events == expected.events


def test_where_blocks_turn_out_not_to_be_alike_all_are_traced(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, on = tiny(*DEEP), card("rtx4090")
    expected = whole(loaded, monkeypatch, on)
    monkeypatch.setattr(few, "_kind", lambda *_: ())
    watched = few._watch_block

    def odd(block: nn.Module, at_work: Any) -> Any:
        """The third block keeps a tensor of its own."""
        if block.self_attn.layer_idx == 2:
            block.register_forward_hook(lambda module, args, output: setattr(module, "extra", output.clone()))
        return watched(block, at_work)

    monkeypatch.setattr(few, "_watch_block", odd)
    assert module.predict(loaded, on).events == expected.events


# -- which blocks


def chosen(loaded: LoadedRecipe, change: Callable[[list[nn.Module]], None] = lambda blocks: None) -> Blocks | None:
    with meta_stands_for("cpu"):
        found = Rehearsal.prepare(loaded, "meta", SimulatedTracer(), 1)
        stack = few.stack_of(found.model)
        assert stack is not None
        change(list(stack))
        return few.choose(found.model, found.optimizer, list(found._steps(False).values()))


def test_blocks_that_the_configuration_tells_apart_are_all_traced(tiny: Tiny) -> None:
    def said(types: list[str]) -> Callable[[list[nn.Module]], None]:
        return lambda blocks: setattr(blocks[0].self_attn.config, "layer_types", types)

    assert chosen(tiny(*DEEP), said(["full"] * 11)) is not None
    assert chosen(tiny(*DEEP), said(["full"] * 9 + ["sliding"] * 2)) is None


def test_the_ends_stay_and_a_pattern_with_the_next(tiny: Tiny) -> None:
    found = chosen(tiny(*DEEP))
    assert found is not None
    assert found.kept == [0, 1, 2, 3, 9, 10]
    assert found.pattern == 2
    assert found.paths[3] == "model.layers.3"


def test_a_block_of_another_kind_stays_with_those_beside_it(tiny: Tiny) -> None:
    def change(blocks: list[nn.Module]) -> None:
        blocks[6].self_attn.sliding_window = 8  # type: ignore[assignment, union-attr]

    found = chosen(tiny(*DEEP, "model.num_hidden_layers=13"), change)
    assert found is not None
    assert found.kept == [0, 1, 2, 3, 5, 6, 7, 11, 12]


def test_few_blocks_and_blocks_of_many_kinds_are_all_traced(tiny: Tiny) -> None:
    def change(blocks: list[nn.Module]) -> None:
        for number, block in enumerate(blocks):
            block.self_attn.sliding_window = number  # type: ignore[assignment, union-attr]

    assert chosen(tiny(*DEEP, "model.num_hidden_layers=9")) is None
    assert chosen(tiny(*DEEP), change) is None
    assert chosen(tiny(*DEEP, "optim.stagger=true", "optim.update_proj_gap=2")) is None
