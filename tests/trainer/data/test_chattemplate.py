from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from galore.trainer.data.chattemplate import PLAIN, end_of_turn, prompt_text, stop_tokens


@pytest.fixture
def chatml(chat_tokenizer: Path) -> Any:
    return AutoTokenizer.from_pretrained(chat_tokenizer)


def test_what_ends_a_turn_ends_an_answer_and_so_does_the_end_of_text(chatml: Any) -> None:
    end, text = chatml.convert_tokens_to_ids("<|im_end|>"), chatml.eos_token_id
    assert end_of_turn(chatml) == end
    assert stop_tokens(chatml) == [text, end]


def test_the_plain_template_ends_with_eos(chatml: Any) -> None:
    chatml.chat_template = PLAIN
    assert end_of_turn(chatml) == chatml.eos_token_id
    assert stop_tokens(chatml) == [chatml.eos_token_id]
    assert prompt_text(chatml, "Hi") == "### User:\nHi\n\n### Assistant:\n"


def test_a_template_that_ends_a_turn_with_words_has_no_such_token(chatml: Any) -> None:
    chatml.chat_template = "{% for message in messages %}{{ message['content'] + '\n' }}{% endfor %}"
    assert end_of_turn(chatml) is None
