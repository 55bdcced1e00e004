"""GaLore inside transformers' Trainer takes the steps of one's own loop, clips, logs its norms, and goes on exactly."""

from __future__ import annotations

import gc
import inspect
import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Trainer,
    TrainingArguments,
)

from galore.integrations.hf import GaLoreTrainerMixin
from galore.trainer.optim import GaLoreAdamW, galore_groups

pytest.importorskip("accelerate", reason="Trainer needs accelerate")
TEXT = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
GALORE = {"rank": 4, "update_proj_gap": 3, "scale": 1.0}


class GaLoreTrainer(GaLoreTrainerMixin, Trainer):  # type: ignore[misc]
    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**TEXT))


def rows(count: int = 32) -> list[dict[str, Tensor]]:
    ids = torch.randint(40, (count, 8), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": row, "labels": row} for row in ids]


def arguments(folder: str = "out", **options: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "max_steps": 4, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-2,
        "lr_scheduler_type": "constant", "logging_steps": 1, "report_to": "none", "use_cpu": True, "disable_tqdm": True,
        "weight_decay": 0.1, "save_strategy": "no", "max_grad_norm": 0.5, **options,
    }  # fmt: skip
    return TrainingArguments(folder, **settings)


def trained(model: nn.Module | None = None, *, galore: dict[str, Any] = GALORE, resume: bool = False, **options: Any):
    trainer = GaLoreTrainer(model or llama(), arguments(**options), train_dataset=rows(), galore=galore)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def norms(trainer: Any) -> list[float]:
    return [row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row]


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def own_loop(max_grad_norm: float | None, steps: int = 4) -> tuple[LlamaForCausalLM, list[float]]:
    model, told = llama(), []
    groups = galore_groups(model, 4, update_proj_gap=3, scale=1.0, weight_decay=0.1)
    optimizer = GaLoreAdamW(groups, lr=1e-2, max_grad_norm=max_grad_norm, seed=42)
    batches = iter(torch.stack([row["input_ids"] for row in rows()]).split(2))
    for _ in range(steps):
        for _ in range(2):
            ids = next(batches)
            (model(input_ids=ids, labels=ids).loss / 2).backward()
        optimizer.step()
        assert optimizer.report is not None
        told.append(optimizer.report.grad_norm)
    return model, told


@pytest.mark.parametrize("limit", [0.5, 0.0, math.inf], ids=["clipped", "unclipped", "clipped to inf"])
def test_it_takes_the_steps_of_an_own_loop_and_logs_its_norms(limit: float) -> None:
    model, told = own_loop(limit if 0 < limit < math.inf else None)
    trainer = trained(max_grad_norm=limit)
    assert limit > 1 or min(told) > 0.5, "the limit clips nothing"
    torch.testing.assert_close(weights(trainer.model), weights(model), rtol=1e-5, atol=1e-7)
    assert norms(trainer) == pytest.approx(told, rel=1e-5)


@pytest.mark.parametrize("arguments", [0.5, 0.0])
@pytest.mark.parametrize("own", [0.25, None])
def test_a_limit_of_its_own_goes_before_that_of_the_arguments(own: float | None, arguments: float) -> None:
    model, told = own_loop(own)
    trainer = trained(galore={**GALORE, "max_grad_norm": own}, max_grad_norm=arguments)
    assert min(told) > 0.5
    torch.testing.assert_close(weights(trainer.model), weights(model), rtol=1e-5, atol=1e-7)
    assert norms(trainer) == pytest.approx(told, rel=1e-5)


def test_clipping_acts() -> None:
    assert not torch.equal(weights(trained().model), weights(trained(max_grad_norm=0).model))


def test_it_goes_on_to_the_bit() -> None:
    every: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}
    whole = trained(folder="whole", **every)
    trained(folder="halves", max_steps=2, **every)
    resumed = trained(folder="halves", resume=True, **every)
    assert resumed.galore_optimizer is not None
    assert resumed.galore_optimizer.clock == 4
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert norms(resumed) == norms(whole)


def test_autocast_in_bfloat16() -> None:
    told = norms(trained(bf16=True))
    assert min(told) > 0
    assert told != norms(trained())


def test_what_an_attempt_that_broke_off_had_accumulated_is_forgotten() -> None:
    trainer = GaLoreTrainer(llama(), arguments(), train_dataset=rows(), galore=GALORE)
    trainer.create_optimizer()
    ids = rows()[0]["input_ids"][None]
    trainer.model(input_ids=ids, labels=ids).loss.backward()
    trainer.train()
    assert torch.equal(weights(trainer.model), weights(trained().model))


def test_an_optimizer_that_was_dropped_lets_go() -> None:
    trainer = trained()
    trainer.optimizer = None
    first = trainer.galore_optimizer
    trainer.train()
    assert first is not None
    assert not first.attached
    assert trainer.galore_optimizer is not first


@pytest.mark.parametrize("another", ["a plain Trainer", "another GaLoreTrainer", "torch's AdamW"])
def test_between_two_calls_the_model_is_trained_by_others(another: str) -> None:
    model = llama()
    trainer = trained(model)
    before = weights(model)
    if another == "torch's AdamW":
        optimizer = torch.optim.AdamW(model.parameters())
        ids = rows()[0]["input_ids"][None]
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    else:
        other = (
            trained(model) if another == "another GaLoreTrainer" else Trainer(model, arguments(), train_dataset=rows())
        )
        other.train()
    between = weights(model)
    assert not torch.equal(between, before)
    trainer.train()
    assert trainer.galore_optimizer is not None
    assert trainer.galore_optimizer.clock == 8
    assert not torch.equal(weights(model), between)


def test_a_second_call_has_the_state_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    released = trained()
    released.train()
    with monkeypatch.context() as never:
        never.setattr(GaLoreAdamW, "release", lambda optimizer: None)
        held = trained()
        held.train()
    assert torch.equal(weights(released.model), weights(held.model))
    one, other = (each.galore_optimizer.state_tensors() for each in (released, held))  # type: ignore[union-attr]
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_call_that_breaks_off_lets_go(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = GaLoreTrainer(llama(), arguments(), train_dataset=rows(), galore=GALORE)
    with monkeypatch.context() as broken:
        broken.setattr(GaLoreAdamW, "clip_grad_norm_", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            trainer.train()
    assert trainer.galore_optimizer is not None
    assert not trainer.galore_optimizer.attached
    trainer.train()
    assert torch.equal(weights(trainer.model), weights(trained().model))


def test_a_trainer_that_is_gone_lets_go_of_its_model() -> None:
    trainer = trained()
    optimizer, model, gone = trainer.galore_optimizer, trainer.model, weakref.ref(trainer)
    del trainer
    gc.collect()
    assert gone() is None
    assert not optimizer.attached
    ids = rows()[0]["input_ids"][None]
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_images_and_text() -> None:
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=LlamaConfig(**TEXT), image_token_id=39)
    )
    ids = torch.cat([torch.full((4,), 39), torch.arange(6)])
    seen = [{"input_ids": ids, "labels": ids, "pixel_values": torch.rand(3, 8, 8)} for _ in range(8)]
    trainer = GaLoreTrainer(model, arguments(), train_dataset=seen, galore=GALORE)
    before = weights(model.model.vision_tower)
    trainer.train()
    assert trainer.galore_optimizer is not None
    names = {slot.name for slot in trainer.galore_optimizer.projected}
    assert any("vision" in name for name in names)
    assert any("language" in name for name in names)
    assert min(norms(trainer)) > 0
    assert not torch.equal(weights(model.model.vision_tower), before)


OF_GROUPS = {
    "targets": ("mlp",), "target_modules": ("mlp",), "rank_pattern": {"mlp": 2}, "head_inner": "soap", "weight_decay": 0.2,
}  # fmt: skip


@pytest.mark.parametrize("name", OF_GROUPS)
def test_what_groups_are_made_of_is_taken(name: str) -> None:
    own = {name: OF_GROUPS[name]}
    trainer = GaLoreTrainer(llama(), arguments(), train_dataset=rows(), galore=GALORE | own)
    trainer.create_optimizer()
    assert trainer.galore_optimizer is not None
    wanted = GaLoreAdamW(galore_groups(llama(), **{"weight_decay": 0.1, **GALORE, **own}), lr=1e-2)
    shown = [
        [{key: value for key, value in group.items() if key != "params"} for group in each.param_groups]
        for each in (trainer.galore_optimizer, wanted)
    ]
    assert shown[0] == shown[1]


def test_no_keyword_of_groups_is_forgotten() -> None:
    keywords = inspect.signature(galore_groups).parameters.keys() - {"model", "options", "rank"}
    assert keywords < OF_GROUPS.keys()


@pytest.mark.parametrize(
    ("galore", "options", "said"),
    [
        ({}, {}, "no rank"),
        ({"rank": 4, "refresh": "two-pass"}, {}, "twice"),
        ({"rank": 4, "rnak": 2}, {}, "rnak"),
        ({"rank": 4, "targets": ["mpl"]}, {}, "did you mean mlp"),
        ({"rank": 4, "update": "immediate"}, {"gradient_accumulation_steps": 1}, "max_grad_norm"),
        ({"rank": 4, "update": "immediate"}, {"max_grad_norm": 0}, "accumulation=2"),
    ],
)
def test_what_cannot_be_meant_is_refused(galore: dict[str, Any], options: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        GaLoreTrainer(llama(), arguments(**options), train_dataset=rows(), galore=galore).create_optimizer()


def test_a_scaler_and_another_optimizer_are_refused() -> None:
    halves = arguments()
    halves.fp16 = True
    with pytest.raises(ValueError, match="GradScaler"):
        GaLoreTrainer(llama(), halves, train_dataset=rows(), galore=GALORE)
    model = llama()
    other = torch.optim.SGD(model.parameters())
    with pytest.raises(ValueError, match="leave out optimizers"):
        GaLoreTrainer(model, arguments(), train_dataset=rows(), galore=GALORE, optimizers=(other, None))
