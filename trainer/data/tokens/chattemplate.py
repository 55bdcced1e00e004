"""Which chat template a run uses, and the one way it is rendered: for training, evaluation, samples and answers.

The tokenizer's own template, or a plain one, for tokenizers of models that were never made to chat, which the run and
its export then carry along; the end of a response is the tokenizer's EOS:

    ### User:
    What is the capital of France?

    ### Assistant:
    Paris.</s>

A template that asks what day it is gets the same answer always, as text of its own: tokens must not depend on when they
were made, and whoever loads the export renders what was trained on.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

from galore.trainer.common.errors import UserError
from galore.trainer.data.text.conversation import Conversation
from galore.trainer.data.text.quality import BadRow
from galore.trainer.data.tokens.rehearsal import beyond_limits

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

TODAY = datetime(2024, 7, 26)  # the day that Llama 3's template falls back to
CLOCK = "strftime_now"
STOPPED_CLOCK = "{% macro strftime_now(format) %}"
DIRECTIVE = re.compile(r"%[-#]?[A-Za-z]")

_rehearsed = set[str]()  # templates that kept to their limits once in this process


def ensure_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a tokenizer without a chat template the plain one, which begins with BOS where texts of this tokenizer do;
    and stop the clock of one that has its own."""
    given: Any = tokenizer.chat_template
    if given is None:
        ids = list(tokenizer("a")["input_ids"])
        begins = tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
        tokenizer.chat_template = BEGINNING * begins + PLAIN
    elif isinstance(given, dict):
        named: Any = {name: with_stopped_clock(template) for name, template in given.items()}
        tokenizer.chat_template = named
    else:
        tokenizer.chat_template = with_stopped_clock(given)


def with_stopped_clock(template: str) -> str:
    """The template with a `strftime_now` of its own, which knows one day."""
    if CLOCK not in template or template.startswith(STOPPED_CLOCK):
        return template
    steps = (f" | replace({each!r}, {TODAY.strftime(each)!r})" for each in dict.fromkeys(DIRECTIVE.findall(template)))
    # the environment of chat templates drops the new line after a block
    return f"{STOPPED_CLOCK}{{{{ format{''.join(steps)} }}}}{{% endmacro %}}\n{template}"


def template_of(tokenizer: PreTrainedTokenizerBase, tools: Any = None) -> str:
    """The template that is rendered. Raises UserError if there are several and none is the default."""
    try:
        return with_stopped_clock(str(tokenizer.get_chat_template(tools=tools)))
    except ValueError as error:
        fix = "keep one chat_template in its tokenizer_config.json, or chat_template.jinja"
        raise UserError(
            f"the tokenizer has no default chat template ({error})", where="chat_template", fix=fix
        ) from error


def render(tokenizer: PreTrainedTokenizerBase, conversation: Conversation, prompt: bool = False) -> str:
    """A conversation as the template writes it, with `prompt` up to where the assistant begins to speak.

    Raises:
        BadRow: the template refuses it, or fails on it.
        UserError: the template takes more time or memory than any honest one.
    """
    template, messages = template_of(tokenizer, conversation.tools), conversation.messages
    if template not in _rehearsed:
        _rehearse(tokenizer, template, conversation, prompt)
    library: Any = tokenizer
    options = {"tools": conversation.tools, "add_generation_prompt": prompt}
    try:
        return str(library.apply_chat_template(messages, chat_template=template, tokenize=False, **options))
    except ImportError:
        raise
    except Exception as error:  # a template is a program, and raises whatever its expressions raise
        kind = "" if type(error).__module__.startswith("jinja2") else f"{type(error).__name__}: "
        raise BadRow("refused", f"{kind}{str(error).partition(chr(10))[0]}") from error


def _rehearse(tokenizer: PreTrainedTokenizerBase, template: str, conversation: Conversation, prompt: bool) -> None:
    variables = dict(tokenizer.special_tokens_map) | conversation._asdict() | {"add_generation_prompt": prompt}
    if outcome := beyond_limits(template, variables):
        fix = "give the tokenizer another one (chat_template.jinja in its folder)"
        raise UserError(f"rendering one conversation {outcome}", where="the chat template", fix=fix)
    _rehearsed.add(template)
