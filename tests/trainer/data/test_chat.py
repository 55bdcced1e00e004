from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from galore.trainer.data.chat import ChatEncoder, Example
from galore.trainer.data.chattemplate import ensure_template
from galore.trainer.data.quality import BadRow
from galore.trainer.data.tokenizer import train_bpe
from galore.trainer.errors import UserError

QUESTION = [("user", "Hi é?"), ("assistant", "Ho ho.")]
TWO = [("system", "S"), ("user", "a"), ("assistant", "b c"), ("user", "d"), ("assistant", "e")]


def encoded(tokenizer: Any, turns: list[tuple[str, str]], loss_on: str = "responses") -> Example | BadRow:
    return next(ChatEncoder(tokenizer, loss_on).encode([json.dumps(turns)], ["chat.jsonl:7"]))


def shown(tokenizer: Any, example: Example | BadRow) -> str:
    """The tokens as text, with square brackets around each run of targets."""
    assert isinstance(example, Example)
    assert len(example.ids) == len(example.targets)
    text, runs = "", list[tuple[bool, list[int]]]()
    for token, target in zip(example.ids, example.targets.tolist(), strict=True):
        if not runs or runs[-1][0] != target:
            runs.append((target, []))
        runs[-1][1].append(token)
    for target, ids in runs:
        part = tokenizer.decode(ids)
        text += f"[{part}]" if target else part
    return text


@pytest.fixture
def chatml(chat_tokenizer: Path) -> Any:
    return AutoTokenizer.from_pretrained(chat_tokenizer)


def test_targets_are_the_response_and_the_token_that_ends_it(chatml: Any) -> None:
    text = "<|im_start|>user\nHi é?<|im_end|>\n<|im_start|>assistant\n[Ho ho.<|im_end|>]\n"
    example = encoded(chatml, QUESTION)
    assert shown(chatml, example) == text
    assert isinstance(example, Example)
    assert example.ids == chatml(text.replace("[", "").replace("]", ""), add_special_tokens=False)["input_ids"]
    end = chatml.convert_tokens_to_ids("<|im_end|>")
    targets = [token for token, target in zip(example.ids, example.targets, strict=True) if target]
    assert targets == [*chatml("Ho ho.", add_special_tokens=False)["input_ids"], end]
    assert len(targets) == len("Ho ho.") + 1


def test_every_turn_of_the_assistant_counts(chatml: Any) -> None:
    assert shown(chatml, encoded(chatml, TWO)) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[b c<|im_end|>]\n"
        "<|im_start|>user\nd<|im_end|>\n<|im_start|>assistant\n[e<|im_end|>]\n"
    )


def test_loss_on_all_leaves_out_the_first_token_only(chatml: Any) -> None:
    example = encoded(chatml, QUESTION, "all")
    assert isinstance(example, Example)
    assert example.targets.tolist() == [False] + [True] * (len(example.ids) - 1)


def test_bytes_of_one_character_are_on_one_side(chatml: Any) -> None:
    example = encoded(chatml, [("user", "é"), ("assistant", "é€")])
    assert isinstance(example, Example)
    assert example.targets.sum() == len("é€".encode()) + 1
    assert shown(chatml, example).endswith("<|im_start|>assistant\n[é€<|im_end|>]\n")


def plain_tokenizer(**names: str) -> PreTrainedTokenizerFast:
    backend = train_bpe(iter(["### User:\nHi\n\n### Assistant:\nHo ho. " * 9]), 320)
    names = {"eos_token": "<|endoftext|>"} | names
    backend.add_special_tokens(list(names.values()))
    if "bos_token" in names:
        special = [(names["bos_token"], backend.token_to_id(names["bos_token"]))]
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=special)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    ensure_template(tokenizer)
    return tokenizer


def test_without_a_template_the_plain_one() -> None:
    tokenizer = plain_tokenizer()
    assert shown(tokenizer, encoded(tokenizer, TWO)) == (
        "### System:\nS\n\n### User:\na\n\n### Assistant:\n[b c<|endoftext|>]\n\n### User:\nd\n\n### Assistant:\n"
        "[e<|endoftext|>]"
    )


def test_the_plain_template_begins_as_texts_of_the_tokenizer_do() -> None:
    tokenizer = plain_tokenizer(bos_token="<s>")
    assert shown(tokenizer, encoded(tokenizer, QUESTION)).startswith("<s>### User:\nHi")


def test_the_plain_template_trims_so_that_no_token_spans_the_bound() -> None:
    tokenizer = plain_tokenizer()
    example = encoded(tokenizer, [("user", "Hi "), ("assistant", "\n\nHo ho. ")])
    assert shown(tokenizer, example) == "### User:\nHi\n\n### Assistant:\n[Ho ho.<|endoftext|>]"


def test_a_template_of_its_own_is_kept(chatml: Any) -> None:
    before = chatml.chat_template
    ensure_template(chatml)
    assert chatml.chat_template == before


def test_a_post_processor_that_trims_offsets_moves_no_bound(chatml: Any) -> None:
    """LLaMA 3's does; a space before the response would count as part of it."""
    chatml.chat_template = chatml.chat_template.replace("message['role'] + '\n'", "message['role'] + ' '")
    chatml.chat_template = chatml.chat_template.replace("assistant\n'", "assistant '")
    expected = encoded(chatml, TWO)
    assert "assistant [b c<|im_end|>]" in shown(chatml, expected)
    chatml.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    example = encoded(chatml, TWO)
    assert isinstance(example, Example)
    assert isinstance(expected, Example)
    assert example.targets.tolist() == expected.targets.tolist()


def test_a_tokenizer_that_writes_spaces_as_a_letter() -> None:
    """As LLaMA 2 does: the space belongs to the word after it."""
    words = ["<unk>", "</s>", "▁[INST]", "▁hi", "▁[/INST]", "▁hello", "▁you"]
    backend = Tokenizer(models.Unigram([(word, -float(index)) for index, word in enumerate(words)], unk_id=0))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["</s>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = (
        "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
    )
    example = encoded(tokenizer, [("user", "hi"), ("assistant", "hello you")])
    assert isinstance(example, Example)
    tokens = tokenizer.convert_ids_to_tokens(example.ids)
    assert tokens == ["▁[INST]", "▁hi", "▁[/INST]", "▁hello", "▁you", "</s>"]
    assert example.targets.tolist() == [False] * 3 + [True] * 3


def test_a_template_that_writes_the_last_answer_otherwise(chatml: Any) -> None:
    """Qwen3 puts an empty thought before the last answer only, LLaMA 2's relatives drop the final new line."""
    chatml.chat_template = chatml.chat_template.replace(
        "message['role'] + '\n' + message['content']",
        "message['role'] + '\n' + ('<think></think>' if loop.last and message['role'] == 'assistant' else '') + "
        "message['content']",
    )
    assert "loop.last" in chatml.chat_template
    text = shown(chatml, encoded(chatml, TWO))
    assert "assistant\n[b c<|im_end|>]\n" in text
    assert text.endswith("assistant\n[<think></think>e<|im_end|>]\n")


def test_a_template_that_ends_a_conversation_with_eos_after_the_turn(chatml: Any) -> None:
    """Phi-3's does."""
    chatml.chat_template += "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
    text = shown(chatml, encoded(chatml, TWO))
    assert text.endswith("assistant\n[e<|im_end|>]\n<|endoftext|>")
    assert "assistant\n[b c<|im_end|>]\n" in text


def test_several_tokens_that_end_a_turn_all_count(chatml: Any) -> None:
    """Cohere's are two."""
    chatml.chat_template = chatml.chat_template.replace("'<|im_end|>' + ", "'<|im_end|><|endoftext|>' + ")
    assert shown(chatml, encoded(chatml, QUESTION)).endswith("assistant\n[Ho ho.<|im_end|><|endoftext|>]\n")


def test_a_prompt_that_opens_a_thought_and_a_past_without_any(chatml: Any) -> None:
    """DeepSeek-R1's and Qwen3's, in a row that has thoughts."""
    chatml.chat_template = chatml.chat_template.replace(
        "'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>\n'"
    )
    chatml.chat_template = chatml.chat_template.replace(
        "message['content']", "message['content'].split('</think>')[-1]"
    )
    turns = [("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nt"), ("user", "d"), ("assistant", "<e")]
    text = shown(chatml, encoded(chatml, turns))
    assert "assistant\n[\n\nt<|im_end|>]\n" in text
    assert text.endswith("assistant\n[<e<|im_end|>]\n")


def test_a_template_that_moves_what_came_before_is_refused(chatml: Any) -> None:
    chatml.chat_template = "{{ messages | length }}" + chatml.chat_template
    with pytest.raises(UserError, match="message 2 cannot be found") as caught:
        encoded(chatml, QUESTION)
    assert caught.value.where == "chat.jsonl:7"
    assert isinstance(encoded(chatml, QUESTION, "all"), Example)


def test_a_conversation_that_the_template_refuses_is_a_bad_row(chatml: Any) -> None:
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    chatml.chat_template = refusal + chatml.chat_template
    bad = encoded(chatml, TWO)
    assert isinstance(bad, BadRow)
    assert str(bad) == "the chat template refuses it (no system role)"
    texts = [json.dumps(turns) for turns in (QUESTION, TWO, QUESTION)]
    examples = list(ChatEncoder(chatml, "responses").encode(texts, ["1", "2", "3"]))
    assert [type(example) for example in examples] == [Example, BadRow, Example]


def test_a_template_that_names_the_day_names_always_the_same(chatml: Any) -> None:
    chatml.chat_template = "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}" + (
        chatml.chat_template
    )
    assert shown(chatml, encoded(chatml, QUESTION)).startswith("26 Jul 2024")
