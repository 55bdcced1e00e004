"""Ollama's Modelfile of an exported model: its chat template in Ollama's words, stops, and parameters.

A chat template is a program of Jinja, Ollama's one of Go. What most templates write is: words before, between and after
the messages, which differ by role. These are found by rendering conversations, and taken only if conversations that are
put together from them are, letter by letter, what the template renders.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from galore.trainer.common.errors import UserError
from galore.trainer.data.text.conversation import Conversation
from galore.trainer.data.text.quality import BadRow
from galore.trainer.data.tokens.chat import stop_tokens
from galore.trainer.data.tokens.chattemplate import render
from galore.trainer.models.capacity import positions_of
from galore.trainer.models.retnet.code import brings_code

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NAME = "Modelfile"
PARAMETERS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}  # transformers' name → Ollama's
ROLES = {"s": "system", "u": "user", "a": "assistant"}
PROBES = ("u", "uau", "uauau", "su", "suau")  # conversations by the roles of their messages


@dataclass(frozen=True)
class Turns:
    """What a template writes around the messages.

    Args:
        first: before a user's words where nothing is written yet; `later`: before those that follow on others.
        system: before and after a system prompt; None where the template has none of its own.
        answer: before and after an answer; `prompt`: where the model goes on.
    """

    first: str
    later: str
    system: tuple[str, str] | None
    answer: tuple[str, str]
    prompt: str

    def write(self, roles: str, words: Sequence[str]) -> str:
        """The conversation of these roles up to the prompt, as Ollama will write it."""
        text, seen = "", False
        for role, word in zip(roles, words, strict=True):
            if role == "s" and self.system is None:
                continue
            before, after = self.later if seen else self.first, ""
            if role != "u":
                before, after = self.answer if role == "a" else self.system or ("", "")
            text, seen = text + before + word + after, True
        return text + self.prompt

    def template(self) -> str:
        """A template of Go, which adds no space of its own. What it does not write is not `$seen`."""
        user = f"{{{{ if $seen }}}}{_literal(self.later)}{{{{ else }}}}{_literal(self.first)}{{{{ end }}}}"
        turns = [] if self.system is None else [_turn("system", *map(_literal, self.system))]
        turns += [_turn("user", user, ""), _turn("assistant", *map(_literal, self.answer))]
        messages = f"{{{{ range .Messages }}}}{''.join(turns)}{{{{ end }}}}"
        return f"{{{{ $seen := false }}}}{messages}{_literal(self.prompt)}"


def _turn(role: str, before: str, after: str) -> str:
    written = f"{before}{{{{ .Content }}}}{after}"
    return f'{{{{ if eq .Role "{role}" }}}}{written}{{{{ $seen = true }}}}{{{{ end }}}}'


def modelfile(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The Modelfile, and a note on what it cannot say; "" if it says all."""
    if not model.can_generate():
        raise UserError("is a classifier, and Ollama runs none", where="--ollama", fix="export it without")
    if brings_code(model.config):
        raise UserError("is a RetNet, and Ollama runs none", where="--ollama", fix="export it without")
    lines, note, stops = ["FROM ."], "", list[int]()
    if tokenizer.chat_template is None:
        lines.append('TEMPLATE """{{ .Prompt }}"""')
    else:
        turns, note = turns_of(tokenizer)
        lines += [f'TEMPLATE """{turns.template()}"""'] if turns is not None else []
        stops = stop_tokens(tokenizer)
    lines += [f"PARAMETER stop {_quoted(str(tokenizer.decode([token])))}" for token in stops]
    generation: Any = model.generation_config
    known = {ours: getattr(generation, theirs, None) for theirs, ours in PARAMETERS.items()}
    lines += [
        f"PARAMETER {name} {value}" for name, value in known.items() if value is not None and generation.do_sample
    ]
    positions = positions_of(model.config)
    lines += [f"PARAMETER num_ctx {positions}"] if positions is not None else []
    return "\n".join(lines) + "\n", note


def turns_of(tokenizer: PreTrainedTokenizerBase) -> tuple[Turns | None, str]:
    """What the chat template writes around messages, None where Ollama cannot say it; and what is left out, or why."""
    try:
        found = _found(tokenizer)
    except (BadRow, ValueError) as error:
        return None, f"the chat template has no counterpart in Ollama ({error}): {NAME} has no TEMPLATE, write one"
    if '"""' in found.template():
        return None, f'the chat template writes """, which {NAME} cannot: it has no TEMPLATE, write one'
    left = (
        [f"what the chat template does with tools is not in {NAME}"] if "tool" in str(tokenizer.chat_template) else []
    )
    if not found.system:
        left.append("system prompts are left out: the template has no turn of their own for them")
    return found, ", and ".join(left)


def _found(tokenizer: PreTrainedTokenizerBase) -> Turns:
    """Raises ValueError or BadRow where the template writes otherwise than `Turns` can."""
    first, between, later, again, after = _split(tokenizer, "uaua", prompt=False)
    if between != again:
        raise ValueError("it writes the same turn in two ways")
    if not later.startswith(after):
        raise ValueError("it ends the last turn otherwise than those before")
    _, prompt = _split(tokenizer, "u")
    plain = Turns(first, later.removeprefix(after), None, (between, after), prompt)
    _require_same(tokenizer, plain, [probe for probe in PROBES if "s" not in probe])
    try:
        before, middle, _ = _split(tokenizer, "su")
        if not middle.endswith(plain.later):
            return plain
        system = before, middle.removesuffix(plain.later)
        whole = Turns(plain.first, plain.later, system, plain.answer, prompt)
        _require_same(tokenizer, whole, PROBES)
    except (BadRow, ValueError):
        return plain
    return whole


def _split(tokenizer: PreTrainedTokenizerBase, roles: str, prompt: bool = True) -> list[str]:
    """What stands before, between and after the words of the messages."""
    words = _words(roles)
    text, parts = _rendered(tokenizer, roles, prompt), list[str]()
    for word in words:
        part, found, text = text.partition(word)
        if not found:
            raise ValueError("it does not write every message")
        parts.append(part)
    return [*parts, text]


def _require_same(tokenizer: PreTrainedTokenizerBase, turns: Turns, probes: Sequence[str]) -> None:
    if any(turns.write(probe, _words(probe)) != _rendered(tokenizer, probe, True) for probe in probes):
        raise ValueError("what it writes of a turn depends on the others")


def _rendered(tokenizer: PreTrainedTokenizerBase, roles: str, prompt: bool) -> str:
    messages = [{"role": ROLES[role], "content": word} for role, word in zip(roles, _words(roles), strict=True)]
    text = render(tokenizer, Conversation(messages), prompt)
    return text.removeprefix(str(tokenizer.bos_token or "")) if _puts_bos(tokenizer) else text


def _puts_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether every text begins with BOS, in Ollama too: the template must not write it a second time.

    Where none does, BOS belongs to the template: SmolLM2's is the <|im_start|> of the first turn.
    """
    return tokenizer.bos_token_id is not None and tokenizer.bos_token_id in tokenizer("a")["input_ids"][:1]


def _words(roles: str) -> list[str]:
    return [f"words{index}of{role}" for index, role in enumerate(roles)]


def _literal(text: str) -> str:
    """Text as a template of Go writes it as it is."""
    return f"{{{{ {_quoted(text)} }}}}" if "{{" in text or "}}" in text else text


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
