"""Ollama's Modelfile: its template writes what the chat template writes, or there is none and it is said why."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from galore.trainer.common.errors import UserError
from galore.trainer.data.text.conversation import Conversation
from galore.trainer.data.tokens.chattemplate import PLAIN, render
from galore.trainer.trained.modelfile import modelfile, turns_of

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN = "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}" + CHATML
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start|>' + m['role'] + '<|end|>\n\n' + m['content'] | trim + '<|eot|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}{{ '<turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] + '</turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
LLAMA2 = MISTRAL.replace("{{ bos_token }}", "").replace("'[INST] '", "bos_token + '[INST] '")
BRACES = CHATML.replace("<|im_start|>' + m", "{{x}}' + m").replace("<|im_start|>assistant", "{{x}}assistant")
THINKS = CHATML.replace("m['content']", "('' if not loop.last and m['role'] == 'assistant' else m['content'])")
COUNTS = CHATML.replace("m['role'] +", "m['role'] + (loop.index | string) +")


def _tokenizer(template: str | None, bos: str = "<s>", begins_with_bos: bool = True) -> PreTrainedTokenizerFast:
    words = {"a": 0, "<|im_end|>": 1, "</s>": 2, "<s>": 3, "<|im_start|>": 4}
    backend = Tokenizer(models.WordLevel(words, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if begins_with_bos:
        backend.post_processor = processors.TemplateProcessing(f"{bos} $A", special_tokens=[(bos, words[bos])])
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", bos_token=bos)
    made.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    made.chat_template = template
    return made


def _model(**more: Any) -> LlamaForCausalLM:
    sizes: Any = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=10, max_position_embeddings=128, **sizes, **more))


def _as_go(template: str, messages: list[dict[str, str]]) -> str:
    """What Go makes of the few things that our templates have."""
    parts = re.split(r"\{\{ (.*?) \}\}", template, flags=re.S)  # words, action, words …
    variables: dict[str, bool] = {}

    def written(at: int, message: dict[str, str]) -> tuple[str, int, str]:
        """From the words `at` to the action that ends their block: the text, where it stands, and its name."""
        text = parts[at]
        while at + 1 < len(parts):
            action, at = parts[at + 1], at + 2
            if action in ("end", "else"):
                return text, at, action
            if action == "range .Messages":
                inner, after = "", at
                for each in messages:
                    said, after, _ = written(at, each)
                    inner += said
                text, at = text + inner, after
            elif action.startswith("if "):
                role = re.fullmatch(r'if eq \.Role "(\w+)"', action)
                before = dict(variables)
                holds = message["role"] == role[1] if role else variables[action.removeprefix("if ")]
                said, at, closed = written(at, message)
                other = ""
                if not holds:
                    variables.update(before)
                if closed == "else":
                    other, at, _ = written(at, message)
                text += said if holds else other
            elif action == ".Content":
                text += message["content"]
            else:
                name, value = re.fullmatch(r"(\$\w+) :?= (true|false)", action).groups()  # type: ignore[union-attr]
                variables[name] = value == "true"
            text += parts[at]
        return text, at, ""

    return written(0, {"role": "", "content": ""})[0]


@pytest.mark.parametrize(
    ("template", "system"),
    [(CHATML, True), (QWEN, True), (LLAMA3, True), (PLAIN, True), (GEMMA, False), (MISTRAL, False)],
    ids=["chatml", "qwen", "llama3", "plain", "gemma", "mistral"],
)
def test_known_templates_are_said_letter_by_letter(template: str, system: bool) -> None:
    tokenizer = _tokenizer(template)
    found, note = turns_of(tokenizer)
    assert found is not None
    assert (found.system is not None) is system
    assert ("system prompts are left out" in note) is not system
    turns = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    for messages in (turns[:1], turns, *([[{"role": "system", "content": "zero"}, *turns]] if system else [])):
        expected = render(tokenizer, Conversation(messages), True).removeprefix("<s>")
        assert _as_go(found.template(), messages) == expected


@pytest.mark.parametrize(("template", "bos"), [(QWEN, "<|im_start|>"), (LLAMA3, "<s>")], ids=["smollm2", "llama3"])
@pytest.mark.parametrize("begins_with_bos", [True, False])
def test_bos_is_written_where_the_tokenizer_puts_none(template: str, bos: str, begins_with_bos: bool) -> None:
    tokenizer = _tokenizer(template, bos, begins_with_bos)
    found, _ = turns_of(tokenizer)
    assert found is not None
    for roles in (["user"], ["system", "user"]):
        messages = [{"role": role, "content": "one"} for role in roles]
        written = _as_go(found.template(), messages)
        assert (bos if begins_with_bos else "") + written == render(tokenizer, Conversation(messages), True)


@pytest.mark.parametrize("begins_with_bos", [True, False])
@pytest.mark.parametrize("template", [GEMMA, MISTRAL, LLAMA2], ids=["gemma", "mistral", "llama2"])
def test_a_system_prompt_that_is_left_out_leaves_nothing_behind(template: str, begins_with_bos: bool) -> None:
    found, _ = turns_of(_tokenizer(template, begins_with_bos=begins_with_bos))
    assert found is not None
    assert found.system is None
    turns = [{"role": role, "content": word} for role, word in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    for length, roles in ((1, "u"), (3, "uau")):
        words = [turn["content"] for turn in turns[:length]]
        asked = [{"role": "system", "content": "zero"}, *turns[:length]]
        assert _as_go(found.template(), asked) == _as_go(found.template(), turns[:length]) == found.write(roles, words)
        assert found.write(f"s{roles}", ["zero", *words]) == found.write(roles, words)


@pytest.mark.parametrize(
    ("template", "note"),
    [
        (CHATML, ""),
        ("{% if tools %}{{ tools }}{% endif %}" + CHATML, "what the chat template does with tools is not in Modelfile"),
        (GEMMA, "system prompts are left out: the template has no turn of their own for them"),
    ],
)
def test_the_note_tells_what_is_left_out_of_this_template(template: str, note: str) -> None:
    assert turns_of(_tokenizer(template))[1] == note


def test_braces_are_no_actions_of_go() -> None:
    found, _ = turns_of(_tokenizer(BRACES))
    assert found is not None
    assert '{{ if eq .Role "assistant" }}' in found.template()
    assert '{{ "{{x}}assistant\\n" }}{{ .Content }}' not in found.template()  # it stands in `later` parts, quoted
    assert '"{{x}}' in found.template()


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (THINKS, "does not write every message"),
        (COUNTS, "the same turn in two ways"),
        (CHATML.replace("<|im_end|>", '"""'), "which Modelfile cannot"),
        ("{{ raise_exception('never') }}", "never"),
    ],
)
def test_what_ollama_cannot_say_is_told(template: str, why: str) -> None:
    found, note = turns_of(_tokenizer(template))
    assert found is None
    assert why in note
    assert "no TEMPLATE, write one" in note


def test_the_file() -> None:
    model = _model()
    model.generation_config.update(do_sample=True, temperature=0.6, repetition_penalty=1.1)
    text, note = modelfile(model, _tokenizer("{{ tools and '' }}" + CHATML))
    assert text.startswith('FROM .\nTEMPLATE """{{ $seen := false }}{{ range .Messages }}')
    assert 'PARAMETER stop "</s>"\n' in text
    assert 'PARAMETER stop "<|im_end|>"\n' in text
    assert "PARAMETER temperature 0.6\n" in text
    assert "PARAMETER repeat_penalty 1.1\n" in text
    assert text.endswith("PARAMETER num_ctx 128\n")
    assert "tools" in note
    base, note = modelfile(_model(), _tokenizer(None))
    assert base == 'FROM .\nTEMPLATE """{{ .Prompt }}"""\nPARAMETER num_ctx 128\n'
    assert note == ""


def test_a_classifier_is_refused() -> None:
    classifier: Any = LlamaForSequenceClassification(_model().config)
    with pytest.raises(UserError, match=r"--ollama: is a classifier"):
        modelfile(classifier, _tokenizer(None))
