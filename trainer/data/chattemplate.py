"""Which chat template a run uses: the tokenizer's own, or a plain one that its export then carries along.

The plain one, for tokenizers of models that were never made to chat; the end of a response is the tokenizer's EOS:

    ### User:
    What is the capital of France?

    ### Assistant:
    Paris.</s>
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN = (
    "{% for message in messages %}"
    "{% if not loop.first %}{{ '\\n\\n' }}{% endif %}"
    "{{ '### ' + message['role'] | capitalize + ':\\n' + message['content'] | trim }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n\\n### Assistant:\\n' }}{% endif %}"
)
BEGINNING = "{{ bos_token }}"


def ensure_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a tokenizer without a chat template the plain one; it begins with BOS where texts of this tokenizer do."""
    if tokenizer.chat_template is None:
        ids = list(tokenizer("a")["input_ids"])
        begins = tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
        tokenizer.chat_template = BEGINNING * begins + PLAIN


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """What a model that was trained on conversations is given, so that it answers `prompt`."""
    template: Any = tokenizer
    messages = [{"role": "user", "content": prompt}]
    return str(template.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the template puts after what the assistant says; None where that is no token of its own."""
    template: Any = tokenizer
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}]
    text = str(template.apply_chat_template(messages, tokenize=False)).rstrip()
    last = int(template(text, add_special_tokens=False)["input_ids"][-1])
    return last if last in tokenizer.added_tokens_decoder else None


def stop_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Where an answer ends: at the token that ends a turn, and at EOS."""
    return [token for token in dict.fromkeys([tokenizer.eos_token_id, end_of_turn(tokenizer)]) if token is not None]
