"""Chat templates by name, for `data.chat_template`: how each form writes a conversation, and the tokens it takes.

A form of the field is a fact, its text here is ours: every template only ever appends, so that each response is found
in the whole, and refuses a role that the form has no words for.
"""

from __future__ import annotations

from typing import NamedTuple

SUFFIXES = (".jinja", ".jinja2", ".j2")
"""What the name of a file with a template ends with."""


class ChatTemplate(NamedTuple):
    """`tokens`: what the form writes that should be one token each, those of `bos_token` and `eos_token` apart."""

    text: str
    tokens: tuple[str, ...] = ()


_OF_ANOTHER_ROLE = "{{ raise_exception('this chat template has no words for role ' + message['role'] + ' here') }}"


def _headed(turn: str, prompt: str, roles: str = "") -> str:
    """Every turn under its role, as Jinja expressions of `message`; `roles`: a list of those that the form knows."""
    refusal = f"{{% if message['role'] not in {roles} %}}{_OF_ANOTHER_ROLE}{{% endif %}}" if roles else ""
    loop = f"{{% for message in messages %}}{refusal}{{{{ {turn} }}}}{{% endfor %}}"
    return f"{loop}{{% if add_generation_prompt %}}{{{{ {prompt} }}}}{{% endif %}}"


def _paired(
    user: str, assistant: str, prompt: str = "''", *, system: str = "", begin: str = "''", default: str = ""
) -> str:
    """Questions and answers without roles, as Jinja expressions of `words`.

    Args:
        system: the first question with a system prompt, `messages[0]['content']`, inside it; or empty, if
        begin: is what stands before the first question, as an expression of `system`,
        default: which is this where there is no system prompt.
    """
    first = "messages[0]['role'] == 'system'"
    inside = f"{{% if loop.index0 == 1 and {first} %}}{{% set words = {system} %}}{{% endif %}}" if system else ""
    return (
        f"{{% set system = messages[0]['content'] | trim if {first} else '{default}' %}}{{{{ {begin} }}}}"
        "{% for message in messages %}{% set words = message['content'] | trim %}"
        f"{{% if message['role'] == 'user' %}}{inside}{{{{ {user} }}}}"
        f"{{% elif message['role'] == 'assistant' %}}{{{{ {assistant} }}}}"
        f"{{% elif message['role'] != 'system' or not loop.first %}}{_OF_ANOTHER_ROLE}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {prompt} }}}}{{% endif %}}"
    )


_PROMPTED = "['system', 'user', 'assistant']"
_CURIOUS = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
    "polite answers to the user\\'s questions."
)
_INSTRUCTION = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)

CHAT_TEMPLATES = {
    "chatml": ChatTemplate(
        _headed(
            "'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n'",
            "'<|im_start|>assistant\\n'",
        ),
        ("<|im_start|>", "<|im_end|>"),
    ),
    "llama2": ChatTemplate(
        _paired(
            "(bos_token or '') + '[INST] ' + words + ' [/INST]'",
            "' ' + words + ' ' + eos_token",
            system="'<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + words",
        )
    ),
    "llama3": ChatTemplate(
        "{{ bos_token }}"
        + _headed(
            "'<|start_header_id|>' + ('ipython' if message['role'] == 'tool' else message['role'])"
            " + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>'",
            "'<|start_header_id|>assistant<|end_header_id|>\\n\\n'",
        ),
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "mistral": ChatTemplate(
        "{{ bos_token }}"
        + _paired("'[INST] ' + words + ' [/INST]'", "' ' + words + eos_token", system="system + '\\n\\n' + words")
    ),
    "gemma": ChatTemplate(
        "{{ bos_token }}"
        + _paired(
            "'<start_of_turn>user\\n' + words + '<end_of_turn>\\n'",
            "'<start_of_turn>model\\n' + words + '<end_of_turn>\\n'",
            "'<start_of_turn>model\\n'",
            system="system + '\\n\\n' + words",
        ),
        ("<start_of_turn>", "<end_of_turn>"),
    ),
    "phi3": ChatTemplate(
        _headed(
            "'<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n'", "'<|assistant|>\\n'", _PROMPTED
        ),
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    ),
    "zephyr": ChatTemplate(
        _headed(
            "'<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n'", "'<|assistant|>\\n'", _PROMPTED
        )
    ),
    "vicuna": ChatTemplate(
        _paired("'USER: ' + words + ' ASSISTANT:'", "' ' + words + eos_token", begin="system + ' '", default=_CURIOUS)
    ),
    "alpaca": ChatTemplate(
        _paired(
            "'\\n\\n### Instruction:\\n' + words + '\\n\\n### Response:\\n'",
            "words + eos_token",
            begin="system",
            default=_INSTRUCTION,
        )
    ),
    "plain": ChatTemplate(
        "{% for message in messages %}"
        "{% if not loop.first %}{{ '\\n\\n' }}{% endif %}"
        "{{ '### ' + message['role'] | capitalize + ':\\n' + message['content'] | trim }}"
        "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '\\n\\n### Assistant:\\n' }}{% endif %}"
    ),
}
