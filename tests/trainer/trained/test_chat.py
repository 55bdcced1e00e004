"""A conversation: what is asked of the model, what of it is kept, and what happens where there is no more room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from galore.trainer.common.errors import UserError
from galore.trainer.models.decoder import build_decoder
from galore.trainer.recipe.schema.model import ModelSection
from galore.trainer.trained import chat as chats
from galore.trainer.trained.chat import Chat
from galore.trainer.trained.runmodel import StoredModel

VOCABULARY = [*(f"w{i}" for i in range(24)), "<u>", "<a>", "<s>", "<end>"]
TEMPLATE = (
    "{% for m in messages %}{{ {'user': '<u>', 'assistant': '<a>', 'system': '<s>'}[m['role']] + ' ' + m['content'] + ' ' }}"
    "{% if m['role'] == 'assistant' %}{{ '<end> ' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<a>' }}{% endif %}"
)


def _tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    made.chat_template = template
    return made


def _stored(positions: int = 64, template: str | None = TEMPLATE) -> StoredModel:
    """A model that says w1 w2 w3 whatever it is asked."""
    section = ModelSection(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=positions, dtype="float32",
    )  # fmt: skip
    model: Any = build_decoder(section, len(VOCABULARY), device="cpu", seed=0, max_length=16, base_dir=Path.cwd())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        nn.init.eye_(model.model.embed_tokens.weight)
        nn.init.ones_(model.model.norm.weight)
        for word, following in (("<a>", "w1"), ("w1", "w2"), ("w2", "w3"), ("w3", "<end>")):
            model.lm_head.weight[VOCABULARY.index(following), VOCABULARY.index(word)] = 10.0
    return StoredModel(model, _tokenizer(template), "here")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the model was given, in words."""
    given, true = list[str](), chats.continued

    def continued(model: Any, ids: list[int], *rest: Any) -> list[int]:
        given.append(" ".join(VOCABULARY[token] for token in ids))
        return true(model, ids, *rest)

    monkeypatch.setattr(chats, "continued", continued)
    return given


def test_turns_follow_each_other_in_the_template_and_words_come_one_by_one(asked: list[str]) -> None:
    talk, pieces = Chat(_stored(), temperature=0.0, system="w9"), list[str]()
    assert talk.answer("w5", pieces.append) == 0
    talk.answer("w6", pieces.append)
    assert "".join(pieces[: len(pieces) // 2]).strip() == "w1 w2 w3"
    assert len([piece for piece in pieces if piece.strip()]) == 6
    assert asked == ["<s> w9 <u> w5 <a>", "<s> w9 <u> w5 <a> w1 w2 w3 <end> <u> w6 <a>"]
    talk.reset()
    talk.answer("w7", pieces.append)
    assert asked[-1] == "<s> w9 <u> w7 <a>"


def test_the_oldest_turns_go_where_there_is_no_room(asked: list[str]) -> None:
    talk = Chat(_stored(positions=24), temperature=0.0)
    assert [talk.answer(word, str) for word in ("w5", "w6", "w7")] == [0, 0, 2]
    assert asked[-1] == "<u> w6 <a> w1 w2 w3 <end> <u> w7 <a>"
    assert [each["content"] for each in talk.messages] == ["w6", "w1 w2 w3", "w7", "w1 w2 w3"]
    before = list(talk.messages)
    with pytest.raises(UserError, match=r"32 tokens leave no room for an answer in the model's 24 positions"):
        talk.answer("w5 " * 30, str)
    assert talk.messages == before
    talk.answer("w5 " * 20, str)
    assert talk.messages[-1]["content"] == "w1 w2"  # what there was room for


def test_every_answer_has_a_seed_of_its_own_whatever_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds, true = list[int](), chats.continued

    def continued(model: Any, ids: list[int], settings: Any, seed: int, *rest: Any) -> list[int]:
        seeds.append(seed)
        return true(model, ids, settings, seed, *rest)

    monkeypatch.setattr(chats, "continued", continued)
    talk = Chat(_stored(positions=24), seed=7)
    for _ in range(5):
        talk.answer("w5", str)
    with pytest.raises(UserError, match="leave no room"):
        talk.answer("w5 " * 30, str)
    talk.answer("w5", str)
    talk.reset()
    talk.answer("w5", str)
    assert seeds == [7, 9, 11, 13, 15, 17, 7]


def test_an_answer_that_is_stopped_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    talk, said = Chat(_stored(), temperature=0.0), list[str]()

    def stop(piece: str) -> None:
        said.append(piece)
        if "w2" in "".join(said):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        talk.answer("w5", stop)
    assert talk.messages[-1] == {"role": "assistant", "content": "".join(said)}
    assert "".join(said).strip() == "w1 w2"
    assert talk.stored.model.generation_config.max_new_tokens is None


def test_what_a_template_refuses_leaves_the_conversation_as_it_was() -> None:
    talk = Chat(
        _stored(template="{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + TEMPLATE)
    )
    talk.system = "w9"
    with pytest.raises(UserError, match=r"the chat template refuses the conversation.*\n.*empty /system"):
        talk.answer("w5", str)
    assert not talk.messages


def test_a_model_without_a_template_cannot_be_talked_to() -> None:
    with pytest.raises(UserError, match=r"here: has no chat template.*\n.*galore generate"):
        Chat(_stored(template=None))
