"""Tiled is whole, whatever trains: losses, norms, sums of gradients and of their projections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import architectures
import pytest
import torch
from tiny_training import METHODS, VOCABULARY, Trained, require_equal
from torch import Tensor

from galore.trainer.build import build_model
from galore.trainer.models.tiles.attach import tile_modules
from galore.trainer.optim.int8_linear import int8_layers
from galore.trainer.step import Counts, accumulate

TILED = "train.tile_tokens=3"  # of 16 tokens in a micro-batch: the last tile is one token
IN_TILES = {name: settings for name, settings in METHODS.items() if "dropout" not in name} | {
    "recomputed, streamed": ["train.gradient_checkpointing=true", "train.stream_weights=true"],
    "offloaded": ["train.gradient_checkpointing=3", "train.offload_activations=true"],
    "sums on the host": ["optim.method=full", "optim.gradient_sums=host"],
    "factors": ["optim.method=lora", "optim.adapter=factors"],
}
QUICK = ("two-pass", "immediate", "8 bits", "in the hook", "recomputed, streamed")


@pytest.mark.parametrize("method", [pytest.param(e, marks=[] if e in QUICK else pytest.mark.slow) for e in IN_TILES])
def test_tiled_is_whole(method: str) -> None:
    """Up to rounding, of which float32 leaves little; where weights move by their signs alone, a step is enough."""
    if "lora" in method:
        pytest.importorskip("peft")
    settings = [*IN_TILES[method], "model.dtype=float32"]
    whole, ours = Trained(*settings), Trained(TILED, *settings)
    assert "in tiles of 3 tokens, forward and backward: 4 LlamaMLP, 9 LlamaRMSNorm" in ours.told
    for one, other in zip(ours.results, whole.results, strict=True):
        assert one.loss_nats == pytest.approx(other.loss_nats, rel=2e-6)
        assert one.report.grad_norm == pytest.approx(other.report.grad_norm, rel=2e-5)
        assert one.report.refreshed == other.report.refreshed
    for name, tensor in ours.held.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, whole.held[name], rtol=2e-3, atol=2e-4)


SUMS = {
    "projected": (["optim.refresh=delayed"], 3),
    "sketched, too": (["optim.refresh=delayed"], 2),
    "summed": (["optim.refresh=summed", "optim.stagger=false", "optim.proj_type=svd"], 2),
    "whole": (["optim.residual=fira"], 3),
    "8 bits": (["optim.weight_dtype=int8", "optim.projector_dtype=int4"], 3),
    "8 bits, sketched": (["optim.weight_dtype=int8"], 2),
    "random": (["optim.proj_type=random"], 1),
    "in the hook": (["optim.projection=hook"], 3),
    "full": (["optim.method=full"], 1),
}


def sums(trained: Trained) -> dict[str, Tensor]:
    """What the optimizer has of one micro-batch's gradient, in float64 all along."""
    for parameter in trained.model.parameters():
        parameter.data = parameter.data.double() if parameter.is_floating_point() else parameter.data
    for layer in int8_layers(trained.model):
        layer.dtype, layer.weight_scale = torch.float64, layer.weight_scale.double()
    found: dict[str, Tensor] = {}
    slots = trained.optimizer.slots.values()
    for slot in slots:
        held = [slot.refresh.sum, slot.refresh.whole] if hasattr(slot, "refresh") else [slot.sum]
        slot.weight.product_dtype = torch.float64
        for each in held:
            each.dtype = torch.float64
    batch = trained.batch()
    accumulate(trained.model, batch, len(batch), Counts(batch.targets))
    for slot in slots:
        for kind in ("sum", "whole", "sketch"):
            total = getattr(getattr(slot, "refresh", slot), kind, None)
            if total is not None and total.exists:
                found[f"{slot.name} {kind}"] = total.value.clone()
    trained.optimizer.zero_grad()
    return found


@pytest.mark.parametrize("name", SUMS)
def test_the_sums_of_a_step_against_float64(name: str) -> None:
    """R, Y and G, to twelve digits: of the same weights and bases, whole first and then in tiles."""
    settings, steps = SUMS[name]
    trained = Trained(*settings, "model.dtype=float32", "train.gradient_checkpointing=2", steps=steps)
    whole = sums(trained)
    tile_modules(trained.model, 3)
    ours = sums(trained)
    assert ours.keys() == whole.keys()
    assert len(ours) >= 4 * 7
    for each, value in whole.items():
        exact = "sketch" not in each  # which is summed in fp32
        scale = float(value.abs().max())
        error = float((ours[each].double() - value.double()).abs().max())
        assert error <= (1e-12 if exact else 1e-6) * scale, each


def test_streamed_and_tiled_is_tiled_to_the_bit() -> None:
    settings = [*METHODS["8 bits"], TILED]
    require_equal(Trained("train.stream_weights=true", *settings), Trained(*settings))


def test_recomputed_and_tiled_is_tiled_to_the_bit() -> None:
    require_equal(Trained(TILED, "train.gradient_checkpointing=true"), Trained(TILED))


def test_a_layer_that_alone_is_trained_by_its_codes_has_a_backward() -> None:
    """Where nothing before it wants a gradient, and no parameter of it does."""
    ours = Trained(TILED, "optim.weight_dtype=int8", steps=0)
    for parameter in ours.model.parameters():
        parameter.requires_grad_(False)
    mlp = ours.model.model.layers[0].mlp
    received: list[Any] = []
    for layer in int8_layers(mlp):
        layer.receive = received.append
    mlp(torch.ones(1, 7, 32, dtype=torch.bfloat16)).sum().backward()
    assert len(received) == 3 * 3  # each tile's, of a receiver that gathers nothing


@pytest.mark.parametrize(("micro_batch", "tile"), [(64, 32), (257, 33), (1024, 128)])
def test_auto_is_an_eighth_of_a_micro_batch_but_not_below_the_models_width(micro_batch: int, tile: int) -> None:
    told = tile_modules(architectures.decoder("llama"), "auto", micro_batch)
    assert told[0].startswith(f"in tiles of {tile} tokens")


def test_null_leaves_everything_as_it_is() -> None:
    model = architectures.decoder("llama")
    assert tile_modules(model, None) == []
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_the_same_on_meta_where_nothing_can_be_tried() -> None:
    recipe = Trained(TILED, steps=0).recipe
    _, told = build_model(recipe, VOCABULARY, "meta", Path())
    assert any("4 LlamaMLP, 9 LlamaRMSNorm" in line for line in told)
