"""Which targets are of which modality, and what they count."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from galore.trainer.data.batch import Objective
from galore.trainer.data.rows.modality import Modalities
from galore.trainer.data.rows.tokenbatch import TokenBatch
from galore.trainer.models.head import split_head
from galore.trainer.recipe.schema.model import tokens_of
from galore.trainer.recipe.schema.recipe import Recipe

WORDS = ["a", "b", *tokens_of("image", 4), *tokens_of("speech", 2)]
TOKENIZER: Any = SimpleNamespace(get_vocab=lambda: {token: number for number, token in enumerate(WORDS)})


def recipe(weights: dict[str, float] | None = None, new: Any = None) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"new_tokens": {"image": 4, "speech": 2} if new is None else new},
            "data": {"source": "packaged"},
            "train": {"max_steps": 1, "loss_weights": weights or {}},
        }
    )


def modalities(weights: dict[str, float] | None = None) -> Modalities:
    found = Modalities.of(recipe(weights), TOKENIZER, len(WORDS))
    assert found is not None
    return found


def made() -> Any:
    """A tiny LLaMA; what is drawn after it is the same in every test."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), **sizes))


def test_every_id_is_of_one_modality() -> None:
    found = modalities()
    assert found.names == ("text", "image", "speech")
    assert found.kinds.tolist() == [0] * 2 + [1] * 6 + [2] * 4
    assert found.counts(torch.tensor([0, 2, 7, 8])) == [1, 2, 1]
    assert Modalities.of(recipe(new=[]), TOKENIZER, len(WORDS)) is None


def test_targets_count_by_their_modality_and_all_of_one_is_as_none() -> None:
    kinds = torch.tensor([0, 1, 2, 1])
    assert modalities({"image": 0.5, "speech": 0.0}).weights_of(kinds, torch.float64).tolist() == [1, 0.5, 0, 0.5]  # type: ignore[union-attr]
    assert modalities({"image": 1.0}).weights_of(kinds, torch.float32) is None


@pytest.mark.parametrize("biased", [False, True], ids=["head apart", "whole logits"])
def test_sums_by_modality_and_weights_in_the_total_alone(biased: bool) -> None:
    model = made()
    if biased:
        model.lm_head.bias = torch.nn.Parameter(torch.zeros(len(WORDS)))
    ids = torch.randint(0, len(WORDS), (3, 20))
    sums, gradients = {}, {}
    for name, found in {
        "none": None,
        "ones": modalities({"image": 1.0}),
        "weighted": modalities({"text": 0.25, "image": 2.0}),
    }.items():
        model.zero_grad()
        batch = TokenBatch(ids, ids, (0, 1, 2), None, found)
        sums[name] = batch.losses(model, split_head, Objective(z_loss=0.01))
        sums[name].total.backward()
        gradients[name] = model.lm_head.weight.grad.clone()
        if found is not None:
            by_name = batch.by_modality(sums[name].parts.tolist())
            assert sum(count for _, count in by_name.values()) == batch.targets
            assert sum(nats for nats, _ in by_name.values()) == pytest.approx(float(sums[name].cross_entropy), rel=1e-5)
    assert biased or torch.equal(gradients["ones"], gradients["none"])
    plain, weighted = sums["none"], sums["weighted"]
    assert float(weighted.cross_entropy) == pytest.approx(float(plain.cross_entropy), rel=1e-6)
    parts = weighted.parts.tolist()
    expected = 0.25 * parts[0] + 2 * parts[1] + parts[2]
    assert float(weighted.total.detach() - weighted.z) == pytest.approx(expected, rel=1e-4)
    assert len(batch.rows(0, 1)) == 1
    assert batch.rows(0, 1).modalities is batch.modalities


def test_a_row_and_a_modality_count_together() -> None:
    model = made()
    ids, rows = torch.randint(0, len(WORDS), (2, 20)), torch.tensor([1.0, 4.0])
    batch = TokenBatch(ids, ids, (0, 1), None, modalities({"text": 0.25, "image": 2.0}), weights=rows)
    with torch.no_grad():
        each = [replace(batch.rows(row, row + 1), weights=None).losses(model, split_head).total for row in (0, 1)]
        total = batch.losses(model, split_head).total
    assert float(total) == pytest.approx(float(each[0] + 4 * each[1]), rel=1e-5)
