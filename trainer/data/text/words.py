"""The words of a message in a text that a chat template wrote: whether and where they stand there.

An answer may be a whole book: every search here takes time in proportion to the text.
"""

from __future__ import annotations

import json
import re

from galore.trainer.data.text.conversation import Message

END_OF_THOUGHT = "</think>"
SPACE = re.compile(r"\s*")


def end_of_words(message: Message, text: str, at: int) -> int | None:
    """Where the words of a message end that `text` has at `at`, be it after white space; None where it has others."""
    space = SPACE.match(text, at)
    start = space.end() if space else at
    return next((start + len(words) for words in _words(message) if text.startswith(words, start)), None)


def first_words(message: Message, text: str, at: int) -> tuple[int, int] | None:
    """The first place from `at` on where `text` has the words of a message: all of them, if it has them there."""
    places = [(start, start + len(words)) for words in _words(message) if (start := text.find(words, at)) >= 0]
    return min(places, key=lambda place: (place[0], -place[1]), default=None)


def is_written(message: Message, text: str) -> bool:
    """Whether a rendering has the words of a message, as they are or in JSON."""
    words = _words(message)
    return any(each in text for each in words) or any(
        json.dumps(each, ensure_ascii=ascii_only)[1:-1] in text for each in words for ascii_only in (False, True)
    )


def shared_length(one: str, two: str) -> int:
    """Characters at the beginning that are the same."""
    return next((at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


def _words(message: Message) -> tuple[str, ...]:
    """How a template may write what is said: all of it, or without the thought before it."""
    said = message["content"].strip()
    spoken = said.rpartition(END_OF_THOUGHT)[2].strip()
    return (said, spoken) if spoken else (said,)
