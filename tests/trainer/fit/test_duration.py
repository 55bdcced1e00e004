"""Seconds of a recipe's steps: few blocks stand for all, and published runs come out right."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from galore.kernels.rules.soap import FREQUENCY
from galore.trainer.build import build_model
from galore.trainer.fit import duration as module
from galore.trainer.fit.duration import duration_on, few_blocks, pace, with_axes
from galore.trainer.fit.predict import predict
from galore.trainer.machine.cards import card
from galore.trainer.optim.parts.inner import SoapInner
from galore.trainer.optimizer import attach_optimizer
from galore.trainer.recipe.load import LoadedRecipe

Tiny = Callable[..., LoadedRecipe]


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("train.gradient_checkpointing=3",),
        ("train.gradient_checkpointing=true", "optim.stagger=true"),
        ("train.gradient_checkpointing=true", "train.stream_weights=true"),
        ("train.stream_weights=3",),
    ],
)
def test_all_blocks_from_few(tiny: Tiny, settings: tuple[str, ...]) -> None:
    loaded = tiny("model.num_hidden_layers=9", "optim.update_proj_gap=200", *settings)
    here = card("rtx4090")
    few, whole = few_blocks(loaded, here, 1000), duration_on(loaded, predict(loaded, here), here, 1000)
    assert few is not None
    assert whole is not None
    assert few.seconds == pytest.approx(whole.seconds, rel=3e-3)
    of_few, of_whole = (
        {name: part.claims()["bus"] for name, part in each.ordinary[1].parts.items()} for each in (few, whole)
    )
    assert of_few == pytest.approx(of_whole, rel=1e-3)


@pytest.mark.parametrize(
    "settings", [("optim.inner=soap",), ("optim.method=full", "optim.inner=soap"), ("optim.head_inner=soap",)]
)
def test_moves_of_soaps_axes_are_spread_over_the_steps(
    tiny: Tiny, settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, here = tiny(*settings), card("rtx4090")
    trace = predict(loaded, here)
    model, _ = build_model(loaded.recipe, 256, "meta", loaded.base_dir)
    slots = attach_optimizer(model, loaded.recipe, 1).slots.values()
    count = sum(isinstance(slot.inner, SoapInner) for slot in slots)
    moved = with_axes(loaded, trace)[len(trace.operations) :]
    of = {torch.ops.aten.mm.default: 0.0, torch.ops.aten.linalg_qr.default: 0.0}
    for each in moved:
        of[each.call.function] += each.counts["ordinary step", "update"]
    assert count
    assert list(of.values()) == pytest.approx([count / FREQUENCY] * 2)
    found = duration_on(loaded, trace, here, None)
    monkeypatch.setattr(module, "with_axes", lambda loaded, trace: trace.operations)
    without = duration_on(loaded, trace, here, None)
    assert found is not None
    assert without is not None
    assert found.seconds > without.seconds
    assert with_axes(tiny(), trace) == trace.operations


@pytest.mark.parametrize(("matmul", "of"), [("bf16", ""), ("int8", "bf16"), ("fp8", "bf16")])
def test_products_in_eight_bits_say_of_which_peak_their_share_is(tiny: Tiny, matmul: str, of: str) -> None:
    found = few_blocks(tiny(f"train.matmul={matmul}"), card("rtx4090"), 1000)
    assert found is not None
    assert found.peak_of == of
    assert found.of(2, 2).peak_of == of


def test_a_model_in_a_folder_takes_what_its_dimensions_do(tiny: Tiny, tmp_path: Path) -> None:
    loaded, here = tiny(), card("rtx4090")
    build_model(loaded.recipe, 256, "meta", tmp_path)[0].config.save_pretrained(tmp_path)
    named = tiny(f"model.name_or_path={tmp_path}", "model.random_init=true", "model.vocab_size=256")
    found, own = (few_blocks(each, here, 1000) for each in (named, tiny("model.vocab_size=256")))
    assert found is not None
    assert own is not None
    assert found.seconds == pytest.approx(own.seconds, rel=3e-3)


def test_more_micro_batches_take_longer_and_more_often_refreshed_too(tiny: Tiny) -> None:
    here = card("rtx4090")

    def seconds(*settings: str) -> float:
        loaded = tiny(*settings)
        found = duration_on(loaded, predict(loaded, here), here, None)
        assert found is not None
        return found.seconds[0]

    assert seconds("train.global_batch_size=16") > 1.5 * seconds("train.global_batch_size=8")
    assert seconds("optim.update_proj_gap=2") > 1.05 * seconds("optim.update_proj_gap=200")


def test_a_card_without_figures(tiny: Tiny) -> None:
    loaded, here = tiny(), card("12GB")
    assert duration_on(loaded, predict(loaded, here), here, None) is None
    assert few_blocks(tiny("model.num_hidden_layers=5"), here, None) is None


def test_pace_times_operations_and_steps(tiny: Tiny) -> None:
    found = pace(tiny("train.global_batch_size=4"), torch.device("cpu"))
    assert found.predicted > 0
    assert 0.05 < found.predicted / found.measured < 5  # a busy machine
    assert found.as_json()["micro_batches"] == found.micro_batches


def test_published_runs_come_out_right() -> None:
    """Those that no share was chosen by: eight and more within 15 %, half of them within 7."""
    rows = runpy.run_path(str(Path(__file__).parents[3] / "bench" / "durations.py"))["rows"]()
    errors = sorted(abs(row["error"]) for row in rows if not row["chosen by"])
    assert len(errors) >= 12
    assert sum(error <= 0.15 for error in errors) >= 12
    assert errors[len(errors) // 2] < 0.07
    assert errors[-1] < 0.2
