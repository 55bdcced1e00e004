"""Which parts of an architecture are known to work on each token by itself, and why others are left whole."""

from __future__ import annotations

from typing import Any

import architectures
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from galore.trainer.common.errors import UserError
from galore.trainer.models.tiles.attach import tile_modules

TOLD = {
    "llama": "2 LlamaMLP, 5 LlamaRMSNorm",
    "mistral": "2 MistralMLP, 5 MistralRMSNorm",
    "qwen3": "2 Qwen3MLP, 9 Qwen3RMSNorm",
    "gemma2": "2 Gemma2MLP, 9 Gemma2RMSNorm",
    "phi3": "2 Phi3MLP, 5 Phi3RMSNorm",
    "gptneox": "2 GPTNeoXMLP, 5 LayerNorm",
    "olmo": "2 OlmoMLP",
    "retnet": "2 FeedForward, 5 LayerNorm",
    "mixtral": "5 MixtralRMSNorm",
    "gpt2": "5 LayerNorm",
    "falcon": "3 LayerNorm",
    "seed-oss": "5 SeedOssRMSNorm",
    "bert": "6 LayerNorm",
}
WHOLE = {
    "mixtral": "MixtralSparseMoeBlock (a mixture of experts, which sorts tokens)",
    "gpt2": "GPT2MLP (dropout, which would be drawn otherwise)",
    "falcon": "FalconMLP (it has FalconLinear, which may look at several tokens)",
    "seed-oss": "SeedOssMLP (dropout, which would be drawn otherwise)",
    "bert": "BertIntermediate (its result has another shape or type than what it takes)",
}


@pytest.mark.parametrize("name", TOLD)
def test_which_modules_of_an_architecture(name: str) -> None:
    model = architectures.decoder(name).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout) and name not in WHOLE:
            module.p = 0.0
    ids = torch.randint(4, 250, (2, 11), generator=torch.Generator().manual_seed(0))

    def gradients() -> list[Tensor]:
        model.zero_grad()
        torch.manual_seed(0)
        out = model(input_ids=ids, use_cache=False).logits
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        return [out.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]

    whole = gradients()
    told = tile_modules(model, 4)
    lines = [f"in tiles of 4 tokens, forward and backward: {TOLD[name]}"]
    assert told == lines + ([f"not in tiles, but whole: {WHOLE[name]}"] if name in WHOLE else [])
    for ours, theirs in zip(gradients(), whole, strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max()) + 1e-7


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.act = nn.Linear(4, 8), nn.Linear(8, 4), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x).cumsum(-2).flip(-2)))


class Converting(Mixing):
    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.up(x)))[..., :2]


class Asking(Mixing):
    def forward(self, x: Tensor) -> Tensor:
        return self.down(x[:, :, :, None])


class Layer(GradientCheckpointingLayer):
    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp


def network(mlp: nn.Module) -> Any:
    model: Any = nn.Module()
    model.layers, model.embed = nn.ModuleList([Layer(mlp)]), nn.Embedding(5, 4)
    model.get_input_embeddings = lambda: model.embed
    return model


@pytest.mark.parametrize(
    ("mlp", "reason"),
    [
        (Mixing(), "Mixing (tokens see each other in it)"),
        (Converting(), "Converting (its result has another shape or type than what it takes)"),
        (Asking(), "Asking (it takes something else than vectors of tokens)"),
    ],
)
def test_nothing_to_tile_is_refused_with_the_reason(mlp: nn.Module, reason: str) -> None:
    with pytest.raises(UserError, match="no part of Module can be computed in tiles") as error:
        tile_modules(network(mlp), 3)
    assert reason in str(error.value)


def test_a_forward_that_was_replaced_stays() -> None:
    mlp = Mixing()
    mlp.forward = lambda x: x
    with pytest.raises(UserError, match="something else has replaced its forward"):
        tile_modules(network(mlp), 3)
