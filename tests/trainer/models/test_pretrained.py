from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, GPT2Config, GPT2LMHeadModel, PreTrainedModel, T5Config

from galore.trainer.common.errors import UserError
from galore.trainer.models import decoder
from galore.trainer.models.decoder import refuse_encoder
from galore.trainer.recipe.schema.model import ModelSection

Build = Callable[..., PreTrainedModel]


@pytest.fixture
def folder(build: Build, tmp_path: Path) -> Path:
    path = tmp_path / "stored"
    build(seed=9).save_pretrained(path)
    return path


def edit_config(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_takes_the_weights_of_a_folder_relative_to_the_recipe(build: Build, folder: Path) -> None:
    model = build(name_or_path="stored", base_dir=folder.parent, hidden_size=64)  # dimensions are the folder's
    original = build(seed=9)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), original.parameters(), strict=True))
    assert model.training
    assert model.config.use_cache is False


def test_casts_weights_but_not_rotary_frequencies(build: Build, folder: Path) -> None:
    model = build(name_or_path=str(folder), dtype="bfloat16")
    original = build(seed=9)
    for ours, theirs in zip(model.parameters(), original.parameters(), strict=True):
        assert torch.equal(ours, theirs.bfloat16())
    assert torch.equal(model.model.rotary_emb.inv_freq, original.model.rotary_emb.inv_freq)


def test_random_init_takes_the_configuration_only(build: Build, folder: Path) -> None:
    fresh = build(name_or_path=str(folder), random_init=True, seed=3, hidden_size=64)
    same = build(seed=3)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), same.parameters(), strict=True))


def test_random_init_needs_no_weights(build: Build, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    build(name_or_path=str(folder), random_init=True)


def test_loading_leaves_the_global_random_state(build: Build, folder: Path) -> None:
    before = torch.get_rng_state()
    build(name_or_path=str(folder))
    assert torch.equal(torch.get_rng_state(), before)


def test_pickled_weights_are_refused(build: Build, folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"pytorch_model\.bin, a pickle"):
        build(name_or_path=str(folder))


def test_a_folder_without_weights_is_refused(build: Build, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no \*\.safetensors"):
        build(name_or_path=str(folder))


def test_missing_tensors_are_refused_not_drawn(build: Build, folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 tensors.*layers\.1\.mlp\.up_proj"):
        build(name_or_path=str(folder))


def test_tensors_of_another_shape_are_refused(build: Build, folder: Path) -> None:
    edit_config(folder, intermediate_size=56)
    with pytest.raises(UserError, match="stored"):
        build(name_or_path=str(folder))


def test_code_of_its_own_is_never_run(build: Build, folder: Path) -> None:
    (folder / "modeling_evil.py").write_text("raise SystemExit('ran')")
    edit_config(folder, model_type="evil", auto_map={"AutoConfig": "modeling_evil.EvilConfig"})
    with pytest.raises(UserError, match="code of its own, which galore never runs"):
        build(name_or_path=str(folder))


def test_quantized_weights_are_refused(build: Build, folder: Path) -> None:
    edit_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(UserError, match=r"quantized weights \(gptq\)"):
        build(name_or_path=str(folder))


def test_an_encoder_decoder_is_refused(build: Build, tmp_path: Path) -> None:
    T5Config(d_model=16, num_layers=1).save_pretrained(tmp_path / "t5")
    with pytest.raises(UserError, match="t5"):
        build(name_or_path="t5", random_init=True)


def test_an_encoder_that_sees_the_future_is_refused(build: Build, tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    config.save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match=r"\(bert\) lets a position see the tokens after it"):
        build(name_or_path="bert", random_init=True, initializer_range=0.5)
    with pytest.raises(UserError, match=r"\(bert\) lets a position see the tokens after it"):
        refuse_encoder(ModelSection(name_or_path="bert"), tmp_path)  # without weights, as a dry run and before any data
    config.is_decoder = True
    config.save_pretrained(tmp_path / "decoder")
    refuse_encoder(ModelSection(name_or_path="decoder"), tmp_path)


def test_an_encoder_that_its_configuration_does_not_betray_is_found_by_its_logits(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "_refuse_encoder", lambda *_: None)
    config = BertConfig(
        vocab_size=100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    config.save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match=r"\(bert\) lets a position see the tokens after it"):
        build(name_or_path="bert", random_init=True, initializer_range=0.5)


def test_other_decoders_can_be_drawn_and_cast(build: Build, tmp_path: Path) -> None:
    """GPT-2 rescales its output projections from the parent module: the rescaled numbers are the ones that are cast."""
    GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=2, n_positions=64).save_pretrained(tmp_path / "gpt2")
    exact, rounded = (build(name_or_path="gpt2", random_init=True, dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert isinstance(exact, GPT2LMHeadModel)
    assert exact.transformer.h[0].mlp.c_proj.weight.std().item() == pytest.approx(0.02 / 2, rel=0.1)  # 1/√(2·2)
    for ours, theirs in zip(rounded.parameters(), exact.parameters(), strict=True):
        assert torch.equal(ours, theirs.bfloat16())


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/model", "a/b/c"])
def test_a_path_that_is_not_there_is_never_asked_of_the_hub(build: Build, name: str) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        build(name_or_path=name)


def test_a_folder_that_is_no_model_is_refused(build: Build, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"cannot read the configuration of .*empty"):
        build(name_or_path="empty")


@pytest.mark.parametrize("name", ["q4", "q4/model.gguf"])
def test_gguf_is_named_and_how_to_convert_it_back(build: Build, tmp_path: Path, name: str) -> None:
    (tmp_path / "q4").mkdir()
    (tmp_path / "q4/model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match="is GGUF") as refused:
        build(name_or_path=name)
    assert f"from_pretrained({str(tmp_path / 'q4')!r}, gguf_file='model.gguf')" in str(refused.value)


@pytest.mark.parametrize("tied", [False, True])
def test_rows_for_more_tokens_are_drawn_beside_the_stored_ones(build: Build, tmp_path: Path, tied: bool) -> None:
    build(seed=9, tie_word_embeddings=tied).save_pretrained(tmp_path / "small")
    model, again, other = (build(101, name_or_path="small", rows=101, seed=seed) for seed in (1, 1, 2))
    grown, stored = model.get_input_embeddings().weight, load_file(tmp_path / "small" / "model.safetensors")
    assert torch.equal(grown[:100], stored["model.embed_tokens.weight"])
    assert model.config.vocab_size == len(grown) == len(model.get_output_embeddings().weight) == 101
    assert torch.equal(grown, again.get_input_embeddings().weight)
    assert not torch.equal(grown[100], other.get_input_embeddings().weight[100])
    assert build(101, name_or_path="small", rows=101, device="meta").config.vocab_size == 101


def test_rows_of_stored_weights_are_not_cut_off(build: Build, folder: Path) -> None:
    with pytest.raises(UserError, match=r"100 .*90"):
        build(90, name_or_path=str(folder), rows=90)
    assert build(90, name_or_path=str(folder), rows=90, random_init=True).config.vocab_size == 90


def test_tokenizer_larger_than_the_stored_model_is_refused(build: Build, folder: Path) -> None:
    with pytest.raises(UserError, match=r"100 .*101") as refused:
        build(101, name_or_path=str(folder))
    assert "model.new_tokens=" in refused.value.fix
    build(101, name_or_path=str(folder), rows=101)  # the remedy works
