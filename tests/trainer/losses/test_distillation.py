"""The divergence from a teacher's predictions, against torch's own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import architectures
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.losses import distillation
from galore.trainer.losses.distillation import OF_THE_MODEL, Distillation, divergence, section_of
from galore.trainer.losses.extra import About
from galore.trainer.models.head import split_head
from galore.trainer.recipe.schema.extraloss import ExtraLossSection
from galore.trainer.recipe.schema.model import ModelSection
from galore.trainer.recipe.schema.recipe import Recipe


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_it_is_the_divergence_times_the_square_of_the_temperature(temperature: float) -> None:
    own, teacher = torch.randn(2, 9, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    expected = F.kl_div((own / temperature).log_softmax(1), (teacher / temperature).softmax(1), reduction="sum")
    torch.testing.assert_close(divergence(own, teacher, temperature, None), temperature**2 * expected)
    torch.testing.assert_close(divergence(own, teacher, temperature, 17), temperature**2 * expected)
    assert float(divergence(teacher, teacher, temperature, None)) == pytest.approx(0, abs=1e-5)


def test_of_its_most_probable_tokens_alone() -> None:
    teacher, own = torch.tensor([[3.0, 1.0, 2.0, -1.0]]), torch.tensor([[0.0, 0.5, 1.0, 2.0]])
    p = torch.tensor([3.0, 2.0]).softmax(0)
    q = own.log_softmax(1)[0, [0, 2]]
    torch.testing.assert_close(divergence(own, teacher, 1.0, 2), (p * (p.log() - q)).sum())


@pytest.mark.parametrize("top_k", [None, 3])
def test_a_token_that_the_teacher_rules_out_counts_nothing(top_k: int | None) -> None:
    torch.manual_seed(0)
    own, teacher = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7)
    teacher[:, 2:] = teacher[:, 2:].where(torch.rand(5, 5) < 0.3, -torch.inf)
    found = divergence(own, teacher, 2.0, top_k)
    p = (teacher.double() / 2).softmax(1)
    p = p if top_k is None else p.where(p >= p.topk(top_k).values[:, -1:], 0.0)
    p = p / p.sum(1, keepdim=True)
    q = (own.detach().double() / 2).softmax(1)
    expected = 4 * (torch.xlogy(p, p) - torch.xlogy(p, q)).sum()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    found.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(own.grad.double(), 2 * (q - p), rtol=1e-5, atol=1e-6)  # type: ignore[union-attr]


def test_a_padded_embedding_of_the_teacher_is_left_out() -> None:
    own, teacher = torch.randn(3, 5), torch.randn(3, 5)
    padded = torch.cat((teacher, torch.full((3, 2), 50.0)), 1)
    torch.testing.assert_close(divergence(own, padded, 1.0, None), divergence(own, teacher, 1.0, None))


ROPE = {"type": "yarn", "factor": 4.0}
SAID: dict[str, Any] = {
    "revision": "main", "random_init": True, "vocab_size": 77, "new_tokens": ["<a>"], "architecture": "retnet",
    "hidden_size": 64, "intermediate_size": 99, "num_hidden_layers": 3, "num_attention_heads": 16,
    "num_key_value_heads": 2, "max_position_embeddings": 4096, "rms_norm_eps": 0.5, "rope_theta": 3.0, "rope": ROPE,
    "router_aux_loss": 0.25, "initializer_range": 0.5, "tie_word_embeddings": True, "dtype": "float32",
    "attn_implementation": "eager", "name_or_path": "student", "architecture_of": "qwen3-0.6b",
}  # fmt: skip


def test_a_teacher_is_what_its_folder_says() -> None:
    """A key that comes to the section needs a value here, and one that a teacher may take an entry of its own there."""
    plain = ModelSection()
    assert SAID.keys() == ModelSection.model_fields.keys()
    for key, value in SAID.items():
        model = plain.model_copy(update={key: value})
        taken = section_of("teacher", model).model_dump(exclude={"name_or_path"})
        assert getattr(model, key) != getattr(plain, key)
        assert taken == plain.model_dump(exclude={"name_or_path"}) | ({key: value} if key in OF_THE_MODEL else {})
        assert section_of("teacher", model).name_or_path == "teacher"


@pytest.mark.parametrize(
    ("met", "where"),
    [
        (UserError("no model", where="model.name_or_path"), "extra_loss.teacher"),
        (RunFailed("the disk is gone", where="model.safetensors"), "model.safetensors"),
    ],
)
def test_what_is_wrong_with_a_teacher_is_told_of_its_key_and_of_its_disk_by_its_file(
    monkeypatch: pytest.MonkeyPatch, met: UserError, where: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise met

    monkeypatch.setattr(distillation, "build_decoder", refuse)
    data, train = {"path": "text", "max_length": 64}, {"max_steps": 1, "global_batch_size": 16}
    recipe = Recipe.model_validate({"data": data, "train": train})
    loss = ExtraLossSection(name="distillation", teacher="folder")
    about = About(recipe.model_copy(update={"extra_loss": loss}), nn.Identity(), "cpu", Path(), 30)
    with pytest.raises(UserError) as told:
        Distillation(about)
    assert told.value is met
    assert told.value.where == where


@pytest.mark.parametrize(
    "said", [{"architecture_of": "qwen3-0.6b"}, {"rope": ROPE}, {"architecture": "retnet", "rope_theta": 3.0}]
)
def test_a_teachers_targets_are_its_own_whatever_the_model_is(tmp_path: Path, said: dict[str, Any]) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=30, max_position_embeddings=64, **sizes)).save_pretrained(tmp_path)
    data, train = {"path": "text", "max_length": 64}, {"max_steps": 1, "global_batch_size": 16}
    recipe = Recipe.model_validate({"model": {"dtype": "float32", **said}, "data": data, "train": train})
    loss = ExtraLossSection(name="distillation", teacher=str(tmp_path))
    about = About(recipe.model_copy(update={"extra_loss": loss}), nn.Identity(), "cpu", tmp_path, 30)
    ids = torch.arange(60)[None] % 30
    with torch.no_grad():
        found = Distillation(about).teacher(input_ids=ids).logits
        expected = AutoModelForCausalLM.from_pretrained(tmp_path)(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_a_chunk_of_the_teachers_logits_is_that_of_its_rows(name: str) -> None:
    """Also where its head is more than a product."""
    loss: Any = object.__new__(Distillation)
    loss.about = SimpleNamespace(tokenizer=object())
    loss.teacher = architectures.decoder(name).eval()
    assert (split_head(loss.teacher) is None) is (name == "gemma2")
    ids = torch.arange(24).view(2, 12)
    seen = SimpleNamespace(input_ids=ids, rows=torch.tensor([0, 3, 11, 12, 20]), arguments={})
    with torch.no_grad():
        expected = loss.teacher(input_ids=ids).logits.flatten(0, 1)[seen.rows]
        chunk = loss._of_teacher(seen)
        torch.testing.assert_close(torch.cat((chunk(0, 2), chunk(2, 5))), expected)


@pytest.mark.parametrize("kind", ["dynamic", "default"])
def test_a_teacher_that_rotates_by_length_has_no_stages(tmp_path: Path, kind: str) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 2.0}
    config = LlamaConfig(vocab_size=30, max_position_embeddings=64, rope_parameters=rope, **sizes)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    train = {"max_steps": 4, "global_batch_size": 16, "length_stages": [{"max_length": 32, "steps": 2}]}
    recipe = Recipe.model_validate({"data": {"path": "text", "max_length": 64}, "train": train})
    loss = ExtraLossSection(name="distillation", teacher=str(tmp_path))
    about = About(recipe.model_copy(update={"extra_loss": loss}), nn.Identity(), "cpu", tmp_path, 30)
    if kind == "default":
        Distillation(about)
        return
    with pytest.raises(UserError, match=r"extra_loss\.teacher: rotates positions by the length"):
        Distillation(about)
