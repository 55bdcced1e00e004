from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, MixtralConfig, PreTrainedModel, RobertaConfig, RobertaForSequenceClassification

from galore.trainer.machine.hardware import Peak
from galore.trainer.models.adapters.lora import add_adapters
from galore.trainer.models.decoder import build_decoder
from galore.trainer.models.flops import attention_width, flops_per_token, model_flops_utilization
from galore.trainer.recipe.schema.model import ModelSection
from galore.trainer.recipe.schema.optim import OptimSection

SEQ = 16


def llama(device: str = "cpu", **fields: Any) -> PreTrainedModel:
    section = ModelSection(
        **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
           "dtype": "float32", "attn_implementation": "eager"} | fields,
    )  # fmt: skip
    return build_decoder(section, 100, device=device, seed=0, max_length=SEQ, base_dir=Path.cwd())


def counted(model: torch.nn.Module) -> float:
    """FLOPs per token that torch counts in one forward and backward with the full attention matrix."""
    ids = torch.randint(0, 100, (2, SEQ))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids).logits.float().square().sum().backward()
    # where angles are a product of matrices: cos and sin of positions, once for all layers
    rotary = sum(sum(each.values()) for name, each in counter.get_flop_counts().items() if name.endswith("rotary_emb"))
    return (counter.get_total_flops() - rotary) / ids.numel()


def seen(model: torch.nn.Module) -> float:
    """The same without what a causal kernel leaves out, the positions after a token's own: 3 passes of 2 products."""
    return counted(model) - 3 * 2 * 2 * attention_width(model) * (SEQ - 1) / 2


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("tied", [False, True])
def test_equals_what_torch_counts(kv_heads: int, tied: bool) -> None:
    model = llama(num_key_value_heads=kv_heads, tie_word_embeddings=tied)
    assert flops_per_token(model, SEQ) == seen(model)


def test_of_llama_7b_by_hand() -> None:
    model = llama(
        "meta",
        vocab_size=32_000,
        hidden_size=4096,
        intermediate_size=11_008,
        num_hidden_layers=32,
        num_attention_heads=32,
    )
    matrices = 32 * (4 * 4096**2 + 3 * 4096 * 11_008) + 32_000 * 4096
    assert flops_per_token(model, 2048) == 6 * matrices + 12 * 32 * 4096 * 2049 / 2


def test_frozen_weights_cost_no_weight_gradient() -> None:
    """Torch does not count the gradient of the inputs of layer 0, which a frozen embedding does not ask for."""
    model = add_adapters(llama(), OptimSection(method="lora", rank=4), seed=0)
    first_inputs = 3 * 2 * 32 * (32 + 4)  # q, k and v: W and A
    assert flops_per_token(model, SEQ) == seen(model) + first_inputs


def test_counts_gpt2_whose_layers_are_conv1d(tmp_path: Path) -> None:
    GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=2, n_positions=64).save_pretrained(tmp_path)
    model = llama(name_or_path=str(tmp_path), random_init=True)
    assert flops_per_token(model, SEQ) == seen(model)


def test_an_encoder_sees_all_of_the_text() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = RobertaConfig(vocab_size=100, attn_implementation="eager", **sizes)
    model = RobertaForSequenceClassification(config)
    matrices = sum(each.weight.numel() for each in model.modules() if isinstance(each, torch.nn.Linear))
    assert flops_per_token(model, SEQ) == 6 * matrices + 12 * 2 * 32 * SEQ


def test_mixture_of_experts_is_not_guessed(tmp_path: Path) -> None:
    MixtralConfig(
        vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=4,
    ).save_pretrained(tmp_path)  # fmt: skip
    assert flops_per_token(llama("meta", name_or_path=str(tmp_path)), SEQ) is None


def test_mfu() -> None:
    assert model_flops_utilization(1000, 50.0, Peak(1e5, "table", "x")) == 0.5
    assert model_flops_utilization(None, 50.0, Peak(1e5, "table", "x")) is None
    assert model_flops_utilization(1000, 50.0, Peak(None, "unknown", "x")) is None
