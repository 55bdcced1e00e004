"""docs/examples: each trains in a shorter form, with fewer bytes of states than AdamW, kernels projected, and learns."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from snippets import ROOT

from galore.trainer.optim import large_matrices
from galore.trainer.optim.projected import ProjectedSlot

FOLDER = ROOT / "docs/examples"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a script as one that is carried out where it lies; what it imports of its folder is forgotten again."""
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(FOLDER))
    threads = torch.get_num_threads()
    yield importlib.import_module
    torch.set_num_threads(threads)
    for name in SCRIPTS:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", SCRIPTS)
def test_is_short_and_has_its_place_on_the_page(name: str) -> None:
    assert len((FOLDER / f"{name}.py").read_text().splitlines()) < 150
    assert f"{name}.py" in (ROOT / "docs/examples.md").read_text()


@pytest.mark.parametrize(
    ("name", "function", "steps", "kernels"),
    [("unet", "teacher", 6, 11), ("detector", "detector", 6, 8), ("triplanes", "regressor", 6, 2)],
)
def test_trains_with_fewer_bytes_than_adamw_and_projects_its_kernels(
    example: Any, name: str, function: str, steps: int, kernels: int
) -> None:
    module, beside = example(name), example("beside")
    train = getattr(module, function)
    plain, optimizer, before = train(1, 0, beside.adamw)
    held = beside.state_bytes(plain, optimizer)
    model, optimizer, after = train(steps, 0, beside.galore)
    assert beside.state_bytes(model, optimizer) < 0.4 * held
    projected = [slot for slot in optimizer.projected if slot.parameter.ndim == 4]
    assert len(projected) == kernels
    depthwise = [each for each in model.modules() if getattr(each, "groups", 1) > 1]
    assert all(not isinstance(optimizer.slots[each.weight], ProjectedSlot) for each in depthwise)
    assert (name == "detector") == bool(depthwise)
    loss = next(iter(after))
    assert math.isfinite(after[loss])
    assert after[loss] < before[loss]
    optimizer.release()


def test_of_a_teacher_that_always_sees_one_picture_one_step_is_as_good_as_two(example: Any) -> None:
    unet = example("unet")
    picture = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)

    def teacher(x: torch.Tensor, time: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        a, b = unet.signal(time)
        return (a * x - picture) / b

    x, time = torch.randn(4, 1, 8, 8), torch.tensor([0.25, 0.5, 0.75, 1.0])
    v = unet.one_for_two(teacher, x, torch.zeros(4), time, time - 0.25)
    torch.testing.assert_close(v, teacher(x, time, torch.zeros(4)), rtol=1e-4, atol=1e-4)


def test_students_are_halved_until_four_steps_are_left(example: Any) -> None:
    unet = example("unet")
    model = unet.UNet()
    student = unet.distilled(model, 1, example("beside").adamw)
    assert student is not model
    assert 0 <= unet.right(student, unet.FEWEST) <= 1


def test_of_diffusers_unet_kernels_and_attention_are_projected(example: Any) -> None:
    pytest.importorskip("diffusers", reason="the UNet of diffusers; its twin is the one of unet.py")
    network = example("unet_diffusers").Diffusers
    model, optimizer, _ = example("unet").teacher(2, 0, example("beside").galore, network)
    names = [slot.name for slot in optimizer.projected]
    assert any("attentions" in name and "to_q" in name for name in names)
    assert any("conv" in name for name in names)
    assert not any("class_embedding" in name for name in names)
    assert all(large_matrices()(name, each) for name, each in model.named_modules() if f"{name}.weight" in names)


@pytest.mark.slow
def test_generated_weights_take_the_place_of_trained_ones(example: Any, tmp_path: Path) -> None:
    found = example("weights").main(8, tmp_path)
    assert found["generated"] == pytest.approx(found["trained"], abs=0.02)
    assert found["unlike"] > 0
