from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from galore.trainer.common.errors import UserError
from galore.trainer.data.tokens.chattemplate import LARGEST_TEMPLATE, PLAIN
from galore.trainer.data.tokens.extend import add_tokens, extend
from galore.trainer.data.tokens.tokenizer import id_bound, tokenizer_digest, train_bpe
from galore.trainer.recipe.chattemplates import CHAT_TEMPLATES
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.parse.problems import RecipeError
from galore.trainer.recipe.schema.recipe import Recipe

HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def bare() -> Any:
    """A tokenizer without a template: 256 bytes and an end of text."""
    return PreTrainedTokenizerFast(tokenizer_object=train_bpe(iter(["ab"]), 257), eos_token="<|endoftext|>")


def recipe(**settings: Any) -> Recipe:
    data = {"path": "x.jsonl", "messages_field": "messages"} | settings
    model = {"new_tokens": data.pop("new_tokens", [])}
    return Recipe.model_validate({"data": data, "model": model, "train": {"max_steps": 1}})


@pytest.mark.parametrize("name", CHAT_TEMPLATES)
def test_a_named_template_is_what_the_saved_tokenizer_renders(bare: Any, name: str, tmp_path: Path) -> None:
    extend(bare, recipe(chat_template=name), tmp_path)
    bare.save_pretrained(tmp_path)
    loaded: Any = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.chat_template == CHAT_TEMPLATES[name].text
    said = loaded.apply_chat_template(HI, tokenize=False, add_generation_prompt=True)
    assert said == bare.apply_chat_template(HI, tokenize=False, add_generation_prompt=True)
    assert "Hi" in said


def test_a_named_template_begins_with_bos_where_texts_of_the_tokenizer_do(bare: Any) -> None:
    from tokenizers import processors

    bare.bos_token = "<s>"
    bare.add_tokens(["<s>"], special_tokens=True)
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bare.bos_token_id)]
    )
    extend(bare, recipe(chat_template="zephyr"), Path())
    assert bare.apply_chat_template(HI, tokenize=False) == "<s><|user|>\nHi<|endoftext|>\n"
    extend(bare, recipe(chat_template="llama3"), Path())
    assert bare.apply_chat_template(HI, tokenize=False).count("<s>") == 1


def test_a_template_in_a_file_is_relative_to_the_recipe_and_as_it_is(bare: Any, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    (tmp_path / "mine.jinja").write_text(template)
    (tmp_path / "recipe.yaml").write_text(
        "data: {path: x.jsonl, messages_field: messages, chat_template: mine.jinja}\ntrain: {max_steps: 1}\n"
    )
    loaded = load_recipe(str(tmp_path / "recipe.yaml"))
    assert loaded.recipe.data.chat_template == str(tmp_path / "mine.jinja")
    extend(bare, loaded.recipe, Path("/nowhere"))
    assert bare.chat_template == template


def test_without_a_choice_the_tokenizers_own_stays(bare: Any) -> None:
    bare.chat_template = "{{ 'own' }}"
    extend(bare, recipe(), Path())
    assert bare.chat_template == "{{ 'own' }}"
    bare.chat_template = None
    extend(bare, recipe(), Path())
    assert bare.chat_template == PLAIN


@pytest.mark.parametrize("content", [None, b"\xff", b"x" * (LARGEST_TEMPLATE + 1)])
def test_a_file_that_is_no_template_is_one_message(bare: Any, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "mine.jinja").write_bytes(content)
    with pytest.raises(UserError, match=r"mine\.jinja cannot be read: ") as caught:
        extend(bare, recipe(chat_template="mine.jinja"), tmp_path)
    assert caught.value.where == "data.chat_template"
    assert "chatml" in caught.value.fix


def test_a_template_that_cannot_be_read_as_one_is_told_with_its_line(bare: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("{% for m in messages %}\n{{ m.content \n")
    with pytest.raises(UserError, match="is no template: ") as caught:
        extend(bare, recipe(chat_template="mine.jinja"), tmp_path)
    assert str(caught.value.where).endswith("mine.jinja:2")
    (tmp_path / "mine.jinja").write_text(
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    )
    extend(bare, recipe(chat_template="mine.jinja"), tmp_path)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"chat_template": "chatm"}, "neither a file"),
        ({"chat_template": "chatml", "messages_field": None}, "writes conversations"),
        ({"new_tokens": ["<a>", "<a>"]}, "twice"),
        ({"new_tokens": [" "]}, "is white space"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_recipe(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        recipe(**settings)


def test_a_template_named_on_the_command_line_is_checked(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="neither a file"):
        load_recipe("finetune-chat", ["data.path=x.jsonl", "data.chat_template=llama9"])


def test_tokens_that_the_tokenizer_cuts_are_told_and_added_by_the_setting_that_is_named(bare: Any) -> None:
    told: list[str] = []
    before = tokenizer_digest(bare)
    assert extend(bare, recipe(chat_template="chatml"), Path(), told.append) == {}
    assert told == [
        "data.chat_template: chatml writes <|im_start|> and <|im_end|>, which this tokenizer cuts into several tokens each; "
        'model.new_tokens=\'["<|im_start|>","<|im_end|>"]\' makes each one'
    ]
    tokens = ["<|im_start|>", "<|im_end|>"]
    assert extend(bare, recipe(chat_template="chatml", new_tokens=tokens), Path(), told.append) == dict(
        zip(tokens, (257, 258), strict=True)
    )
    assert len(told) == 1
    assert bare("a<|im_end|>", add_special_tokens=False)["input_ids"][1:] == [258]
    assert bare.decode([258], skip_special_tokens=True) == ""
    assert tokenizer_digest(bare) != before


def test_a_token_that_no_template_writes_is_a_word(bare: Any) -> None:
    assert add_tokens(bare, ["naphthol"]) == {"naphthol": 257}
    assert bare.decode(bare("a naphthol b")["input_ids"], skip_special_tokens=True) == "a naphthol b"


def test_tokens_that_are_there_are_not_added_again(chat_tokenizer: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(chat_tokenizer)
    rows = id_bound(tokenizer)
    assert add_tokens(tokenizer, ["<|im_end|>", "a"]) == {}
    assert id_bound(tokenizer) == rows


def test_a_vocabulary_with_gaps_takes_none() -> None:
    from tokenizers import Tokenizer, models

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 3}, "a")))
    with pytest.raises(UserError, match="taken for another"):
        add_tokens(tokenizer, ["<x>", "<y>"])


def test_a_model_of_given_rows_has_to_have_room_for_them(bare: Any) -> None:
    full = Recipe.model_validate(
        {"data": {"source": "packaged"}, "model": {"vocab_size": 257, "new_tokens": ["<a>"]}, "train": {"max_steps": 1}}
    )
    with pytest.raises(UserError, match="is 257, but the tokenizer has 258 tokens"):
        extend(bare, full, Path())
