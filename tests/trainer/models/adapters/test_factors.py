"""Products in place of matrices: shapes, start, what is trained, and the plain model at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedModel

from galore.trainer.common.errors import UserError
from galore.trainer.models.adapters.factors import Product, factorize, multiplied_out
from galore.trainer.recipe.schema.optim import OptimSection

Build = Callable[..., PreTrainedModel]
IDS = torch.arange(32).view(2, 16)
Q = "model.layers.0.self_attn.q_proj"


def factors(**fields: Any) -> OptimSection:
    return OptimSection(method="lora", adapter="factors", **({"rank": 4} | fields))


def test_no_full_matrix_is_left_and_everything_is_trained(build: Build) -> None:
    plain = build().state_dict()
    model = factorize(build(), factors(), seed=0)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert f"{Q}.weight" in plain
    assert f"{Q}.weight" not in shapes
    assert shapes[f"{Q}.factor_a.weight"] == (4, 32)
    assert shapes["model.layers.1.mlp.up_proj.factor_b.weight"] == (48, 4)
    assert len(shapes) == len(plain) + 14
    assert all(parameter.requires_grad for parameter in model.parameters())
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(("rank", "size"), [(4, 0.02), (16, 0.02), (16, 0.1)])
def test_products_start_at_the_size_the_matrices_would_have_had(build: Build, rank: int, size: float) -> None:
    model = factorize(build(initializer_range=size, num_hidden_layers=6), factors(rank=rank), seed=0)
    products = [module for module in model.modules() if isinstance(module, Product)]
    entries = torch.cat([product.multiplied().weight.detach().flatten() for product in products])
    assert entries.std().item() == pytest.approx(size, rel=0.1)
    assert entries.mean().abs() < 0.01 * size


def test_factors_are_drawn_from_the_seed_in_float32_and_cast(build: Build) -> None:
    before = torch.get_rng_state()
    exact = factorize(build(), factors(), seed=7).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    rounded = factorize(build(dtype="bfloat16"), factors(), seed=7).state_dict()
    other = factorize(build(), factors(), seed=8).state_dict()
    for name, tensor in exact.items():
        assert torch.equal(rounded[name], tensor.bfloat16()), name
        if "factor" in name:
            assert not torch.equal(other[name], tensor), name
    assert not torch.equal(exact[f"{Q}.factor_a.weight"], exact[f"{Q.replace('q_', 'v_')}.factor_a.weight"])


def test_ranks_are_clamped_to_the_smaller_side(build: Build) -> None:
    shapes = {name: tuple(p.shape) for name, p in factorize(build(), factors(rank=20), seed=0).named_parameters()}
    assert shapes["model.layers.0.self_attn.k_proj.factor_a.weight"] == (16, 32)
    assert shapes[f"{Q}.factor_a.weight"] == (20, 32)


def test_multiplied_out_is_the_plain_model_and_computes_the_same(build: Build) -> None:
    model = factorize(build(), factors(), seed=0).eval()
    logits = model(IDS).logits
    result = multiplied_out(model)
    assert type(result) is LlamaForCausalLM
    assert {name: t.shape for name, t in result.state_dict().items()} == {
        name: t.shape for name, t in build().state_dict().items()
    }
    torch.testing.assert_close(result(IDS).logits, logits)


def test_a_bias_stays(build: Build) -> None:
    linear = torch.nn.Linear(6, 5)
    product = Product(linear, torch.randn(2, 6), torch.randn(5, 2))
    x = torch.randn(3, 6)
    expected = x @ (product.factor_b.weight @ product.factor_a.weight).mT + linear.bias
    torch.testing.assert_close(product(x), expected)
    assert torch.equal(product(input=x), product(x))
    torch.testing.assert_close(product.multiplied()(x), expected)


def test_on_meta_nothing_is_allocated_and_types_are_those_of_the_weights(build: Build) -> None:
    model = factorize(build(device="meta", dtype="bfloat16"), factors(), seed=0)
    assert all(parameter.is_meta and parameter.dtype == torch.bfloat16 for parameter in model.parameters())


def test_a_head_that_is_the_embedding_is_no_product(build: Build) -> None:
    with pytest.raises(UserError, match=r"lm_head has one weight with model\.embed_tokens"):
        factorize(build(tie_word_embeddings=True), factors(target_modules=("mlp", "lm_head")), seed=0)
