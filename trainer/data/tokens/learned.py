"""Which messages of a conversation are to be learned: as `data.loss_on` says, and none that says it is not.

A message says so by `train: false` or, as OpenAI's fine-tuning has it, by `weight: 0`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from galore.trainer.data.text.conversation import Message
from galore.trainer.data.text.quality import BadRow

MARKS: dict[str, tuple[Any, ...]] = {"train": (False, True), "weight": (0, 1)}
"""Keys of a message that no template is shown, and their values: not to be learned, and to be learned."""


def learned(messages: Sequence[Message], loss_on: str) -> list[bool]:
    """Whether the words of each message are targets. Raises BadRow for a mark that has another value."""
    spoken = [message["role"] == "assistant" for message in messages]
    last = max((index for index, is_answer in enumerate(spoken) if is_answer), default=-1)
    wanted = {"all": [True] * len(spoken), "last": [index == last for index in range(len(spoken))]}
    return [
        asked and all(_mark(message, key, index) for key in MARKS)
        for index, (message, asked) in enumerate(zip(messages, wanted.get(loss_on, spoken), strict=True))
    ]


def without_marks(messages: Sequence[Message]) -> list[Message]:
    """The messages as a template gets them."""
    return [{key: value for key, value in message.items() if key not in MARKS} for message in messages]


def _mark(message: Message, key: str, index: int) -> bool:
    value = message.get(key, True)
    if value not in MARKS[key]:
        raise BadRow("wrong_type", f"message {index + 1} has {key}: {value!r}, which is neither of {MARKS[key]}")
    return bool(value)
