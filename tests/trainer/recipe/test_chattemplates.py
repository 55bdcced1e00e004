"""Every form by name: a conversation as its models were trained on, and nothing that changes what was written before."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from jinja2.exceptions import TemplateError

from galore.trainer.data.tokens.rehearsal import rendered
from galore.trainer.recipe.chattemplates import CHAT_TEMPLATES

TURNS = [
    {"role": "system", "content": "S."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Ho"},
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
]
WRITTEN = {
    "chatml": "<|im_start|>system\nS.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n"
    "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n",
    "llama2": "<s>[INST] <<SYS>>\nS.\n<</SYS>>\n\nHi [/INST] Ho </s><s>[INST] a [/INST] b </s>",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nS.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
    "Hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHo<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\na<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nb<|eot_id|>",
    "mistral": "<s>[INST] S.\n\nHi [/INST] Ho</s>[INST] a [/INST] b</s>",
    "gemma": "<s><start_of_turn>user\nS.\n\nHi<end_of_turn>\n<start_of_turn>model\nHo<end_of_turn>\n"
    "<start_of_turn>user\na<end_of_turn>\n<start_of_turn>model\nb<end_of_turn>\n",
    "phi3": "<|system|>\nS.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHo<|end|>\n<|user|>\na<|end|>\n"
    "<|assistant|>\nb<|end|>\n",
    "zephyr": "<|system|>\nS.</s>\n<|user|>\nHi</s>\n<|assistant|>\nHo</s>\n<|user|>\na</s>\n<|assistant|>\nb</s>\n",
    "vicuna": "S. USER: Hi ASSISTANT: Ho</s>USER: a ASSISTANT: b</s>",
    "alpaca": "S.\n\n### Instruction:\nHi\n\n### Response:\nHo</s>\n\n### Instruction:\na\n\n### Response:\nb</s>",
    "plain": "### System:\nS.\n\n### User:\nHi\n\n### Assistant:\nHo</s>\n\n### User:\na\n\n### Assistant:\nb</s>",
}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


def written(name: str, messages: Any, prompt: bool = False) -> str:
    return rendered(CHAT_TEMPLATES[name].text, {"messages": messages, "add_generation_prompt": prompt, **SPECIAL})


def test_every_template_has_its_form_here() -> None:
    assert list(WRITTEN) == list(CHAT_TEMPLATES)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_conversation_is_written_in_the_form(name: str) -> None:
    assert written(name, TURNS) == WRITTEN[name]


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("turns", [TURNS, TURNS[1:]], ids=["prompted", "unprompted"])
def test_a_template_only_ever_appends(name: str, turns: list[dict[str, str]]) -> None:
    """Each question with the prompt for its answer, then the answer, then the next question begin the whole."""
    answers = [number for number, turn in enumerate(turns) if turn["role"] == "assistant"]
    parts = [text for at in answers for text in (written(name, turns[:at], True), written(name, turns[: at + 1]))]
    for shorter, longer in pairwise(parts):
        assert longer.startswith(shorter)
        assert len(longer) > len(shorter)


@pytest.mark.parametrize("name", WRITTEN)
def test_the_tokens_of_a_form_are_those_that_it_writes(name: str) -> None:
    assert all(token in WRITTEN[name] for token in CHAT_TEMPLATES[name].tokens)


def test_without_a_system_prompt_vicuna_and_alpaca_have_their_own() -> None:
    assert written("vicuna", TURNS[1:2], True) == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
        "and polite answers to the user's questions. USER: Hi ASSISTANT:"
    )
    assert written("alpaca", TURNS[1:2], True) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nHi\n\n### Response:\n"
    )


@pytest.mark.parametrize("name", ["llama2", "mistral", "gemma", "phi3", "zephyr", "vicuna", "alpaca"])
def test_a_role_without_words_is_refused(name: str) -> None:
    with pytest.raises((TemplateError, ValueError), match="no words for role tool"):
        written(name, [*TURNS, {"role": "tool", "content": "4"}])
    late = [*TURNS, TURNS[0]]
    if name not in ("phi3", "zephyr"):
        with pytest.raises((TemplateError, ValueError), match="no words for role system here"):
            written(name, late)
