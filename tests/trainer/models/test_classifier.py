"""Classifiers: what is stored is kept, what is not is drawn from the seed, and adapters leave the head to be trained in full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
)

from galore.trainer.common.errors import UserError
from galore.trainer.models.adapters.lora import add_adapters, merged
from galore.trainer.models.capacity import TokenFacts, positions_of
from galore.trainer.models.classifier import build_classifier, head_modules
from galore.trainer.recipe.schema.model import ModelSection
from galore.trainer.recipe.schema.optim import OptimSection
from galore.trainer.tasks.glue import TASKS

LINEAR = ("query", "key", "value", "intermediate.dense", "output.dense")


def build(
    folder: Path, task: str = "mnli", *, device: str = "cpu", seed: int = 1, max_length: int = 64, **more: Any
) -> Any:
    section = ModelSection(name_or_path=str(folder), dtype=more.pop("dtype", "float32"), **more)
    return build_classifier(section, TASKS[task], 20, device=device, seed=seed, max_length=max_length, base_dir=Path())


def test_the_encoder_is_the_stored_one_and_the_head_is_drawn_from_the_seed(tiny_roberta: Path) -> None:
    state = torch.random.get_rng_state()
    first, again, other = (build(tiny_roberta, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    stored = load_file(tiny_roberta / "model.safetensors")
    weights = first.state_dict()
    kept = [name for name in stored if name.startswith("roberta.")]
    assert kept
    assert all(torch.equal(weights[name], stored[name]) for name in kept)
    head = weights["classifier.dense.weight"]
    assert torch.equal(head, again.state_dict()["classifier.dense.weight"])
    assert not torch.equal(head, other.state_dict()["classifier.dense.weight"])
    assert weights["classifier.out_proj.weight"].shape == (3, 32)
    assert first.training


def test_labels_are_named(tiny_roberta: Path) -> None:
    config = build(tiny_roberta).config
    assert config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}
    assert config.label2id["neutral"] == 1
    assert config.problem_type == "single_label_classification"
    scores = build(tiny_roberta, "stsb").config
    assert (scores.num_labels, scores.problem_type) == (1, "regression")


def test_a_head_for_other_labels_is_drawn_anew(tiny_roberta: Path, tmp_path: Path) -> None:
    build(tiny_roberta).save_pretrained(tmp_path)
    weights = build(tmp_path, "rte", seed=5).state_dict()
    assert weights["classifier.out_proj.weight"].shape == (2, 32)
    stored = load_file(tmp_path / "model.safetensors")
    assert torch.equal(weights["classifier.dense.weight"], stored["classifier.dense.weight"])


def named(folder: Path, tiny_roberta: Path, names: tuple[str, ...]) -> None:
    model = build(tiny_roberta)
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: number for number, name in enumerate(names)}
    model.save_pretrained(folder)


def test_outputs_are_mapped_to_the_labels_by_name(tiny_roberta: Path, tmp_path: Path) -> None:
    named(tmp_path, tiny_roberta, ("CONTRADICTION", "neutral", "Entailment"))
    model, stored = build(tmp_path), load_file(tmp_path / "model.safetensors")
    assert torch.equal(model.classifier.out_proj.weight, stored["classifier.out_proj.weight"][[2, 1, 0]])
    assert torch.equal(model.classifier.out_proj.bias, stored["classifier.out_proj.bias"][[2, 1, 0]])
    assert model.config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}


def test_labels_that_do_not_map_are_refused(tiny_roberta: Path, tmp_path: Path) -> None:
    named(tmp_path, tiny_roberta, ("yes", "no", "perhaps"))
    with pytest.raises(
        UserError, match=r"tells yes, no, perhaps apart, .* mnli are entailment, neutral, contradiction"
    ):
        build(tmp_path)
    with pytest.raises(UserError, match="tells yes, no, perhaps apart"):
        build(tmp_path, device="meta")
    build(tmp_path, random_init=True)
    build(tmp_path, "rte")  # another number of labels: that head is drawn anew


@pytest.mark.parametrize("names", [("LABEL_0", "LABEL_1", "LABEL_2"), ("0", "1", "2")])
def test_outputs_without_names_are_taken_in_their_order(
    tiny_roberta: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    named(tmp_path, tiny_roberta, names)
    stored = load_file(tmp_path / "model.safetensors")
    assert torch.equal(build(tmp_path).classifier.out_proj.weight, stored["classifier.out_proj.weight"])


def test_a_lost_layer_is_refused(tiny_roberta: Path, tmp_path: Path) -> None:
    model = build(tiny_roberta)
    weights = {name: tensor for name, tensor in model.state_dict().items() if "layer.1.output" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(UserError, match=r"lacks .* tensors of its model, such as roberta.encoder.layer.1.output"):
        build(tmp_path)


def test_a_layer_of_another_shape_is_refused(tiny_roberta: Path, tmp_path: Path) -> None:
    model = build(tiny_roberta)
    weights = model.state_dict() | {"roberta.embeddings.word_embeddings.weight": torch.zeros(7, 32)}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(UserError, match=r"another shape than its model, such as roberta.embeddings.word_embeddings"):
        build(tmp_path)


def test_any_encoder_with_a_head_will_do(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=20, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
    BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    model = build(tmp_path, "rte")
    assert isinstance(model, type(AutoModelForSequenceClassification.from_config(config)))
    assert head_modules(model) == ["classifier"]


def test_on_meta_nothing_is_loaded(tiny_roberta: Path) -> None:
    model = build(tiny_roberta, device="meta", dtype="bfloat16")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_random_weights_on_demand(tiny_roberta: Path) -> None:
    drawn = build(tiny_roberta, random_init=True).state_dict()["roberta.embeddings.word_embeddings.weight"]
    stored = load_file(tiny_roberta / "model.safetensors")["roberta.embeddings.word_embeddings.weight"]
    assert not torch.equal(drawn, stored)


def test_positions_begin_after_the_padding(tiny_roberta: Path) -> None:
    assert positions_of(RobertaConfig(max_position_embeddings=514, pad_token_id=1)) == 512
    assert positions_of(BertConfig(max_position_embeddings=512)) == 512
    with pytest.raises(UserError, match="65 tokens do not fit the model's 64 positions"):
        build(tiny_roberta, max_length=65)


def test_adapters_and_a_head_in_full(tiny_roberta: Path) -> None:
    optim = OptimSection(method="lora", rank=4, lora_alpha=8, target_modules=LINEAR)
    model = add_adapters(build(tiny_roberta), optim, seed=0)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    heads = {name for name in trained if "lora_" not in name}
    assert heads == {
        f"base_model.model.classifier.{part}.{kind}" for part in ("dense", "out_proj") for kind in ("weight", "bias")
    }
    assert len(trained - heads) == 2 * 2 * 6  # A and B, two layers of six matrices
    ids = torch.tensor([[18, 1, 2, 19]])
    model.eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
        before = model(input_ids=ids).logits
        assert torch.allclose(merged(model)(input_ids=ids).logits, before, atol=1e-5)


SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "head_dim": 8}
QWEN = Qwen2Config(vocab_size=20, eos_token_id=19, pad_token_id=None, num_key_value_heads=4, **SHAPE)
LLAMA = LlamaConfig(vocab_size=20, eos_token_id=[18, 19], pad_token_id=None, **SHAPE)
GPT2 = GPT2Config(vocab_size=20, n_embd=32, n_layer=1, n_head=4, n_positions=64, eos_token_id=19)
GEMMA = Gemma3Config(
    text_config={"vocab_size": 20, "eos_token_id": 19, "pad_token_id": 0, "num_key_value_heads": 4, **SHAPE},
    vision_config={"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1},
)
DECODERS = [
    (QWEN, Qwen2ForCausalLM),
    (LLAMA, LlamaForCausalLM),
    (GPT2, GPT2LMHeadModel),
    (GEMMA, Gemma3ForConditionalGeneration),
]


def decoder(folder: Path, config: PreTrainedConfig, kind: Any, pad: int, **more: Any) -> Any:
    torch.manual_seed(0)
    kind(config).save_pretrained(folder)
    section = ModelSection(name_or_path=str(folder), dtype="float32", **more)
    options: dict[str, Any] = {"device": "cpu", "seed": 1, "max_length": 16, "base_dir": Path()}
    return build_classifier(section, TASKS["sst2"], 21, tokens=TokenFacts([20], str, pad), **options).eval()


@pytest.mark.parametrize("pad", [17, 20])
@pytest.mark.parametrize(("config", "kind"), DECODERS)
def test_a_decoders_score_does_not_depend_on_who_shares_the_batch(
    tmp_path: Path, config: PreTrainedConfig, kind: Any, pad: int
) -> None:
    """Whatever the tokenizer pads with, be it a new token, and whatever the stored configuration says of padding."""
    model = decoder(tmp_path / "stored", config, kind, pad, new_tokens=["<pad>"])
    assert {model.config.pad_token_id, model.config.get_text_config().pad_token_id} == {pad}
    alone, padded = torch.tensor([[3, 4, 5]]), torch.tensor([[3, 4, 5, pad, pad], [3, 4, 5, 6, 7]])
    model.save_pretrained(tmp_path / "saved")
    for each in (model, AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()):
        with torch.no_grad():
            expected = each(input_ids=alone, attention_mask=torch.ones(1, 3)).logits[0]
            scores = each(input_ids=padded, attention_mask=(padded != pad).float()).logits
        assert torch.allclose(scores[0], expected, atol=1e-5)
        assert not torch.allclose(scores[1], expected, atol=1e-5)


def test_shapes_need_no_tokenizer(tmp_path: Path) -> None:
    LlamaForCausalLM(LLAMA).save_pretrained(tmp_path)
    model = build(tmp_path, "rte", device="meta")
    assert model(input_ids=torch.zeros(2, 5, dtype=torch.long, device="meta")).logits.shape == (2, 2)


def test_positions_that_begin_after_the_padding_stay_where_they_were_trained(tiny_roberta: Path) -> None:
    section = ModelSection(name_or_path=str(tiny_roberta), dtype="float32")
    options: dict[str, Any] = {"device": "cpu", "seed": 1, "max_length": 64, "base_dir": Path()}
    model = build_classifier(section, TASKS["mnli"], 20, tokens=TokenFacts(pad=3), **options)
    assert model.config.pad_token_id == build(tiny_roberta).config.pad_token_id != 3


def test_a_decoder_scores_a_row_whatever_it_is_padded_to(tmp_path: Path) -> None:
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, vocab_size=40,
        max_position_embeddings=8, pad_token_id=0, rope_parameters={"rope_type": "dynamic", "factor": 8.0, "rope_theta": 1e4},
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    model = build(tmp_path, "sst2").eval()
    row, longer = torch.arange(3, 9)[None], torch.arange(3, 33)[None]
    with torch.no_grad():
        alone = model(input_ids=row).logits
        model(input_ids=longer)
        padded = torch.cat([row, row.new_zeros(1, 24)], dim=1)
        beside = model(input_ids=torch.cat([padded, longer]), attention_mask=(torch.cat([padded, longer]) != 0).long())
        assert torch.equal(model(input_ids=row).logits, alone)
    assert torch.allclose(beside.logits[0], alone[0], atol=1e-5)
