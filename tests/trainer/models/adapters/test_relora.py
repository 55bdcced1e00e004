"""A restart: the function stays, the update is not lost in bf16, adapters and moments begin anew, all from (seed, step)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from galore.kernels.reference import methods
from galore.trainer.common.errors import UserError
from galore.trainer.models.adapters import relora
from galore.trainer.models.adapters.lora import add_adapters
from galore.trainer.models.adapters.relora import adapted_layers, restart_adapters
from galore.trainer.optim import GaLoreAdamW, adamw_groups
from galore.trainer.recipe.schema.optim import OptimSection

pytest.importorskip("peft", reason="the lora extra is not installed")
Build = Callable[..., PreTrainedModel]
IDS = torch.arange(32).view(2, 16)


def trained(build: Build, dtype: str = "float32", **fields: Any) -> tuple[nn.Module, GaLoreAdamW]:
    """A model with adapters and an embedding, two steps into its training."""
    settings = {"rank": 4, "lora_alpha": 8.0, "train_modules": ("embed_tokens",)} | fields
    model = add_adapters(build(dtype=dtype), OptimSection(method="lora", adapter="relora", **settings), seed=0)
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    optimizer = GaLoreAdamW(adamw_groups(named, 0.0), lr=1e-2)
    for _ in range(2):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    return model, optimizer


def restart(model: nn.Module, optimizer: GaLoreAdamW, seed: int = 5, step: int = 2, stochastic: bool = True) -> int:
    return restart_adapters(model, optimizer, seed=seed, step=step, stochastic=stochastic)


def copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def test_the_function_stays_and_adapters_begin_anew(build: Build) -> None:
    model, optimizer = trained(build)
    before, logits = copies(model), model(input_ids=IDS).logits
    assert restart(model, optimizer) == 14
    torch.testing.assert_close(model(input_ids=IDS).logits, logits)
    for name, tensor in model.state_dict().items():
        if name.endswith("base_layer.weight"):
            a, b = (before[name.replace("base_layer", f"lora_{factor}.default")] for factor in "AB")
            torch.testing.assert_close(tensor, methods.lora(before[name], a, b, alpha=8.0, r=4))
        assert torch.equal(tensor, before[name]) == ("lora" not in name and "base_layer" not in name), name
        if "lora_B" in name:
            assert not tensor.any()
        if "lora_A" in name:  # Kaiming uniform, as the first was
            assert 0.8 < tensor.abs().max() * tensor.shape[1] ** 0.5 <= 1
    assert not optimizer.torn


def test_moments_of_adapters_are_forgotten_and_no_others(build: Build) -> None:
    model, optimizer = trained(build)
    embedding = "base_model.model.model.embed_tokens.weight"
    kept = {key: value.clone() for key, value in optimizer.state_tensors().items() if key.startswith(embedding)}
    restart(model, optimizer)
    assert optimizer.state_tensors().keys() == kept.keys()
    assert all(torch.equal(value, kept[key]) for key, value in optimizer.state_tensors().items())
    model(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    steps = {key: int(value) for key, value in optimizer.state_tensors().items() if key.endswith(".step")}
    assert {key: value for key, value in steps.items() if value != 1} == {f"{embedding}.step": 3}


@pytest.mark.parametrize("stochastic", [True, False])
def test_a_small_update_is_not_lost_in_bf16(build: Build, stochastic: bool) -> None:
    """Below half a unit of W everywhere: to nearest it is gone, stochastically rounded its mean is there."""
    model, optimizer = trained(build, "bfloat16")
    layer = next(adapted_layers(model))
    with torch.no_grad():
        layer.weight.fill_(1.0)  # bf16 has 1 and 1 + 2⁻⁷
        layer.a.fill_(2.0**-6)
        layer.b.fill_(2.0**-6)
    restart(model, optimizer, stochastic=stochastic)
    moved = (layer.weight.detach().float() - 1).mean().item()
    assert moved == (pytest.approx(layer.scaling * 4 * 2.0**-12, rel=0.25) if stochastic else 0.0)


def test_all_of_it_is_a_function_of_seed_and_step(build: Build) -> None:
    def after(seed: int, step: int) -> dict[str, Tensor]:
        model, optimizer = trained(build, "bfloat16")
        state = torch.get_rng_state()
        restart(model, optimizer, seed, step)
        assert torch.equal(torch.get_rng_state(), state)
        return copies(model)

    first, again, later, other = after(5, 2), after(5, 2), after(5, 4), after(6, 2)
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    for name in (name for name in first if "lora_A" in name or "base_layer" in name):
        assert not torch.equal(first[name], later[name]), name
        assert not torch.equal(first[name], other[name]), name


def test_half_a_restart_is_marked(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = trained(build)
    real, calls = relora.lift_update_, iter(range(100))

    def short(*args: Any, **kwargs: Any) -> None:
        if next(calls) == 3:
            raise torch.OutOfMemoryError("no room")
        real(*args, **kwargs)

    monkeypatch.setattr(relora, "lift_update_", short)
    with pytest.raises(torch.OutOfMemoryError):
        restart(model, optimizer)
    assert optimizer.torn


def test_a_weight_that_the_embedding_shares_is_not_merged_into(build: Build) -> None:
    optim = OptimSection(method="lora", adapter="relora", target_modules=("lm_head",))
    with pytest.raises(UserError, match=r"lm_head has one weight with model\.embed_tokens"):
        add_adapters(build(tie_word_embeddings=True), optim, seed=0)
    add_adapters(build(), optim, seed=0)
