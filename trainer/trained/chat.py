"""A conversation with a trained model: what was said, and answers token by token in the chat template of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from transformers import TextStreamer

from galore.trainer.common.errors import UserError
from galore.trainer.common.format import counted
from galore.trainer.data.text.conversation import Message
from galore.trainer.data.text.quality import BadRow
from galore.trainer.data.tokens.chat import ChatEncoder, stop_tokens
from galore.trainer.models.capacity import positions_of
from galore.trainer.models.generate import continued, require_generator, settings_of
from galore.trainer.trained.runmodel import StoredModel


class AnswerStreamer(TextStreamer):  # type: ignore[misc]
    """Hands over what is spelled as soon as it is certain, and keeps all of it."""

    def __init__(self, tokenizer: Any, tell: Callable[[str], object]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._tell, self.said = tell, ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.said += text
        self._tell(text)


@dataclass
class Chat:
    """The messages so far, and how answers are drawn: as by `models.generate.sample`."""

    stored: StoredModel
    max_new_tokens: int = 512
    temperature: float = 0.7
    top_p: float = 0.95
    seed: int = 0
    system: str = ""
    messages: list[Message] = field(default_factory=list)
    # turns since the last reset, those that were forgotten too
    answered: int = 0

    def __post_init__(self) -> None:
        require_generator(self.stored.model)
        if self.stored.tokenizer.chat_template is None:
            fix = "continue text with `galore generate`, or give the tokenizer a template (chat_template.jinja in its folder)"
            raise UserError("has no chat template to talk in", where=self.stored.origin, fix=fix)
        self._encoder = ChatEncoder(self.stored.tokenizer, "responses")
        self._stops = stop_tokens(self.stored.tokenizer)

    def reset(self) -> None:
        """Forget what was said; the system prompt stays."""
        self.messages.clear()
        self.answered = 0

    def answer(self, text: str, tell: Callable[[str], object]) -> int:
        """Say `text`; the answer goes to `tell` piece by piece. Ctrl-C ends it, and what came of it is kept.

        Returns:
            How many of the oldest messages were forgotten because the model has no room for more.

        Raises:
            UserError: the template refuses the conversation, or it does not fit; it is then as it was before.
            KeyboardInterrupt: after what was said is kept.
        """
        turns = [*self.messages, {"role": "user", "content": text}]
        ids, room, forgotten = self._fitting(turns)
        streamer = AnswerStreamer(self.stored.tokenizer, tell)
        settings = settings_of(self.stored.tokenizer, room, self.temperature, self.top_p)
        settings.eos_token_id = self._stops
        try:
            continued(self.stored.model, ids, settings, self.seed + 2 * self.answered, streamer)
        except KeyboardInterrupt:
            self._keep(turns[forgotten:], streamer.said)
            raise
        self._keep(turns[forgotten:], streamer.said)
        return forgotten

    def _keep(self, turns: list[Message], said: str) -> None:
        self.messages = [*turns, {"role": "assistant", "content": said}]
        self.answered += 1

    def _fitting(self, turns: list[Message]) -> tuple[list[int], int, int]:
        """Ids of the conversation, tokens an answer may have, and how many of the first messages had to go for it."""
        positions = positions_of(self.stored.model.config)
        wanted = self.max_new_tokens if positions is None else min(self.max_new_tokens, max(positions // 2, 1))
        forgotten = 0
        while True:
            ids = self._ids(turns[forgotten:])
            if positions is None or len(ids) + wanted <= positions:
                return ids, wanted, forgotten
            if forgotten + 2 >= len(turns):
                break
            forgotten += 2
        if len(ids) >= positions:
            what = f"{counted(len(ids), 'token')} leave no room for an answer in the model's {positions:,} positions"
            raise UserError(what, where="message", fix="say it in fewer words")
        return ids, positions - len(ids), forgotten

    def _ids(self, turns: list[Message]) -> list[int]:
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        try:
            return self._encoder.asked_ids([*system, *turns])
        except BadRow as bad:
            fix = "take the system prompt back with an empty /system" if self.system else "say it otherwise"
            raise UserError(f"the chat template refuses the conversation: {bad}", where="message", fix=fix) from bad
