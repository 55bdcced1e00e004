"""Conversations as tokens: the tokenizer's chat template, and which tokens are targets.

Where a response lies is found by rendering the conversation in steps: up to the prompt for the assistant, and up to the
end of what it says. Each rendering is the beginning of the whole, so their lengths are the bounds, whatever the
template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from galore.trainer.common.errors import UserError
from galore.trainer.data.text.conversation import Conversation, Message, read_conversation
from galore.trainer.data.text.quality import BadRow
from galore.trainer.data.text.words import end_of_words, first_words, is_written, shared_length
from galore.trainer.data.tokens.chattemplate import render, template_of
from galore.trainer.data.tokens.learned import learned, without_marks
from galore.trainer.data.tokens.tokenize import encoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # transformers gives each to templates that read another
NO_END = "no end of turn"
UNREAD = "unread: "
OF_TOKENS = "answers of added tokens"
"""Noted of conversations whose targets were others, or none, while such an answer was none."""

Span = tuple[int, int]
"""First character of a response, and the one after the token that ends it."""


class Example(NamedTuple):
    """One conversation; an id is a target where `targets` is true. The first never is: nothing predicts it."""

    ids: list[int]  # n
    targets: npt.NDArray[np.bool_]  # (n,)
    # What a reader of the run should know: NO_END, OF_TOKENS, or UNREAD and what the template left out.
    notes: tuple[str, ...] = ()
    extra: list[float] | None = None  # numbers for a second loss


class Rendered(NamedTuple):
    """A conversation as the template writes it."""

    text: str
    spans: dict[Span, bool]  # of all responses, or without those that cannot be found: whether it is a target
    silent: list[Span]  # words of others that are no target, although all are
    ended: bool  # a token of its own ends the last response, or somebody else has the last word
    notes: tuple[str, ...]


class ChatEncoder:
    """Turns conversations into examples. `loss_on` is that of `recipe.schema.DataSection`; see `learned`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, loss_on: str) -> None:
        self._tokenizer: Any = tokenizer
        self._backend = _exact(encoder(tokenizer))
        self._loss_on, self._all = loss_on, loss_on == "all"
        self._added = tuple(str(token) for token in tokenizer.added_tokens_decoder.values())
        self._token = re.compile(_any_of(self._added))
        self._ending = re.compile(rf"\s*{self._token.pattern}+")

    def encode(self, texts: Sequence[str], places: Sequence[str]) -> Iterator[Example | BadRow]:
        """The examples of conversations in JSON, in their order; a BadRow for one that the template refuses.

        Args:
            places: file and row of each, for messages.

        Raises:
            UserError: the template does not render a conversation piece by piece, so no response can be found in it.
        """
        rendered = [self._rendered(read_conversation(text), place) for text, place in zip(texts, places, strict=True)]
        whole = [item.text for item in rendered if not isinstance(item, BadRow)]
        encodings = iter(self._backend.encode_batch(whole, add_special_tokens=False))
        for item in rendered:
            yield item if isinstance(item, BadRow) else self._example(next(encodings), item)

    def prompt_ids(self, prompt: str) -> list[int]:
        """What stands before the answer to `prompt` in an example. Raises UserError if the template refuses it."""
        try:
            return self.asked_ids([{"role": "user", "content": prompt}])
        except BadRow as bad:
            raise UserError(f"cannot be asked: {bad}", where="prompt", fix="continue the text without --chat") from bad

    def asked_ids(self, messages: list[Message]) -> list[int]:
        """What stands before the answer to the last of `messages`. Raises BadRow if the template refuses them."""
        text = self._render(Conversation(messages), prompt=True)
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def _rendered(self, conversation: Conversation, place: str) -> Rendered | BadRow:
        conversation = self._in_known_roles(conversation)
        try:
            wanted = learned(conversation.messages, self._loss_on)
            conversation = conversation._replace(messages=without_marks(conversation.messages))
            text = self._render(conversation)
            spans = dict(self._spans(conversation, text, place, wanted))
            silent = list(self._silent(conversation, text, wanted)) if self._all else []
            last = next(reversed(spans), (0, len(text.rstrip())))
            ended = conversation.messages[-1]["role"] != "assistant" or self._has_end(conversation, text, last)
            notes = (
                *self._unread(conversation, text),
                *([OF_TOKENS] if self._of_tokens(text, list(spans), ended) else []),
            )
            return Rendered(text, spans, silent, ended, notes)
        except BadRow as bad:
            return bad.bare()

    def _in_known_roles(self, conversation: Conversation) -> Conversation:
        """A developer's word is a system prompt to all templates but those that know developers."""
        if "developer" in template_of(self._tokenizer, conversation.tools):
            return conversation
        return conversation._replace(
            messages=[
                message | {"role": "system"} if message["role"] == "developer" else message
                for message in conversation.messages
            ]
        )

    def _render(self, conversation: Conversation, prompt: bool = False) -> str:
        return render(self._tokenizer, conversation, prompt)

    def _spans(
        self, conversation: Conversation, text: str, place: str, wanted: Sequence[bool]
    ) -> Iterator[tuple[Span, bool]]:
        for index, message in enumerate(conversation.messages):
            if message["role"] == "assistant":
                so_far = conversation._replace(messages=conversation.messages[: index + 1])
                start = self._start(so_far, text)
                stop = None if start is None else self._stop(so_far, text, start)
                if start is not None and stop is not None:
                    if self._says_something(message, text, start, stop):
                        yield (start, stop), wanted[index]
                elif wanted[index] != self._all:
                    raise _not_in_pieces(index, place)

    def _silent(self, conversation: Conversation, text: str, wanted: Sequence[bool]) -> Iterator[Span]:
        """Where the words of messages stand that are nobody's response and no targets."""
        for index, message in enumerate(conversation.messages):
            if message["role"] != "assistant" and not wanted[index]:
                before = self._render(conversation._replace(messages=conversation.messages[:index])) if index else ""
                said = first_words(message, text, shared_length(before, text))
                if said is not None:
                    yield said

    def _says_something(self, message: Message, text: str, start: int, stop: int) -> bool:
        """Whether there is more than the end of a turn, as where the template leaves out the call that is all of it."""
        # what is said may be added tokens alone, as labels that are one token each
        said = message["content"].strip() and end_of_words(message, text, start) is not None
        return bool(said or self._token.sub("", text[start:stop]).strip())

    def _of_tokens(self, text: str, spans: Sequence[Span], ended: bool) -> bool:
        """Whether an answer is added tokens alone, or ends in one after which the template writes no end."""
        for number, (start, stop) in enumerate(spans, start=1):
            answer = text[start:stop]
            bare = answer.rstrip()
            no_end = bare != answer or (number == len(spans) and not ended)
            if not self._token.sub("", answer).strip() or (no_end and bare.endswith(self._added)):
                return True
        return False

    def _start(self, conversation: Conversation, text: str) -> int | None:
        """Where the last response begins: after the prompt for it, or what `text` has of this prompt.

        The prompts of some reasoning models open a thought that responses of the past do not show.
        """
        asked = conversation._replace(messages=conversation.messages[:-1])
        prompt = self._render(asked, prompt=True)
        if text.startswith(prompt):
            return len(prompt)
        before = self._render(asked)
        if not text.startswith(before):
            return None
        places = range(shared_length(prompt, text), len(before), -1)
        return next((at for at in places if end_of_words(conversation.messages[-1], text, at) is not None), None)

    def _stop(self, conversation: Conversation, text: str, start: int) -> int | None:
        """Where the last response ends: after the token that ends a turn, or where the template ends it without one."""
        message = conversation.messages[-1]
        said = end_of_words(message, text, start)
        after = self._render(conversation)
        if text.startswith(after):
            # after words alone a turn ends with what the template puts right behind them
            calls = "tool_calls" in message and "tool_calls" in template_of(self._tokenizer, conversation.tools)
            end = self._ending.match(text, said, len(after)) if said is not None and not calls else None
            return end.end() if end else self._end_of_turn(text, self._behind(message, text, start), len(after))
        # otherwise the last response of a conversation is written unlike those before it
        end = re.compile(rf"\s*{_any_of(self._added)}").match(text, said) if said is not None else None
        return end.end() if end else None

    def _end_of_turn(self, text: str, start: int, stop: int) -> int:
        """The end of the first added tokens in a row, of all that is added tokens and white space at the end."""
        found, end = stop, stop
        while True:
            trimmed = end
            while trimmed > start and text[trimmed - 1].isspace():
                trimmed -= 1
            token = next((token for token in self._added if text.endswith(token, start, trimmed)), None)
            if token is None:
                return found
            found = trimmed if trimmed < end or end == stop else found
            end = trimmed - len(token)

    def _has_end(self, conversation: Conversation, text: str, span: Span) -> bool:
        """Whether a token ends a response that is none of its words, or the template writes EOS somewhere after it."""
        start, stop = span
        behind = self._behind(conversation.messages[-1], text, start)
        return text.endswith(self._added, behind, stop) or str(self._tokenizer.eos_token) in text[stop:]

    def _behind(self, message: Message, text: str, start: int) -> int:
        """Where the end of a turn may stand: after the words that `text` has at `start`, before an EOS they bring."""
        said, end = end_of_words(message, text, start), str(self._tokenizer.eos_token)
        if said is None:
            return start
        return said - len(end) if text.endswith(end, start, said) else said

    def _unread(self, conversation: Conversation, text: str) -> Iterator[str]:
        """What the template does not write: keys without which it renders the same, tools, words of whole roles."""
        messages, template = conversation.messages, template_of(self._tokenizer, conversation.tools)
        for key in dict.fromkeys(key for message in messages for key in message if key not in ("role", "content")):
            names = THOUGHTS if key in THOUGHTS else (key,)
            without = [{name: value for name, value in message.items() if name != key} for message in messages]
            if not any(name in template for name in names) or self._same(conversation._replace(messages=without), text):
                yield f"{UNREAD}{key}"
        if conversation.tools and self._same(conversation._replace(tools=None), text):
            yield f"{UNREAD}tools"
        silent = {message["role"] for message in messages if not is_written(message, text)}
        yield from (f"{UNREAD}messages of role {role}" for role in sorted(silent))

    def _same(self, conversation: Conversation, text: str) -> bool:
        try:
            return self._render(conversation) == text
        except BadRow:
            return False

    def _example(self, encoding: Any, item: Rendered) -> Example | BadRow:
        borders = [start for start, _ in item.spans]
        ids, starts = list(encoding.ids), _starts(encoding)
        if _crossed(encoding, borders):
            ids, starts = self._in_parts(item.text, borders)
        targets = np.full(len(ids), self._all)
        for (start, stop), wanted in {**item.spans, **dict.fromkeys(item.silent, False)}.items():
            targets[(starts >= start) & (starts < stop)] = wanted
        if not targets[1:].any():
            return BadRow("no_response", "no token in it is a target")
        notes = item.notes
        if not item.ended:
            last = next(reversed(item.spans.values()), self._all)
            ids, targets, notes = [*ids, self._tokenizer.eos_token_id], np.append(targets, last), (*notes, NO_END)
        targets[:1] = False
        return Example(ids, targets, notes)

    def _in_parts(self, text: str, borders: list[int]) -> tuple[list[int], npt.NDArray[np.int64]]:
        """Ids, and the first character of each, of a text that is cut before every response.

        What a model is asked with ends there: a token of both sides would be one that no prompt can end in.
        """
        bounds = list(dict.fromkeys([0, *borders, len(text)]))
        parts = [text[start:stop] for start, stop in pairwise(bounds)]
        encodings = self._backend.encode_batch(parts, add_special_tokens=False)
        ids = [token for encoding in encodings for token in encoding.ids]
        return ids, np.concatenate([_starts(each) + start for each, start in zip(encodings, bounds, strict=False)])


def stop_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Where an answer ends: at EOS, and at the tokens that end a turn in examples, be it the last of them or not."""
    turns = [["user", "a"], ["assistant", "b"], ["user", "c"], ["assistant", "d"]]
    tokens = [tokenizer.eos_token_id]
    try:
        example = next(ChatEncoder(tokenizer, "responses").encode([json.dumps(turns)], ["a conversation of two turns"]))
    except UserError:  # a template that no training on responses can use
        example = BadRow("refused")
    if isinstance(example, Example):
        ends = np.flatnonzero(example.targets & ~np.append(example.targets[1:], False))
        tokens += [example.ids[end] for end in ends if example.ids[end] in tokenizer.added_tokens_decoder]
    return [token for token in dict.fromkeys(tokens) if token is not None]


def _any_of(choices: Sequence[str]) -> str:
    """A regular expression, which matches nothing where there is no choice."""
    longest_first = sorted(map(re.escape, choices), key=len, reverse=True)
    return f"(?:{'|'.join(longest_first)})" if longest_first else "(?!)"


def _starts(encoding: Any) -> npt.NDArray[np.int64]:
    return np.array(encoding.offsets, np.int64).reshape(-1, 2)[:, 0]


def _crossed(encoding: Any, borders: Sequence[int]) -> bool:
    """Whether a token has characters on both sides of a border."""
    spans = np.array(encoding.offsets, np.int64).reshape(-1, 2)
    return any(bool(((spans[:, 0] < border) & (border < spans[:, 1])).any()) for border in borders)


def _exact(backend: Tokenizer) -> Tokenizer:
    """The tokenizer without its post-processor, which would move the bounds of tokens away from white space."""
    state = json.loads(backend.to_str())
    state["post_processor"] = None
    return Tokenizer.from_str(json.dumps(state))


def _not_in_pieces(index: int, place: str) -> UserError:
    return UserError(
        f"the chat template does not render a conversation piece by piece: message {index + 1} cannot be found in the whole",
        where=place,
        fix="choose a template that only ever appends (data.chat_template), or set data.loss_on: all",
    )
