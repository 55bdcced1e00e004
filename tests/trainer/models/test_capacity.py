from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from galore.trainer.common.errors import UserError
from galore.trainer.models.capacity import TokenFacts
from galore.trainer.models.classifier import build_classifier
from galore.trainer.models.decoder import build_decoder
from galore.trainer.recipe.schema.model import ModelSection
from galore.trainer.tasks.glue import TASKS

ROWS = 40
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
OPTIONS: dict[str, Any] = {"device": "cpu", "seed": 0, "max_length": 8, "base_dir": Path()}


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(vocab_size=ROWS, tie_word_embeddings=request.param, eos_token_id=1, bos_token_id=None, **SIZES)
    ).save_pretrained(tmp_path)
    return tmp_path


def section(folder: Path, **settings: Any) -> ModelSection:
    return ModelSection(name_or_path=str(folder), dtype="float32", **settings)


def both(model: Any) -> list[torch.Tensor]:
    return [model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach()]


def test_rows_of_new_tokens_start_at_the_mean_of_the_others(stored: Path) -> None:
    before = both(LlamaForCausalLM.from_pretrained(stored, dtype=torch.float32))
    model = build_decoder(
        section(stored, new_tokens=["<a>", "<b>"]), ROWS + 2, tokens=TokenFacts([ROWS, ROWS + 1]), **OPTIONS
    )
    assert model.config.vocab_size == ROWS + 2
    for old, new in zip(before, both(model), strict=True):
        assert torch.equal(new[:ROWS], old)
        torch.testing.assert_close(new[ROWS:], old.mean(dim=0).expand(2, -1))
    assert all(parameter.requires_grad for parameter in model.parameters())
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight  # type: ignore[union-attr]
    assert tied == model.config.tie_word_embeddings


def test_spare_rows_are_taken_before_any_is_added(stored: Path) -> None:
    before = both(LlamaForCausalLM.from_pretrained(stored, dtype=torch.float32))
    model = build_decoder(section(stored, new_tokens=["<a>"]), 31, tokens=TokenFacts([30]), **OPTIONS)
    assert model.config.vocab_size == ROWS
    for old, new in zip(before, both(model), strict=True):
        torch.testing.assert_close(new[30], old[:30].mean(dim=0))
        assert torch.equal(new[torch.arange(ROWS) != 30], old[torch.arange(ROWS) != 30])


def test_a_token_that_the_tokenizer_has_and_the_model_has_not_gets_a_row(stored: Path) -> None:
    model = build_decoder(section(stored, new_tokens=["<a>"]), ROWS + 1, **OPTIONS)
    for new in both(model):
        torch.testing.assert_close(new[ROWS], new[:ROWS].mean(dim=0))


def test_without_the_key_the_message_names_it_and_the_tokens_whatever_the_size_that_is_asked_for(stored: Path) -> None:
    for rows in (None, ROWS):
        with pytest.raises(UserError, match=f"embeds {ROWS} token ids, but the tokenizer has {ROWS + 2}") as caught:
            build_decoder(
                section(stored, vocab_size=rows), ROWS + 2, tokens=TokenFacts(called="<{}>".format), **OPTIONS
            )
        assert caught.value.where == "model.new_tokens"
        assert caught.value.fix == 'model.new_tokens=\'["<40>","<41>"]\' gives the tokens beyond it rows'
    with pytest.raises(UserError, match="the recipe says 30") as caught:
        build_decoder(section(stored, vocab_size=30), ROWS + 2, **OPTIONS)
    assert "rows are added for model.new_tokens" in caught.value.fix


def test_a_tokenizer_of_another_model_is_not_written_out(stored: Path) -> None:
    with pytest.raises(UserError, match="the tokenizer has 3200") as caught:
        build_decoder(section(stored), 32_000, **OPTIONS)
    assert "data.tokenizer=null" in caught.value.fix
    assert "model.vocab_size=32000" in caught.value.fix
    assert len(caught.value.fix) < 200


def test_rows_are_planned_without_memory(stored: Path) -> None:
    model = build_decoder(section(stored, new_tokens=["<a>"]), ROWS + 1, **(OPTIONS | {"device": "meta"}))
    assert [tensor.shape[0] for tensor in both(model)] == [ROWS + 1] * 2


def test_a_classifier_gets_them_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(vocab_size=ROWS, max_position_embeddings=16, **SIZES)).save_pretrained(tmp_path)
    model: Any = build_classifier(
        section(tmp_path, new_tokens=["<a>"]), TASKS["cola"], ROWS + 1, tokens=TokenFacts([ROWS]), **OPTIONS
    )
    rows = model.get_input_embeddings().weight.detach()
    torch.testing.assert_close(rows[ROWS], rows[:ROWS].mean(dim=0))
