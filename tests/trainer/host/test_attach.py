"""Which tensors wait: matrices of a block alone, with their scales; what cannot be streamed is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from galore.trainer.common.errors import UserError
from galore.trainer.host.attach import stream_blocks
from galore.trainer.host.blocks import at_rest, streamed
from galore.trainer.optim.int8_linear import to_int8

CPU = torch.device("cpu")


class Layer(GradientCheckpointingLayer):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(4, 8), nn.Linear(8, 4), nn.LayerNorm(4)


def network(blocks: int = 3) -> Any:
    model: Any = nn.Module()
    model.embed, model.layers = nn.Embedding(5, 4), nn.ModuleList(Layer() for _ in range(blocks))
    return model


def test_matrices_of_blocks_wait_and_nothing_else() -> None:
    model = network()
    to_int8(model.layers[1].up)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (told,) = stream_blocks(model, CPU, True, adapters=False)
    assert "3 blocks" in told
    blocks = streamed(model)
    assert blocks is not None
    waiting = {name for name, tensor in model.state_dict(keep_vars=True).items() if blocks.holds(tensor)}
    matrices = {f"layers.{n}.{name}.weight" for n in range(3) for name in ("up", "down")}
    assert waiting == matrices | {"layers.1.up.weight_scale"}
    rest = at_rest(model)
    assert all(torch.equal(rest(tensor), before[name]) for name, tensor in model.state_dict(keep_vars=True).items())


def test_adapters_and_what_blocks_share_stay() -> None:
    model = network(4)
    for layer in model.layers:
        layer.up.weight.requires_grad_(False)
    model.layers[2].up.weight = model.layers[3].up.weight
    with pytest.raises(UserError, match="the model has 2 blocks to stream") as error:
        stream_blocks(model, CPU, True, adapters=True)
    assert error.value.fix == "leave it out: the model is that small"


def test_refused() -> None:
    with pytest.raises(UserError, match="no block of Sequential has weights of its own"):
        stream_blocks(nn.Sequential(nn.Linear(2, 2)), CPU, True, adapters=False)
    with pytest.raises(UserError, match="the model has 5 blocks") as error:
        stream_blocks(network(5), CPU, 7, adapters=False)
    assert error.value.fix == "write a number from 2 to 4"
