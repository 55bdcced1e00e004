from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from galore.trainer.common.errors import UserError
from galore.trainer.models.adapters.lora import add_adapters
from galore.trainer.models.decoder import build_decoder
from galore.trainer.models.generate import continued, sample, settings_of
from galore.trainer.models.rope.rotary import rotating
from galore.trainer.recipe.schema.model import ModelSection
from galore.trainer.recipe.schema.optim import OptimSection

WORDS = [f"w{i}" for i in range(30)]


def words(**special: str) -> PreTrainedTokenizerFast:
    """One token per word, `<end>` is 30."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*WORDS, "<end>"])}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{"eos_token": "<end>"} | special)


def llama(**fields: Any) -> PreTrainedModel:
    section = ModelSection(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, initializer_range=0.5,
        max_position_embeddings=32, dtype="float32", **fields,
    )  # fmt: skip
    return build_decoder(section, 31, device="cpu", seed=0, max_length=16, base_dir=Path.cwd())


def successor(model: PreTrainedModel, stop_after: int = 99) -> None:
    """Make the model predict word i + 1 after word i, and the end after word `stop_after`."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        nn.init.eye_(model.model.embed_tokens.weight)
        nn.init.ones_(model.model.norm.weight)
        for i in range(30):
            model.lm_head.weight[30 if i >= stop_after else i + 1, i] = 10.0


def test_temperature_zero_takes_the_likeliest_token() -> None:
    model = llama()
    successor(model)
    assert sample(model, words(), "w3 w4", 4, temperature=0) == "w3 w4 w5 w6 w7 w8"


def test_ends_at_the_end_of_text_and_does_not_show_it() -> None:
    model = llama()
    successor(model, stop_after=5)
    assert sample(model, words(), "w3", 10, temperature=0) == "w3 w4 w5"


def test_a_prompt_is_not_ended_by_the_tokenizer() -> None:
    class Ending(PreTrainedTokenizerFast):  # type: ignore[misc]
        def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
            return {"input_ids": [*super().__call__(text, **options)["input_ids"], 30]}

    model = llama()
    successor(model)
    tokenizer = Ending(tokenizer_object=words().backend_tokenizer, eos_token="<end>")
    assert sample(model, tokenizer, "w3", 2, temperature=0) == "w3 w4 w5"


def test_seed_decides_and_the_global_state_is_left_alone() -> None:
    model, tokenizer = llama(), words()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = sample(model, tokenizer, "w1", 12, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert sample(model, tokenizer, "w1", 12, seed=3) == first
    assert len({sample(model, tokenizer, "w1", 12, seed=seed) for seed in range(5)}) == 5


def test_top_k_and_top_p_of_one_token_are_greedy() -> None:
    model, tokenizer = llama(), words()
    greedy = sample(model, tokenizer, "w1", 8, temperature=0)
    assert sample(model, tokenizer, "w1", 8, top_k=1) == greedy
    assert sample(model, tokenizer, "w1", 8, top_p=1e-6) == greedy
    assert sample(model, tokenizer, "w1", 8, temperature=1e-4) == greedy


def test_settings_stored_with_a_model_play_no_part() -> None:
    model, tokenizer = llama(), words()
    plain = sample(model, tokenizer, "w1", 8, seed=3)
    model.generation_config.repetition_penalty = 50.0
    model.generation_config.top_k = 1
    assert sample(model, tokenizer, "w1", 8, seed=3) == plain
    assert model.generation_config.repetition_penalty == 50.0


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_cache_are_as_before(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama().train(training)
    lengths = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    sample(model, words(), "w1 w2 w3", 4, temperature=0)
    assert lengths[0] == 3
    assert set(lengths[1:]) <= {1}  # the cache is used
    assert model.training is training
    assert model.config.use_cache is False


def test_works_through_adapters() -> None:
    model = llama()
    successor(model)
    wrapped = add_adapters(model, OptimSection(method="lora", rank=2), seed=0)
    assert sample(wrapped, words(), "w3", 2, temperature=0) == "w3 w4 w5"


def test_a_prompt_that_leaves_no_room_is_refused_with_the_numbers() -> None:
    with pytest.raises(UserError, match=r"30 tokens and 3 new ones exceed the model's 32 positions"):
        sample(llama(), words(), " ".join(WORDS), 3)
    sample(llama(), words(), " ".join(WORDS), 2)


def test_an_empty_prompt_starts_as_a_document_does() -> None:
    model = llama()
    successor(model)
    with torch.no_grad():
        model.lm_head.weight[7, 30] = 10.0  # w7 after the end of a text
    assert sample(model, words(), "", 2, temperature=0).split() == ["w7", "w8"]


def test_an_empty_prompt_without_special_tokens_is_refused() -> None:
    with pytest.raises(UserError, match="no token to start from"):
        sample(llama(), PreTrainedTokenizerFast(tokenizer_object=words().backend_tokenizer), "", 2)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_has_diverged_is_told_and_draws_nothing(value: float, temperature: float) -> None:
    model = llama()
    with torch.no_grad():
        model.lm_head.weight[3] = value
    with pytest.raises(UserError, match="the model predicts nan or inf"):
        sample(model, words(), "w1", 2, temperature=temperature)
    assert model.generation_config.max_new_tokens is None, "its own settings are back"


def test_tokens_that_are_ruled_out_are_no_divergence() -> None:
    model = llama()
    successor(model)

    def rule_out(module: nn.Module, args: Any, output: Any) -> None:
        output.logits[..., 9:12] = float("-inf")

    model.register_forward_hook(rule_out)
    assert sample(model, words(), "w3", 2, temperature=0) == "w3 w4 w5"


@pytest.mark.parametrize("kind", ["longrope", "dynamic", "yarn"])
@pytest.mark.parametrize("new", [4, 20])
def test_a_continuation_beyond_the_original_length_is_what_the_model_computes(kind: str, new: int) -> None:
    factors = {"long_factor": [9.0] * 8, "short_factor": [1.0] * 8} if kind == "longrope" else {}
    model = llama(rope={"type": kind, "factor": 4, "original_max_position_embeddings": 8, **factors})
    settings = settings_of(words(eos_token="w29"), new, temperature=0, top_p=1.0)
    settings.eos_token_id = None
    found = continued(model, [1, 2, 3], settings, 0)
    wanted = [1, 2, 3]
    with torch.no_grad(), rotating(model.eval(), length=3 + new):
        while len(wanted) < 3 + new:
            wanted.append(int(model(torch.tensor([wanted]), use_cache=False).logits[0, -1].argmax()))
    assert found == wanted
    assert len(set(found)) > 3
