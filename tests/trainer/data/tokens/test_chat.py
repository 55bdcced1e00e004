from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from galore.trainer.common.errors import UserError
from galore.trainer.data.text.quality import BadRow
from galore.trainer.data.tokens.chat import NO_END, OF_TOKENS, ChatEncoder, Example, stop_tokens
from galore.trainer.data.tokens.chattemplate import PLAIN, ensure_template
from galore.trainer.data.tokens.tokenizer import train_bpe

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
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


def plain_tokenizer(words: Sequence[str] = (), **names: str) -> PreTrainedTokenizerFast:
    backend = train_bpe(iter(["### User:\nHi\n\n### Assistant:\nHo ho. " * 9, *words * 9]), 320)
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


def test_what_ends_a_turn_ends_an_answer_and_so_does_the_end_of_text(chatml: Any) -> None:
    assert stop_tokens(chatml) == [chatml.eos_token_id, chatml.convert_tokens_to_ids("<|im_end|>")]
    chatml.chat_template = PLAIN
    assert stop_tokens(chatml) == [chatml.eos_token_id]
    chatml.chat_template = "{% for message in messages %}{{ message['content'] + '\n' }}{% endfor %}"
    assert stop_tokens(chatml) == [chatml.eos_token_id]


ALWAYS_ASKS = CHATML.replace("{% if add_generation_prompt %}", "{% if true %}")
EOS_AT_THE_LAST = CHATML.replace(
    "'<|im_end|>' + '\n'", "('<|endoftext|>' if loop.last and message['role'] == 'assistant' else '<|im_end|>\n')"
)
EOS_AFTER_THE_TURN = CHATML + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"


@pytest.mark.parametrize("template", [ALWAYS_ASKS, EOS_AT_THE_LAST, EOS_AFTER_THE_TURN])
def test_answers_stop_where_examples_do(chatml: Any, template: str) -> None:
    """Whatever a template writes after the turn: the prompt of the next one (always), EOS instead, EOS as well (Phi-3)."""
    chatml.chat_template = template
    example = encoded(chatml, TWO)
    assert isinstance(example, Example)
    last = [
        token
        for token, target, after in zip(example.ids, example.targets, [*example.targets[1:], False], strict=True)
        if target and not after
    ]
    assert len(last) == 2
    assert last[0] == chatml.convert_tokens_to_ids("<|im_end|>")
    assert set(last) <= set(stop_tokens(chatml))
    assert example.notes == ()
    call = [["user", "a"], ["assistant", "b", {"tool_calls": [{"f": 1}]}]]
    example = next(ChatEncoder(chatml, "responses").encode([json.dumps(call)], [""]))
    assert "b<|im_end|>]" in shown(chatml, example) or "b<|endoftext|>]" in shown(chatml, example)


VICUNA = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ 'USER: ' + m['content'] + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
)


@pytest.mark.parametrize("loss_on", ["responses", "all"])
def test_a_word_that_merges_with_the_space_before_it_is_a_target(loss_on: str) -> None:
    """And the prompt is, token by token, what the model is asked with later."""
    tokenizer = plain_tokenizer(bos_token="<s>", words=["USER: Is it? ASSISTANT: Yes", "USER: Is it? ASSISTANT: No"])
    tokenizer.chat_template = VICUNA
    assert "ĠYes" in tokenizer.tokenize("ASSISTANT: Yes")
    example = encoded(tokenizer, [("user", "Is it?"), ("assistant", "Yes")], loss_on)
    prompt = ChatEncoder(tokenizer, loss_on).prompt_ids("Is it?")
    assert isinstance(example, Example)
    assert example.ids[: len(prompt)] == prompt
    assert tokenizer.decode(example.ids[len(prompt) :]) == "Yes<|endoftext|>"
    if loss_on == "responses":
        assert shown(tokenizer, example) == "USER: Is it? ASSISTANT: [Yes<|endoftext|>]"
    two = encoded(tokenizer, [("user", "Is it?"), ("assistant", "Yes"), ("user", "Is it?"), ("assistant", "No")])
    assert shown(tokenizer, two) == (
        "USER: Is it? ASSISTANT: [Yes<|endoftext|>]USER: Is it? ASSISTANT: [No<|endoftext|>]"
    )


def test_a_template_that_ends_no_turn_gets_an_end(chatml: Any) -> None:
    """GLM's: without one the model would never stop. Nothing is added where the conversation goes on."""
    chatml.chat_template = CHATML.replace("'<|im_end|>' + ", "")
    example = encoded(chatml, TWO)
    assert shown(chatml, example).endswith("assistant\n[e\n<|endoftext|>]")
    assert isinstance(example, Example)
    assert example.notes == (NO_END,)
    assert encoded(chatml, TWO, "all").ids == example.ids  # type: ignore[union-attr]
    assert encoded(chatml, [*QUESTION, ("user", "d")]).notes == ()  # type: ignore[union-attr]


def test_what_the_template_does_not_write_is_noted(chatml: Any) -> None:
    said = [["user", "a"], ["assistant", "b", {"reasoning_content": "hm", "name": "x"}], ["tool", 'c"d', {"id": 1}]]
    encoder = ChatEncoder(chatml, "responses")

    def notes(turns: Any) -> tuple[str, ...]:
        example = next(encoder.encode([json.dumps(turns)], [""]))
        assert isinstance(example, Example)
        return example.notes

    assert notes([["user", "a"], ["assistant", "b"]]) == ()
    assert notes(said) == ("unread: reasoning_content", "unread: name", "unread: id")
    assert notes({"tools": [{"name": "f"}], "messages": [["user", "a"], ["assistant", "b"]]}) == ("unread: tools",)
    chatml.chat_template = "{{ tools | tojson if tools else '' }}" + CHATML.replace(
        "message['content'] +", "(message.thinking or message.reasoning_content or '') + message['content'] | tojson +"
    )
    assert notes(said) == ("unread: name", "unread: id")
    assert notes({"tools": [{"name": "f"}], "messages": [["user", "a"], ["assistant", "b"]]}) == ()
    chatml.chat_template = "{% set messages = messages | rejectattr('role', 'equalto', 'tool') | list %}" + CHATML
    assert notes([*said, ["tool", "long"]])[-1] == "unread: messages of role tool"


def test_a_developer_is_a_system_prompt_unless_the_template_knows_one(chatml: Any) -> None:
    turns = [("developer", "S"), ("user", "a"), ("assistant", "b")]
    assert shown(chatml, encoded(chatml, turns)).startswith("<|im_start|>system\nS<|im_end|>")
    chatml.chat_template = "{# system or developer #}" + CHATML
    assert shown(chatml, encoded(chatml, turns)).startswith("<|im_start|>developer\nS<|im_end|>")


def test_a_call_of_a_tool_is_a_response(chatml: Any) -> None:
    chatml.chat_template = CHATML.replace(
        "message['content'] +", "message['content'] + (message.tool_calls or '') | string +"
    )
    turns = [["user", "a"], ["assistant", "", {"tool_calls": [{"f": 1}]}], ["tool", "c"], ["assistant", "d"]]
    example = next(ChatEncoder(chatml, "responses").encode([json.dumps(turns)], [""]))
    text = shown(chatml, example)
    assert "assistant\n[[{'f': 1}]<|im_end|>]\n<|im_start|>tool\nc<|im_end|>\n" in text
    assert text.endswith("assistant\n[d<|im_end|>]\n")


def test_silence_is_no_target(chatml: Any) -> None:
    """As of a template that leaves out the call: the model would learn to answer with the end of its turn."""
    turns = [["user", "a"], ["assistant", "", {"tool_calls": [{"f": 1}]}], ["tool", "c"], ["assistant", "d"]]
    whole, call = (
        next(ChatEncoder(chatml, "responses").encode([json.dumps(part)], [""])) for part in (turns, turns[:2])
    )
    assert shown(chatml, whole).endswith(
        "assistant\n<|im_end|>\n<|im_start|>tool\nc<|im_end|>\n<|im_start|>assistant\n[d<|im_end|>]\n"
    )
    assert isinstance(call, BadRow)
    assert call.kind == "no_response"


def test_a_prompt_that_the_template_refuses_is_one_message(chatml: Any) -> None:
    chatml.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(UserError, match=r"cannot be asked: the chat template refuses it \(no\)"):
        ChatEncoder(chatml, "responses").prompt_ids("Hi")


@pytest.mark.parametrize("letters", ["Ho ho. ", " ", "<yes> "])
@pytest.mark.parametrize("template", [CHATML, CHATML.replace("'<|im_end|>' + ", "")])
def test_a_long_answer_takes_time_in_proportion_to_its_length(chatml: Any, template: str, letters: str) -> None:
    """Twice the letters take twice as long; with the square of the length they would take minutes."""
    chatml.add_tokens(["<yes>"])
    chatml.chat_template = template
    began = time.monotonic()
    answer = letters * (300_000 // len(letters))
    assert isinstance(encoded(chatml, [("user", "a"), ("assistant", f"b{answer}c")]), Example)
    assert isinstance(encoded(chatml, [("user", "a"), ("assistant", f"b{answer}")]), Example)
    assert time.monotonic() - began < 20


LABELS = ["<yes>", "<no>"]


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("loss_on", ["responses", "last", "all"])
def test_an_answer_of_added_tokens_is_a_target(chatml: Any, special: bool, loss_on: str) -> None:
    chatml.add_tokens([AddedToken(each, special=special, normalized=False) for each in LABELS], special_tokens=special)
    example = encoded(chatml, [("user", "a"), ("assistant", "<yes>")], loss_on)
    text = shown(chatml, example)
    assert text.endswith("assistant\n[<yes><|im_end|>]\n" if loss_on != "all" else "assistant\n<yes><|im_end|>\n]")
    two = shown(
        chatml, encoded(chatml, [("user", "a"), ("assistant", "<yes> <no>"), ("user", "b"), ("assistant", "c")])
    )
    assert "assistant\n[<yes> <no><|im_end|>]\n" in two
    assert two.endswith("assistant\n[c<|im_end|>]\n")


def test_an_answer_of_added_tokens_that_is_not_to_be_learned_is_no_target(chatml: Any) -> None:
    chatml.add_tokens(LABELS)
    turns = [["user", "a"], ["assistant", "<yes>", {"train": False}], ["user", "b"], ["assistant", "<no>"]]
    example = next(ChatEncoder(chatml, "all").encode([json.dumps(turns)], [""]))
    assert "assistant\n]<yes><|im_end|>[\n" in shown(chatml, example)


def test_an_answer_of_added_tokens_gets_an_end_where_the_template_writes_none(chatml: Any) -> None:
    chatml.add_tokens(LABELS)
    chatml.chat_template = CHATML.replace("'<|im_end|>' + ", "")
    for words in ("<yes>", "b <yes>", "<yes> <no>"):
        example = encoded(chatml, [("user", "a"), ("assistant", words)])
        assert shown(chatml, example).endswith(f"assistant\n[{words}\n<|endoftext|>]")
        assert isinstance(example, Example)
        assert example.notes == (OF_TOKENS, NO_END)


def test_an_answer_that_brings_its_end_gets_no_other(chatml: Any) -> None:
    chatml.chat_template = CHATML.replace("'<|im_end|>' + ", "")
    example = encoded(chatml, [("user", "a"), ("assistant", "b<|endoftext|>")])
    assert shown(chatml, example).endswith("assistant\n[b<|endoftext|>]\n")
    assert isinstance(example, Example)
    assert example.notes == ()


@pytest.mark.parametrize("words", ["b", "<yes> b", "b <yes>"])
def test_other_answers_with_added_tokens_are_noted_nowhere(chatml: Any, words: str) -> None:
    chatml.add_tokens(LABELS)
    for turns in ([("user", "a"), ("assistant", words)], [("user", "a"), ("assistant", words), *TWO[3:]]):
        assert encoded(chatml, turns).notes == ()  # type: ignore[union-attr]
    chatml.chat_template = VICUNA
    assert encoded(chatml, [("user", "a"), ("assistant", words)]).notes == ()  # type: ignore[union-attr]
