"""Which chat template a run uses, and the one way it is rendered: for training, evaluation, samples and answers.

The recipe's, the tokenizer's own, or a plain one for tokenizers of models that were never made to chat; the run and its
export carry it along. Of the plain one the end of a response is the tokenizer's EOS:

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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateSyntaxError

from galore.trainer.common.errors import UserError
from galore.trainer.common.reading import read_bounded, user_path
from galore.trainer.data.text.conversation import Conversation
from galore.trainer.data.text.quality import BadRow
from galore.trainer.data.tokens.rehearsal import beyond_limits, environment
from galore.trainer.recipe.chattemplates import CHAT_TEMPLATES, ChatTemplate
from galore.trainer.recipe.schema.data import DataSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN = CHAT_TEMPLATES["plain"].text
BEGINNING = "{{ bos_token }}"
LARGEST_TEMPLATE = 1 << 20  # bytes of a file; the longest of a known model has 30,000
OWN_LETTERS, MOST_TIMES = 1 << 18, 16  # beside what a conversation says, and of that: many are held at a time

TODAY = datetime(2024, 7, 26)  # the day that Llama 3's template falls back to
CLOCK = "strftime_now"
STOPPED_CLOCK = "{% macro strftime_now(format) %}"
DIRECTIVE = re.compile(r"%[-#]?[A-Za-z]")

_rehearsed = set[str]()  # templates that kept to their limits once in this process


def chosen_template(section: DataSection, base_dir: Path) -> ChatTemplate | None:
    """What `data.chat_template` names, or the text of the file it names; None leaves it to the tokenizer.

    Raises:
        UserError: there is no such file, or it is no template.
    """
    name = section.chat_template
    if name is None or name in CHAT_TEMPLATES:
        return None if name is None else CHAT_TEMPLATES[name]
    path = base_dir / user_path(name)
    fix = f"name a file with a Jinja template, or one of {', '.join(CHAT_TEMPLATES)}"
    try:
        text = read_bounded(path, LARGEST_TEMPLATE).decode()
        environment().parse(text)
        return ChatTemplate(text)
    except TemplateSyntaxError as error:
        raise UserError(f"is no template: {error.message}", where=f"{path}:{error.lineno}", fix=fix) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"{path} cannot be read: {reason}", where="data.chat_template", fix=fix) from error


def ensure_template(tokenizer: PreTrainedTokenizerBase, chosen: ChatTemplate | None = None) -> None:
    """Give a tokenizer the template that is `chosen`, or the plain one where it has none; without its clock.

    A template of ours that names no BOS begins with it where texts of this tokenizer do.
    """
    given: Any = tokenizer.chat_template
    if chosen is not None or given is None:
        ours = chosen or CHAT_TEMPLATES["plain"]
        begins = ours in CHAT_TEMPLATES.values() and "bos_token" not in ours.text and _begins_with_bos(tokenizer)
        given = BEGINNING * begins + ours.text
    if isinstance(given, dict):
        given = {name: with_stopped_clock(template) for name, template in given.items()}
    else:
        given = with_stopped_clock(given)
    tokenizer.chat_template = given


def _begins_with_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    ids = list(tokenizer("a")["input_ids"])
    return tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id


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
        text = str(library.apply_chat_template(messages, chat_template=template, tokenize=False, **options))
    except ImportError:
        raise
    except Exception as error:  # a template is a program, and raises whatever its expressions raise
        kind = "" if type(error).__module__.startswith("jinja2") else f"{type(error).__name__}: "
        raise BadRow("refused", f"{kind}{str(error).partition(chr(10))[0]}") from error
    if len(text) > OWN_LETTERS and len(text) > OWN_LETTERS + MOST_TIMES * len(said := str(conversation)):
        raise BadRow("refused", f"it writes {len(text):,} letters for {len(said):,}")
    return text


def _rehearse(tokenizer: PreTrainedTokenizerBase, template: str, conversation: Conversation, prompt: bool) -> None:
    variables = dict(tokenizer.special_tokens_map) | conversation._asdict() | {"add_generation_prompt": prompt}
    if outcome := beyond_limits(template, variables):
        fix = "choose another one with data.chat_template"
        raise UserError(f"rendering one conversation {outcome}", where="the chat template", fix=fix)
    _rehearsed.add(template)
