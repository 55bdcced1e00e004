"""Small corpora, recipes over them, and the cache they share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from galore.trainer.recipe.schema.recipe import Recipe

MakeRecipe = Callable[..., Recipe]
WORDS = [
    "the",
    "river",
    "ran",
    "down",
    "past",
    "a",
    "grey",
    "stone",
    "mill",
    "where",
    "nobody",
    "had",
    "lived",
    "since",
]


def sentence(number: int, words: int = 40) -> str:
    """Text that is different for every number."""
    return f"document {number}: " + " ".join(WORDS[(number * 7 + i * i) % len(WORDS)] for i in range(words))


@pytest.fixture
def documents() -> list[str]:
    return [sentence(number) for number in range(200)]


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    def write(texts: list[str], name: str = "train.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return path

    return write


@pytest.fixture
def recipe(tmp_path: Path) -> MakeRecipe:
    def make(train: dict[str, Any] | None = None, evaluation: dict[str, Any] | None = None, **data: Any) -> Recipe:
        defaults = {
            "path": "train.jsonl",
            "max_length": 32,
            "tokenizer_vocab_size": 300,
            "validation_fraction": 0.1,
            "cache_dir": str(tmp_path / "cache"),
        }
        sections = {
            "data": defaults | data,
            "train": {"max_steps": 10, "global_batch_size": 8, "micro_batch_size": 1, "seed": 1} | (train or {}),
            "eval": evaluation or {},
        }
        return Recipe.model_validate(sections)

    return make


@pytest.fixture
def begins_with_bos(tmp_path: Path, documents: list[str]) -> str:
    """The folder of a tokenizer that puts <s> before a text and nothing after it, as LLaMA's does."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    from galore.trainer.data.tokens.tokenizer import END_OF_TEXT, train_bpe

    backend = train_bpe(iter(documents), 300)
    backend.add_special_tokens(["<s>"])
    special = [("<s>", backend.token_to_id("<s>"))]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=special)
    names = {"bos_token": "<s>", "eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(tmp_path / "begins")
    return str(tmp_path / "begins")
