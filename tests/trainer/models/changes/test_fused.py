"""Fused pieces in whole models: the same network, in every family that is known, and others left as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from families import model_of
from torch import Tensor
from transformers import PreTrainedModel

from galore.kernels.device import meta_stands_for
from galore.trainer.build import build_model
from galore.trainer.common.errors import UserError
from galore.trainer.fit.measure import measure
from galore.trainer.fit.predict import predict
from galore.trainer.machine.cards import card
from galore.trainer.models.changes import fused
from galore.trainer.models.changes.fused import fuse_pieces
from galore.trainer.models.cpu import FAMILIES
from galore.trainer.recipe.load import LoadedRecipe

Tiny = Callable[..., LoadedRecipe]
CPU = torch.device("cpu")


def loss_and_gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    ids = torch.arange(150).view(3, 50) * 7 % 63 + 1
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_error_of_loss_and_gradients_is_no_larger(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for name in ("rms_norm", "swiglu", "rotate"):
        own = getattr(fused, name)
        monkeypatch.setattr(fused, name, lambda *given, own=own, name=name: calls.append(name) or own(*given))
    exact, plain = loss_and_gradients(model_of(family, torch.float64)), loss_and_gradients(model_of(family))
    model = model_of(family)
    (line,) = fuse_pieces(model, True, CPU)
    norms = 9 if family == "qwen3" else 5
    assert f"{norms} RMSNorm, 2 SwiGLU and rotary positions of 2 blocks" in line
    ours = loss_and_gradients(model)
    assert (calls.count("rms_norm"), calls.count("swiglu"), calls.count("rotate")) == (norms, 2, 2)
    assert ours.keys() == plain.keys()
    for name, truth in exact.items():
        error, theirs = ((found[name].double() - truth).norm() / truth.norm() for found in (ours, plain))
        assert error <= 1.2 * theirs + 2e-3, name


def test_what_is_not_asked_for_or_not_known_stays() -> None:
    model = model_of("llama", torch.float32)
    kinds = {type(module) for module in model.modules()}
    assert fuse_pieces(model, False, CPU) == fuse_pieces(model, "auto", CPU) == []
    assert {type(module) for module in model.modules()} == kinds
    other = model_of("olmo2", torch.float32)
    with pytest.raises(UserError, match="not for olmo2") as refused:
        fuse_pieces(other, True, CPU)
    assert refused.value.where == "train.fused"
    with meta_stands_for("cuda"):
        (line,) = fuse_pieces(other, "auto", torch.device("meta"))
    assert "as transformers has it (known for llama" in line


def test_a_gate_of_another_activation_stays() -> None:
    model = model_of("llama", torch.float32)
    for layer in model.model.layers:
        layer.mlp.act_fn = torch.nn.GELU()
    plain = loss_and_gradients(model)
    model.zero_grad()
    (line,) = fuse_pieces(model, True, CPU)
    assert "0 SwiGLU" in line
    assert loss_and_gradients(model)["loss"].allclose(plain["loss"], rtol=1e-6)


def test_a_norm_of_another_dtype_than_its_input_is_transformers() -> None:
    model = model_of("llama", torch.bfloat16)
    norm, x = model.model.norm.float(), torch.randn(3, model.config.hidden_size).bfloat16()
    plain = norm(x)
    fuse_pieces(model, True, CPU)
    assert norm(x).dtype == plain.dtype == torch.float32
    assert norm(x).equal(plain)


@pytest.mark.parametrize(
    ("cos", "heads_at"),
    [
        (torch.randn(1, 5, 8, dtype=torch.float64), 1),
        (torch.randn(1, 5, 4), 1),
        (torch.randn(1, 5, 8), 2),
    ],
    ids=["another dtype", "a part of a head", "heads behind tokens"],
)
def test_angles_that_are_not_known_are_left_to_transformers(cos: Tensor, heads_at: int) -> None:
    asked: list[int] = []

    def otherwise(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int) -> tuple[Tensor, Tensor]:
        asked.append(unsqueeze_dim)
        return q, k

    q = torch.randn(1, 2, 5, 8)
    fused._rotation(otherwise)(q, q, cos, cos, heads_at)
    assert asked == [heads_at]


def test_auto_on_a_card(tiny: Tiny) -> None:
    with meta_stands_for("cuda"):
        _, lines = build_model(tiny("train.fused=auto").recipe, 256, "meta", Path())
    assert any(line.startswith("between products") and "Triton" in line for line in lines)


@pytest.mark.parametrize("more", [[], ["train.tile_tokens=8", "model.dtype=bfloat16"], ["train.matmul=int8"]])
def test_memory_that_is_predicted_is_measured(tiny: Tiny, more: list[str]) -> None:
    loaded = tiny("train.fused=true", "data.max_length=64", *more)
    predicted = max(predict(loaded, None).requested())
    measured = measure(loaded, CPU).allocator_bytes
    assert abs(predicted - measured) < 0.01 * measured


def test_a_card_needs_less_and_moves_less(tiny: Tiny) -> None:
    whole, one = (
        predict(tiny(f"train.fused={on}", "model.dtype=bfloat16"), card("rtx4090")) for on in ("false", "auto")
    )
    assert max(one.requested()) <= max(whole.requested())
    assert len(one.operations) < len(whole.operations)
