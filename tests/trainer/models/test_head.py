from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from architectures import decoder
from torch import nn
from transformers import Gemma2Config, PreTrainedModel

from galore.trainer.models.adapters.lora import add_adapters
from galore.trainer.models.head import split_head
from galore.trainer.recipe.schema.optim import OptimSection

Build = Callable[..., PreTrainedModel]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_body_and_head_make_the_logits(build: Build, tied: bool, dtype: str) -> None:
    model = build(tie_word_embeddings=tied, dtype=dtype)
    split = split_head(model)
    assert split is not None
    assert model.training
    ids = torch.randint(0, 100, (2, 16))
    assert torch.equal(split.hidden(ids) @ split.weight.T, model(ids).logits)


def test_sees_through_adapters(build: Build) -> None:
    model = add_adapters(build(), OptimSection(method="lora", rank=4), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.3)
    split = split_head(model)
    assert split is not None
    ids = torch.randint(0, 100, (2, 16))
    assert torch.equal(split.hidden(ids) @ split.weight.T, model(input_ids=ids).logits)


def test_an_adapted_head_is_left_whole(build: Build) -> None:
    assert split_head(add_adapters(build(), OptimSection(method="lora", target_modules=("lm_head",)), seed=0)) is None


def test_soft_capped_logits_are_left_whole(build: Build, tmp_path: Path) -> None:
    Gemma2Config(
        vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, final_logit_softcapping=30.0,
    ).save_pretrained(tmp_path / "gemma")  # fmt: skip
    assert split_head(build(name_or_path="gemma", random_init=True, attn_implementation="eager")) is None


def test_a_head_in_8_bits_is_left_whole(build: Build) -> None:
    assert split_head(build(in_int8=("lm_head",))) is None
    assert split_head(build(in_int8=("mlp",))) is not None


def test_a_residual_stream_in_float32_meets_the_head_in_its_type() -> None:
    model = decoder("mamba").bfloat16().eval()
    split = split_head(model)
    assert split is not None
    ids = torch.randint(0, 100, (2, 16))
    assert torch.equal(split.hidden(ids) @ split.weight.T, model(ids, use_cache=False).logits)


def test_a_head_with_a_forward_of_its_own_is_left_whole(build: Build) -> None:
    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    model = build(device="meta")  # where it cannot be tried
    model.lm_head.__class__ = Doubled
    assert split_head(model) is None
