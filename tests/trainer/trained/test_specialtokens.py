from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, PreTrainedTokenizerBase, RobertaConfig

from galore.trainer.trained.specialtokens import name_special_tokens

END, START, STOP = 256, 257, 258  # the special tokens of `chat_tokenizer`; the ids below them are letters


def named(
    tokenizer: PreTrainedTokenizerBase, config: Any, eos: Any, other: bool = True, instruct: bool = False
) -> tuple[Any, GenerationConfig]:
    """Configuration and generation settings of a model of `eos`, trained with a tokenizer of its own or another's."""
    generation = GenerationConfig(bos_token_id=78, eos_token_id=eos, pad_token_id=79)
    model: Any = SimpleNamespace(config=config, generation_config=generation, can_generate=lambda: True)
    data = SimpleNamespace(tokenizer="elsewhere" if other else None, instruct=instruct)
    recipe: Any = SimpleNamespace(data=data, model=SimpleNamespace(name_or_path="base"))
    name_special_tokens(model, tokenizer, recipe)
    return config, generation


@pytest.fixture
def tokenizer(chat_tokenizer: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(chat_tokenizer)


@pytest.mark.parametrize(
    ("stored", "kept"), [(77, END), ([77, STOP], [END, STOP]), ([77, 76], END), (STOP, END), (None, END), (END, END)]
)
def test_of_another_tokenizer_only_special_tokens_end_a_text(
    tokenizer: PreTrainedTokenizerBase, stored: Any, kept: Any
) -> None:
    config = LlamaConfig(vocab_size=300, bos_token_id=78, eos_token_id=stored, pad_token_id=79)
    for each in named(tokenizer, config, stored):
        assert (each.bos_token_id, each.eos_token_id, each.pad_token_id) == (None, kept, END)


def test_a_model_with_its_own_tokenizer_keeps_what_it_says(tokenizer: PreTrainedTokenizerBase) -> None:
    config = LlamaConfig(vocab_size=300, bos_token_id=78, eos_token_id=[77, STOP], pad_token_id=None)
    named(tokenizer, config, [77, STOP], other=False)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (78, [77, STOP], END)


def test_an_answer_ends_at_no_letter(tokenizer: PreTrainedTokenizerBase) -> None:
    config = LlamaConfig(vocab_size=300, bos_token_id=78, eos_token_id=77)
    assert named(tokenizer, config, 77, instruct=True)[1].eos_token_id == [END, STOP]


def test_positions_that_begin_after_padding_stay(tokenizer: PreTrainedTokenizerBase) -> None:
    config, generation = named(tokenizer, RobertaConfig(pad_token_id=1, eos_token_id=2), 2)
    assert (config.pad_token_id, generation.pad_token_id, config.eos_token_id) == (1, END, END)


def test_an_export_of_instructions_knows_the_day_it_was_trained_on(tokenizer: PreTrainedTokenizerBase) -> None:
    """Also where the run is of a galore that told its templates the day without writing it down."""
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}" + tokenizer.chat_template
    generation = named(tokenizer, LlamaConfig(), 5, other=False, instruct=True)[1]
    said = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert said.startswith("26 Jul 2024<|im_start|>user")
    assert generation.eos_token_id == [5, END, STOP]
