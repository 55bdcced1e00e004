"""Sources mixed by weight, from files to batches, losses and back after a break."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from galore.trainer.common.errors import UserError
from galore.trainer.data.batch import Scoring
from galore.trainer.data.prepare import prepare_data
from galore.trainer.data.rows.mixed import MixedData
from galore.trainer.data.rows.mixture import MixedRows
from galore.trainer.data.score import EvalResult, evaluate, together
from galore.trainer.recipe.schema.recipe import Recipe

MakeRecipe = Callable[..., Recipe]
CHAT = [
    {"messages": [{"role": "user", "content": f"Count to {n}"}, {"role": "assistant", "content": "1 " * (1 + n % 6)}]}
    for n in range(1, 60)
]
SOURCES = [
    {"path": "books.jsonl", "weight": 3},
    {"path": "table.csv", "name": "table", "weight": 1.5, "text_field": "body"},
    {"path": "chat.jsonl", "weight": 0.5, "messages_field": "messages", "validation_fraction": 0.3},
]

TO_READ = {"max_length": 80}


@pytest.fixture
def folder(tmp_path: Path, write_jsonl: Callable[..., Path], documents: list[str]) -> Path:
    write_jsonl(documents, "books.jsonl")
    rows = "".join(f'{n},"a table of {n}, and {n * n} more of it"\n' for n in range(200))
    (tmp_path / "table.csv").write_text(f"id,body\n{rows}")
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHAT))
    return tmp_path


@pytest.fixture
def mixed(folder: Path, recipe: MakeRecipe, chat_tokenizer: Path) -> Callable[..., MixedData]:
    def make(sources: list[dict[str, Any]] = SOURCES, **data: Any) -> MixedData:
        found = prepare_data(
            recipe(path=None, sources=sources, **TO_READ, tokenizer=str(chat_tokenizer), **data), folder
        )
        assert isinstance(found, MixedData)
        return found

    return make


def test_every_source_has_its_share_of_every_ten_rows(mixed: Callable[..., MixedData]) -> None:
    data, bounds = mixed(), []
    assert data.shares == (6, 3, 1)
    bounds = np.cumsum([len(each.train) for each in data.sources.values()])
    rows = [number for step in range(25) for number in data.global_batch(step).sequence_ids]
    for start in range(0, 200, 10):
        owners = Counter(int(np.searchsorted(bounds, row, side="right")) for row in rows[start : start + 10])
        assert owners == {0: 6, 1: 3, 2: 1}
    assert list(data.summary["sources"]) == ["books", "table", "chat"]
    assert any(note.startswith("table: 30.0% of the training sequences") for note in data.notes)
    json.dumps(data.summary)


def test_a_source_is_read_as_it_is_alone_and_the_rest_of_the_section_holds_for_it(
    mixed: Callable[..., MixedData], folder: Path, recipe: MakeRecipe, chat_tokenizer: Path
) -> None:
    data = mixed()
    more = {"tokenizer": str(chat_tokenizer), "cache_dir": str(folder / "other"), **TO_READ}
    alone = prepare_data(recipe(path="chat.jsonl", messages_field="messages", validation_fraction=0.3, **more), folder)
    chat = data.sources["chat"]
    assert alone.summary["documents"] == chat.summary["documents"]
    for step in range(3):
        assert torch.equal(alone.global_batch(step).labels, chat.global_batch(step).labels)
    assert (chat.train.read(np.arange(3))[1] == -100).any()
    assert not (data.sources["books"].train.read(np.arange(3))[1] == -100).any()


def test_the_order_is_a_function_of_seed_and_step_and_weights_make_no_tokens_anew(
    mixed: Callable[..., MixedData],
) -> None:
    one, again = mixed(), mixed()
    assert all(torch.equal(one.global_batch(step).input_ids, again.global_batch(step).input_ids) for step in (9, 2))
    again.seek(one.position(), 4)
    other = mixed([SOURCES[0] | {"weight": 1}, *SOURCES[1:]])
    weighed = mixed([SOURCES[0] | {"loss_weight": 5}, *SOURCES[1:]])
    same = mixed([SOURCES[0] | {"loss_weight": 1}, *SOURCES[1:]])
    assert same.position() == one.position()
    for changed in (other, weighed):
        with pytest.raises(UserError, match="trained on other data"):
            changed.seek(one.position(), 4)
    assert [each.summary["fingerprint"] for each in one.sources.values()] == [
        each.summary["fingerprint"] for each in other.sources.values()
    ]


def test_the_targets_of_a_source_count_as_it_says(mixed: Callable[..., MixedData]) -> None:
    data = mixed([SOURCES[0] | {"loss_weight": 30}, *SOURCES[1:]])
    first = len(data.sources["books"].train)
    for step in range(4):
        batch, plain = data.global_batch(step), mixed().global_batch(step)
        assert batch.weights is not None
        assert batch.weights.tolist() == [30.0 if row < first else 1.0 for row in batch.sequence_ids]
        assert torch.equal(batch.input_ids, plain.input_ids)
        assert plain.weights is None
    assert data.summary["sources"]["books"]["loss_weight"] == 30
    assert "of the training sequences, a target of which counts 30 times; it has" in data.notes[0]
    held = next(iter(data.validation_batches(3, None)))
    assert held.weights is None


def test_one_source_alone_trains_on_what_a_path_does(
    mixed: Callable[..., MixedData], folder: Path, recipe: MakeRecipe, chat_tokenizer: Path
) -> None:
    plain = prepare_data(recipe(path="books.jsonl", tokenizer=str(chat_tokenizer), **TO_READ), folder)
    data = mixed(SOURCES[:1])
    for step in range(30):
        assert torch.equal(data.global_batch(step).input_ids, plain.global_batch(step).input_ids)


def split_head(model: torch.nn.Module) -> None:
    """No head can be taken off."""


class Model(torch.nn.Module):
    """Logits out of an embedding."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(size, size)

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        return type("Out", (), {"logits": self.table(input_ids)})


@pytest.mark.parametrize("mode", ["token", "paper"])
@pytest.mark.parametrize("max_tokens", [None, 2000])
def test_the_held_out_loss_of_all_and_of_each(
    mixed: Callable[..., MixedData], recipe: MakeRecipe, mode: str, max_tokens: int | None
) -> None:
    data = mixed()
    torch.manual_seed(0)
    model = Model(data.vocab_size)
    settings = recipe(evaluation={"mode": mode, "max_tokens": max_tokens}).eval
    found = data.score(model, how := Scoring(split_head, 3, settings))
    assert found.sources is not None
    assert list(found.sources) == ["books", "table", "chat"]
    if max_tokens is None:
        for name, source in data.sources.items():
            assert source.score(model, how).loss_nats == found.sources[name]
        if mode == "token":
            whole = evaluate(model, data.validation_batches(3, None), how)
            assert found.loss_nats == pytest.approx(whole.loss_nats, rel=1e-6)
            assert found.tokens == whole.tokens
    assert found.row()["loss_nats_by_source"] == found.sources


def test_a_source_that_holds_out_no_target_is_not_scored(
    mixed: Callable[..., MixedData], folder: Path, recipe: MakeRecipe
) -> None:
    """A document of one token is a row without one, where each has its own."""
    (folder / "letters.jsonl").write_text('{"body": "a"}\n{"body": "b"}\n')
    data = mixed([SOURCES[0], {**SOURCES[1], "validation_path": "letters.jsonl"}], packing="paper")
    how = Scoring(split_head, 3, recipe().eval)
    found = data.score(Model(data.vocab_size), how)
    assert found.sources is not None
    assert list(found.sources) == ["books"]


def test_results_together_are_those_of_their_batches() -> None:
    two = [EvalResult(2.0 * 3 / 4, 0.0, 10, 3, "paper"), EvalResult(5.0 * 1 / 2, 0.0, 2, 1, "paper")]
    assert together(two).loss_nats == pytest.approx((3 * 2.0 + 5.0) / 5)
    with pytest.raises(UserError, match="no held-out token"):
        together([])


def test_frequencies_are_those_of_the_mixture(mixed: Callable[..., MixedData]) -> None:
    data = mixed()
    counts = {name: source.token_counts() for name, source in data.sources.items()}
    passes = {
        name: len(data.train) * share / 10 / len(data.sources[name].train)
        for name, share in zip(counts, data.shares, strict=True)
    }
    expected = sum(passes[name] * counts[name] for name in counts)
    assert np.abs(data.token_counts() - expected).max() <= 0.5
    assert isinstance(data.train, MixedRows)
    assert "unigram_loss_nats" in data.baseline()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "absent.csv"}, r"^data\.sources\[1\]\.path: no file matches"),
        ({"text_field": "nothing"}, r"\(data\.sources\[1\]: table\): no document to train on .*`nothing` is not among"),
    ],
)
def test_what_is_wrong_with_one_source_names_it(
    mixed: Callable[..., MixedData], change: dict[str, Any], message: str
) -> None:
    source = {"path": "table.csv", **({} if "path" in change else {"name": "table"}), **change}
    with pytest.raises(UserError, match=message):
        mixed([SOURCES[0], source])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"path": "x"}, "path is set, but each of the sources names its own"),
        ({"path": None, "validation_path": "x"}, "validation_path is set, but each"),
        ({"path": None, "source": "packaged"}, "sources are local files or data sets of the hub, and source: packaged"),
        ({"path": None, "sources": [{"path": "a/x.csv"}, {"path": "b/x.jsonl"}]}, "2 of the sources are called x"),
        (
            {"path": None, "sources": [{"path": "x", "prompt_field": "a"}]},
            "sources, x: prompt_field and response_field",
        ),
        ({"path": None, "sources": [{"path": "x", "encoding": "klingon"}]}, "sources, x: encoding klingon"),
        ({"path": None, "sources": []}, "at least 1 item"),
        ({"path": None, "sources": [{"path": "x", "weight": 0}]}, "greater than or equal"),
        ({"path": None, "sources": [{"path": "x", "loss_weight": 0}]}, "greater than or equal"),
        ({"path": None, "sources": [{"path": "x", "loss_weight": 1e30}]}, "less than or equal"),
    ],
)
def test_contradictions_are_refused(recipe: MakeRecipe, data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**({"sources": SOURCES} | data))
