from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from galore.trainer.data.batch import silent
from galore.trainer.data.text.quality import BadRows
from galore.trainer.data.tokens import material, tokenize
from galore.trainer.data.tokens.material import Material
from galore.trainer.recipe.schema.data import DataSection

Write = Callable[..., Path]


def material_of(path: Path, **section: object) -> Material:
    made = DataSection.model_validate({"path": path.name} | section)
    return Material.of(made, path.parent, path.parent / "cache", silent)


def test_a_small_corpus_trains_the_tokenizer_whole(write_jsonl: Write, documents: list[str]) -> None:
    found = material_of(write_jsonl(documents), validation_fraction=0.2)
    train = [text.text for side, text in found.documents(BadRows("skip"), found.holdout()) if side == "train"]
    assert list(found.training_texts(silent)) == train
    assert 140 < len(train) < 180


@pytest.mark.parametrize("joined", [False, True])
def test_of_a_large_corpus_a_share_is_sampled(
    write_jsonl: Write, documents: list[str], joined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenize, "PIECE_CHARS", 250)
    path = write_jsonl([" ".join(documents)] if joined else documents)
    monkeypatch.setattr(material, "TOKENIZER_TRAINING_BYTES", path.stat().st_size // 4)
    sample = sum(map(len, material_of(path, validation_fraction=0).training_texts(silent)))
    assert 0.1 < sample / sum(map(len, documents)) < 0.4


@pytest.mark.parametrize(
    "change",
    [{"text_field": "body"}, {"validation_fraction": 0.5}, {"on_bad_rows": "error"}, {"max_document_bytes": 9}],
)
def test_identity_sees_what_matters(write_jsonl: Write, documents: list[str], change: dict[str, object]) -> None:
    path = write_jsonl(documents)
    assert material_of(path, **change).identity != material_of(path).identity
    assert material_of(path, max_length=7, shuffle=False).identity == material_of(path).identity


def test_progress_ends_at_the_whole(write_jsonl: Write, documents: list[str]) -> None:
    path = write_jsonl(documents)
    write_jsonl(documents[:3], "held.jsonl")
    found = material_of(path, validation_path="held.jsonl")
    consumed = [document.consumed for _, document in found.documents(BadRows("skip"), found.holdout())]
    assert consumed == sorted(consumed)
    assert consumed[-1] == found.total_bytes
