"""The CPU's attention inside whole models: the same network as with sdpa, and sdpa wherever it does not apply."""

from __future__ import annotations

import json

import pytest
import torch
from families import model_of
from transformers import AutoModelForCausalLM, PreTrainedModel

from galore.trainer.models import cpu
from galore.trainer.models.cpu import FAMILIES, NAME, optimize_decoder


def loss_and_gradients(model: PreTrainedModel, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    ids = torch.arange(150).view(3, 50) * 7 % 63 + 1
    model.zero_grad()
    loss = model(input_ids=ids, labels=ids, use_cache=False, **inputs).loss
    loss.backward()
    return {"loss": loss.detach()} | {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }


@pytest.fixture
def calls(monkeypatch) -> list[tuple[int, ...]]:
    """Shapes of the queries that reach our kernel."""
    seen: list[tuple[int, ...]] = []
    kernel = cpu.causal_attention

    def counted(q, k, v, scale):
        seen.append(tuple(q.shape))
        return kernel(q, k, v, scale)

    monkeypatch.setattr(cpu, "causal_attention", counted)
    return seen


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_error_of_loss_and_gradients_is_that_of_sdpa(family, tied, checkpointing, calls):
    model = model_of(family, tie_word_embeddings=tied)
    exact = loss_and_gradients(model_of(family, torch.float64, tie_word_embeddings=tied))
    plain = loss_and_gradients(model)
    assert not calls
    lines = optimize_decoder(model)
    assert "bf16 products" in lines[0]
    assert "RMSNorm" in lines[1]
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    ours = loss_and_gradients(model)
    assert len(calls) == (4 if checkpointing else 2)  # of two layers
    assert ours.keys() == plain.keys()
    for name, truth in exact.items():
        error, sdpas = ((found[name].double() - truth).norm() / truth.norm() for found in (ours, plain))
        assert error <= 1.5 * sdpas + 2e-3, name


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_grouped_heads_are_shared(heads, calls):
    model = model_of("llama", num_key_value_heads=heads)
    plain = loss_and_gradients(model)
    optimize_decoder(model)
    torch.testing.assert_close(loss_and_gradients(model), plain, rtol=0.1, atol=2e-2)
    assert calls == [(3, 4, 50, 8)] * 2


def test_padding_goes_to_sdpa(calls):
    model = model_of("llama")
    mask = torch.ones(3, 50, dtype=torch.int64)
    mask[1, 40:] = 0
    plain = loss_and_gradients(model, attention_mask=mask)
    optimize_decoder(model)
    padded = loss_and_gradients(model, attention_mask=mask)
    assert not calls
    torch.testing.assert_close(padded, plain, rtol=0.1, atol=2e-2)


def test_a_sliding_window_shorter_than_the_sequence_goes_to_sdpa(calls):
    model = model_of("mistral", sliding_window=16)
    plain = loss_and_gradients(model)
    optimize_decoder(model)
    ours = loss_and_gradients(model)
    assert not calls
    torch.testing.assert_close(ours, plain, rtol=0.1, atol=2e-2)


def test_dropout_goes_to_sdpa(calls):
    model = model_of("llama", attention_dropout=0.5)
    optimize_decoder(model)
    loss_and_gradients(model)
    assert not calls
    model.eval()
    loss_and_gradients(model)
    assert calls


def test_decoding_with_a_cache_gives_the_same_text(calls):
    model = model_of("llama").eval()
    prompt = torch.arange(1, 9)[None]
    plain = model.generate(prompt, max_new_tokens=8, do_sample=False, use_cache=True)
    optimize_decoder(model)
    assert torch.equal(model.generate(prompt, max_new_tokens=8, do_sample=False, use_cache=True), plain)
    assert all(shape[2] == 8 for shape in calls)  # the prompt alone; single tokens go to sdpa


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: model_of("llama", torch.float32), "float32"),
        (lambda: model_of("gpt2"), "not for gpt2"),
        (lambda: model_of("llama").to("meta"), "on meta"),
    ],
)
def test_other_models_keep_what_they_have_and_say_why(model, reason):
    model = model()
    before = model.config._attn_implementation
    (line,) = optimize_decoder(model)
    assert reason in line
    assert model.config._attn_implementation == before != NAME


def test_the_recipes_choice_is_kept():
    model = model_of("llama")
    model.set_attn_implementation("eager")
    assert optimize_decoder(model) == ["attention: eager (the recipe asks for it)"]
    assert model.config._attn_implementation == "eager"


def test_nothing_of_it_is_saved(tmp_path):
    model = model_of("llama")
    names = list(model.state_dict())
    optimize_decoder(model)
    assert list(model.state_dict()) == names
    model.save_pretrained(tmp_path)
    assert NAME not in json.dumps(json.loads((tmp_path / "config.json").read_text()))
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"
