"""Conversations as tokens: the tokenizer's chat template, and which tokens are targets.

Where a response lies is found by rendering the conversation in steps: up to the prompt for the assistant, and up to the
end of what it says. Each rendering is the beginning of the whole, so their lengths are the bounds, whatever the template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from galore.trainer.data.conversation import Conversation, Message, read_conversation
from galore.trainer.data.quality import BadRow
from galore.trainer.data.tokenize import encoder
from galore.trainer.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DATE = "26 Jul 2024"  # what templates that name the day are told: tokens must not depend on when they were made

END_OF_THOUGHT = "</think>"

Span = tuple[int, int]
"""First character of a response, and the one after the token that ends it."""


class Example(NamedTuple):
    """One conversation; an id is a target where `targets` is true. The first never is: nothing predicts it."""

    ids: list[int]  # n
    targets: npt.NDArray[np.bool_]  # (n,)


class ChatEncoder:
    """Turns conversations into examples. `loss_on` is that of `recipe.schema.DataSection`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, loss_on: str) -> None:
        self._tokenizer: Any = tokenizer
        self._backend = _exact(encoder(tokenizer))
        self._responses_only = loss_on == "responses"
        self._added = tuple(str(token) for token in tokenizer.added_tokens_decoder.values())

    def encode(self, texts: Sequence[str], places: Sequence[str]) -> Iterator[Example | BadRow]:
        """The examples of conversations in JSON, in their order; a BadRow for one that the template refuses.

        Args:
            places: file and row of each, for messages.

        Raises:
            UserError: the template does not render a conversation piece by piece, so no response can be found in it.
        """
        rendered = [self._rendered(read_conversation(text), place) for text, place in zip(texts, places, strict=True)]
        whole = [item[0] for item in rendered if not isinstance(item, BadRow)]
        encodings = iter(self._backend.encode_batch(whole, add_special_tokens=False))
        for item in rendered:
            yield item if isinstance(item, BadRow) else self._example(next(encodings), item[1])

    def _rendered(self, conversation: Conversation, place: str) -> tuple[str, list[Span]] | BadRow:
        from jinja2 import TemplateError

        try:
            text = self._render(conversation)
            return text, list(self._spans(conversation, text, place)) if self._responses_only else [(0, len(text))]
        except TemplateError as error:
            return BadRow("refused", str(error))

    def _render(self, conversation: Conversation, prompt: bool = False) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=prompt, date_string=DATE
            )
        )

    def _spans(self, conversation: Conversation, text: str, place: str) -> Iterator[Span]:
        for index, message in enumerate(conversation):
            if message["role"] == "assistant":
                start = self._start(conversation[: index + 1], text)
                stop = None if start is None else self._stop(conversation[: index + 1], text, start)
                if start is None or stop is None:
                    raise _not_in_pieces(index, place)
                yield start, stop

    def _start(self, conversation: Conversation, text: str) -> int | None:
        """Where the last response begins: after the prompt for it, or what `text` has of this prompt.

        The prompts of some reasoning models open a thought that responses of the past do not show.
        """
        prompt = self._render(conversation[:-1], prompt=True)
        if text.startswith(prompt):
            return len(prompt)
        before = self._render(conversation[:-1])
        if not text.startswith(before):
            return None
        words = re.compile(rf"\s*{_any_of(_words(conversation[-1]))}")
        return next((at for at in range(_shared(prompt, text), len(before), -1) if words.match(text, at)), None)

    def _stop(self, conversation: Conversation, text: str, start: int) -> int | None:
        """Where the last response ends: after the token that ends a turn, or where the template ends it without one."""
        after = self._render(conversation)
        if text.startswith(after):
            return self._end_of_turn(text, start, len(after))
        # otherwise the last response of a conversation is written unlike those before it
        words, ends = (_any_of(choices) for choices in (_words(conversation[-1]), self._added))
        found = re.compile(rf"\s*{words}\s*{ends}").match(text, start)
        return found.end() if found else None

    def _end_of_turn(self, text: str, start: int, stop: int) -> int:
        """The end of the first added tokens in a row, of all that is added tokens and white space at the end."""
        found, end = stop, stop
        while True:
            trimmed = start + len(text[start:end].rstrip())
            token = next((token for token in self._added if text.endswith(token, start, trimmed)), None)
            if token is None:
                return found
            found = trimmed if trimmed < end or end == stop else found
            end = trimmed - len(token)

    def _example(self, encoding: Any, spans: list[Span]) -> Example | BadRow:
        starts = np.array(encoding.offsets, np.int64).reshape(-1, 2)[:, 0]
        targets = np.zeros(len(starts), np.bool_)
        for start, stop in spans:
            targets |= (starts >= start) & (starts < stop)
        targets[:1] = False
        return Example(encoding.ids, targets) if targets.any() else BadRow("no_response", "no token in it is a target")


def _words(message: Message) -> tuple[str, ...]:
    """How a template may write what is said: all of it, or without the thought before it."""
    said = message["content"].strip()
    spoken = said.rpartition(END_OF_THOUGHT)[2].strip()
    return (said, spoken) if spoken else (said,)


def _shared(one: str, two: str) -> int:
    """Characters at the beginning that are the same."""
    return next((at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


def _any_of(choices: Sequence[str]) -> str:
    """A regular expression."""
    return f"(?:{'|'.join(map(re.escape, choices))})"


def _exact(backend: Tokenizer) -> Tokenizer:
    """The same tokenizer without its post-processor, which would move the bounds of tokens away from white space."""
    state = json.loads(backend.to_str())
    state["post_processor"] = None
    return Tokenizer.from_str(json.dumps(state))


def _not_in_pieces(index: int, place: str) -> UserError:
    return UserError(
        f"the chat template does not render a conversation piece by piece: message {index + 1} cannot be found in the whole",
        where=place,
        fix="give the tokenizer a template that only ever appends (chat_template.jinja in its folder), or set data.loss_on: all",
    )
