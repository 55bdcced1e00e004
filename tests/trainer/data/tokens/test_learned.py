from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from galore.trainer.common.errors import UserError
from galore.trainer.data.text.quality import BadRow
from galore.trainer.data.tokens.chat import ChatEncoder, Example
from galore.trainer.data.tokens.learned import learned
from galore.trainer.recipe.load import load_recipe

TWO: list[list[Any]] = [["user", "a"], ["assistant", "b"], ["user", "d"], ["assistant", "e"]]


def example_of(folder: Path, turns: list[list[Any]], loss_on: str, template: str | None = None) -> Example | BadRow:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template or tokenizer.chat_template
    return next(ChatEncoder(tokenizer, loss_on).encode([json.dumps(turns)], ["chat.jsonl:7"]))


def targets(folder: Path, turns: list[list[Any]], loss_on: str) -> str:
    """What is learned, as text; a middle dot stands for what is not."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    example = example_of(folder, turns, loss_on)
    assert isinstance(example, Example)
    parts = zip(example.ids, example.targets.tolist(), strict=True)
    return "".join(tokenizer.decode([token]) if target else "·" for token, target in parts).strip("·")


def marked(at: int, **mark: Any) -> list[list[Any]]:
    return [[*turn, mark] if index == at else turn for index, turn in enumerate(TWO)]


def test_the_last_answer_only(chat_tokenizer: Path) -> None:
    assert targets(chat_tokenizer, TWO, "last") == "e<|im_end|>"
    assert targets(chat_tokenizer, [*TWO, ["user", "f"]], "last") == "e<|im_end|>"


@pytest.mark.parametrize("mark", [{"train": False}, {"weight": 0}, {"weight": 0.0, "train": True}])
def test_a_message_that_is_not_to_be_learned_is_no_target(chat_tokenizer: Path, mark: dict[str, Any]) -> None:
    assert targets(chat_tokenizer, marked(1, **mark), "responses") == "e<|im_end|>"
    assert targets(chat_tokenizer, marked(3, **mark), "responses") == "b<|im_end|>"
    assert "b<|" not in targets(chat_tokenizer, marked(1, **mark), "all")
    assert "\nd<|" not in targets(chat_tokenizer, marked(2, **mark), "all")
    assert "\n·<|" in targets(chat_tokenizer, marked(2, **mark), "all")
    for loss_on in ("responses", "last"):
        alone = example_of(chat_tokenizer, marked(1, **mark)[:2], loss_on)
        assert isinstance(alone, BadRow)
        assert alone.kind == "no_response"


def test_marks_are_no_words_of_the_conversation(chat_tokenizer: Path) -> None:
    """A template that writes whatever a message holds is not shown them, and nothing is noted of them."""
    template = "{% for m in messages %}{{ m | tojson + eos_token }}{% endfor %}"
    said = [example_of(chat_tokenizer, turns, "all", template) for turns in (TWO, marked(1, train=True, weight=1))]
    assert isinstance(said[0], Example)
    assert isinstance(said[1], Example)
    assert said[0].ids == said[1].ids
    assert example_of(chat_tokenizer, marked(1, weight=0), "responses").notes == ()  # type: ignore[union-attr]


def test_no_end_is_learned_of_an_answer_that_is_not(chat_tokenizer: Path) -> None:
    """EOS is put after an answer that the template does not end."""
    template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    both = [example_of(chat_tokenizer, turns, "responses", template) for turns in (TWO, marked(3, weight=0))]
    assert isinstance(both[0], Example)
    assert isinstance(both[1], Example)
    assert both[0].ids == both[1].ids
    assert both[0].targets[-1]
    assert not both[1].targets[-1]


@pytest.mark.parametrize("mark", [{"weight": 0.5}, {"train": "no"}, {"train": [0]}])
def test_a_mark_of_another_value_makes_a_bad_row(chat_tokenizer: Path, mark: dict[str, Any]) -> None:
    row = example_of(chat_tokenizer, marked(1, **mark), "responses")
    assert isinstance(row, BadRow)
    assert "message 2 has" in str(row)


def test_of_the_last_answer_alone_only_this_one_has_to_be_found(chat_tokenizer: Path) -> None:
    """A template that shortens earlier answers is refused for them, and can be used for the last one."""
    template = (
        "{% for m in messages %}{{ m.role + '\n' + (m.content if m.role == 'user' or loop.last else '…') + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant\n' }}{% endif %}"
    )
    with pytest.raises(UserError, match="message 2 cannot be found"):
        example_of(chat_tokenizer, TWO, "responses", template)
    last = example_of(chat_tokenizer, TWO, "last", template)
    assert isinstance(last, Example)
    assert last.targets.sum() == 2


def test_learned_counts_every_answer_or_the_last_one() -> None:
    messages = [{"role": role, "content": "x"} for role in ("user", "assistant", "tool", "assistant", "user")]
    assert learned(messages, "responses") == [False, True, False, True, False]
    assert learned(messages, "last") == [False, False, False, True, False]
    assert learned(messages, "all") == [True] * 5


def test_response_is_another_spelling() -> None:
    override = ["data.prompt_field=a", "data.response_field=b", "data.path=x.jsonl"]
    recipes = [
        load_recipe("finetune-instruct", [*override, f"data.loss_on={each}"]) for each in ("response", "responses")
    ]
    assert recipes[0].recipe == recipes[1].recipe
