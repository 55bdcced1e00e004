from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import processors

from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.data.prepare import fullest_batch, prepare_data
from galore.trainer.data.tokens.tokenized import text_identity
from galore.trainer.data.tokens.tokenizer import load_tokenizer, prompt_of
from galore.trainer.recipe.schema.recipe import Recipe

MakeRecipe = Callable[..., Recipe]
Write = Callable[..., Path]


def text_of(data: Any, split: str) -> str:
    """All text of one side, in stored order."""
    if split == "validation":
        ids = [row for batch in data.validation_batches(7, None) for row in batch.input_ids.tolist()]
    else:
        ids = data.train.read(np.arange(len(data.train)))[0].tolist()
    return str(data.tokenizer.decode([token for row in ids for token in row]))


@pytest.fixture
def corpus(write_jsonl: Write, documents: list[str]) -> Path:
    return write_jsonl(documents)


def test_what_the_loop_gets(corpus: Path, recipe: MakeRecipe) -> None:
    data = prepare_data(recipe(), corpus.parent)
    batch = data.global_batch(0)
    assert batch.input_ids.shape == batch.labels.shape == (8, 32)
    assert batch.input_ids.dtype == batch.labels.dtype == torch.int64
    assert torch.equal(batch.input_ids, batch.labels)
    assert len(batch.sequence_ids) == 8
    assert data.num_sequences == data.summary["train"]["sequences"] > 100
    assert data.summary["documents"]["train"] + data.summary["documents"]["validation"] == 200
    json.dumps(data.summary)


@pytest.fixture
def dataset(corpus: Path, documents: list[str], write_jsonl: Write, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder as a data set of the hub is laid out, of the rows of `corpus` and some that are to be held out."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(corpus.parent / "downloaded"))
    write_jsonl(documents, "set/train.jsonl")
    write_jsonl([f"held out, {text}" for text in documents[:40]] + documents[:3], "set/validation.jsonl")
    return "set"


@pytest.mark.parametrize("length", [{"max_steps": None, "num_train_epochs": 2}, {"max_steps": 10}])
def test_a_data_set_of_the_hub_read_whole_has_the_rows_of_its_files(
    dataset: str, corpus: Path, recipe: MakeRecipe, length: dict[str, Any]
) -> None:
    streaming = False if length["max_steps"] else None
    whole = recipe(length, source="hub", path=dataset, validation_split=None, streaming=streaming)
    found, files = prepare_data(whole, corpus.parent), prepare_data(recipe(), corpus.parent)
    assert (found.num_sequences, found.summary["source"]) == (files.num_sequences, "hub: set, split train")
    for step in (0, 40, 7):  # in any order, beyond an epoch
        assert torch.equal(found.global_batch(step).input_ids, files.global_batch(step).input_ids)
    assert text_of(found, "validation") == text_of(files, "validation")


def test_a_split_to_evaluate_on_is_held_out(dataset: str, corpus: Path, recipe: MakeRecipe) -> None:
    data = prepare_data(recipe(source="hub", path=dataset, streaming=False), corpus.parent)
    assert data.summary["documents"] == {"train": 197, "validation": 43}
    assert data.summary["dropped_copies_of_held_out"] == 3
    assert "held out" in text_of(data, "validation")
    assert "held out" not in text_of(data, "train")


def test_a_split_that_is_too_short_to_evaluate_on_is_named(
    dataset: str, corpus: Path, recipe: MakeRecipe, write_jsonl: Write
) -> None:
    write_jsonl(["little"], "set/validation.jsonl")
    with pytest.raises(UserError, match=r"name another split.*data\.validation_split: null and") as caught:
        prepare_data(recipe(source="hub", path=dataset, streaming=False), corpus.parent)
    assert caught.value.where == "data.validation_split"


def test_of_several_sources_one_may_be_read_whole(dataset: str, corpus: Path, recipe: MakeRecipe) -> None:
    hub = {"name": dataset, "validation_fraction": 0.1}
    both = [{"path": corpus.name, "name": "files"}, hub]
    streamed = prepare_data(recipe(path=None, sources=both), corpus.parent)
    whole = prepare_data(recipe(path=None, sources=[both[0], hub | {"streaming": False}]), corpus.parent)
    epochs = prepare_data(recipe({"max_steps": None, "num_train_epochs": 1}, path=None, sources=both), corpus.parent)
    assert streamed.num_sequences is None
    assert whole.num_sequences == epochs.num_sequences == 2 * prepare_data(recipe(), corpus.parent).num_sequences


def test_packed_documents_begin_as_prompts_do(
    corpus: Path, recipe: MakeRecipe, begins_with_bos: str, documents: list[str]
) -> None:
    data = prepare_data(recipe(tokenizer=begins_with_bos), corpus.parent)
    bos, eos = data.tokenizer.bos_token_id, data.tokenizer.eos_token_id
    ids = [token for row in data.train.read(np.arange(len(data.train)))[0].tolist() for token in row]
    assert ids[0] == bos
    assert 150 < ids.count(bos) < 200
    assert all((before == eos) == (after == bos) for before, after in pairwise(ids))
    prompts = [prompt_of(data.tokenizer, text[:20]) for text in documents]
    assert prompts[0] == data.tokenizer(documents[0][:20])["input_ids"]
    starts = {tuple(ids[at : at + 5]) for at, token in enumerate(ids) if token == bos}
    assert starts <= {tuple(prompt[:5]) for prompt in prompts} | {tuple(ids[-5:])}


def test_the_frame_of_documents_is_in_the_name_of_the_cache(begins_with_bos: str, recipe: MakeRecipe) -> None:
    """And a tokenizer without one, or rows that add it themselves, have the name that they always had."""
    tokenizer = load_tokenizer(begins_with_bos, None, Path(), "data.tokenizer")
    assert text_identity(recipe().data, tokenizer) == [{"beginning": (300,)}]
    assert text_identity(recipe(packing="paper").data, tokenizer) == []
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel()
    assert text_identity(recipe().data, tokenizer) == []


def test_a_batch_is_a_function_of_seed_and_step(corpus: Path, recipe: MakeRecipe) -> None:
    data, again = (prepare_data(recipe(), corpus.parent) for _ in range(2))
    for step in (0, 41, 7, 1000):
        one, two = data.global_batch(step), again.global_batch(step)
        assert one.sequence_ids == two.sequence_ids
        assert torch.equal(one.input_ids, two.input_ids)
    other = prepare_data(recipe(train={"seed": 2}), corpus.parent)
    assert other.global_batch(0).sequence_ids != data.global_batch(0).sequence_ids


def test_an_epoch_sees_every_row_once(corpus: Path, recipe: MakeRecipe) -> None:
    data = prepare_data(recipe(), corpus.parent)
    rows = [number for step in range(400) for number in data.global_batch(step).sequence_ids]
    assert data.num_sequences is not None
    assert sorted(rows[: data.num_sequences]) == list(range(data.num_sequences))


def test_no_document_is_on_both_sides(corpus: Path, recipe: MakeRecipe, documents: list[str]) -> None:
    data = prepare_data(recipe(validation_fraction=0.2), corpus.parent)
    train, validation = text_of(data, "train"), text_of(data, "validation")
    sides = [(document in train, document in validation) for document in documents]
    assert (True, True) not in sides
    assert sides.count((True, False)) > 140
    assert sides.count((False, True)) > 20


def test_copies_stay_on_one_side(write_jsonl: Write, recipe: MakeRecipe, documents: list[str]) -> None:
    path = write_jsonl(documents + documents)
    data = prepare_data(recipe(), path.parent)
    assert not set(text_of(data, "validation").split("<|endoftext|>")[:-1]) & set(
        text_of(data, "train").split("<|endoftext|>")
    )
    assert data.summary["documents"]["train"] % 2 == 0


def test_held_out_files_are_never_trained_on(write_jsonl: Write, recipe: MakeRecipe, documents: list[str]) -> None:
    write_jsonl(documents)
    path = write_jsonl([*documents[:20], "only held out " * 20], "held.jsonl")
    data = prepare_data(recipe(validation_path="held.jsonl", path="*.jsonl"), path.parent)
    assert data.summary["documents"] == {"train": 180, "validation": 21}
    assert data.summary["dropped_copies_of_held_out"] == 41
    assert not any(document in text_of(data, "train") for document in documents[:20])


def test_the_tokenizer_is_trained_on_the_training_side(write_jsonl: Write, recipe: MakeRecipe) -> None:
    path = write_jsonl([f"{number} plain words only" for number in range(100)])
    write_jsonl(["zyzzyva " * 100], "held.jsonl")
    data = prepare_data(recipe(validation_path="held.jsonl", max_length=8), path.parent)
    vocabulary = data.tokenizer.get_vocab()
    assert "Ġplain" in vocabulary
    assert not any("zy" in token for token in vocabulary)


@pytest.mark.parametrize("name", ["train.txt", "train.txt.gz", "train.jsonl", "train.jsonl.gz", "train.parquet"])
def test_every_format_gives_the_same_data(
    tmp_path: Path, write_jsonl: Write, recipe: MakeRecipe, documents: list[str], name: str
) -> None:
    reference = prepare_data(recipe(path=str(write_jsonl(documents, "reference.jsonl"))), tmp_path)
    if name.endswith("parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"text": documents}), tmp_path / name)
    else:
        lines = documents if "txt" in name else [json.dumps({"text": text}) for text in documents]
        raw = ("\n\n" if "txt" in name else "\n").join(lines).encode()
        (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    data = prepare_data(recipe(path=name), tmp_path)
    assert torch.equal(data.global_batch(3).input_ids, reference.global_batch(3).input_ids)
    assert data.num_sequences == reference.num_sequences


def test_tokens_are_reused_and_moved_files_are_the_same_data(corpus: Path, recipe: MakeRecipe) -> None:
    told = list[str]()
    first = prepare_data(recipe(), corpus.parent, lambda done, total, what: told.append(what))
    assert {"fingerprinting", "training the tokenizer", "tokenizing"} <= set(told)
    (corpus.parent / "moved").mkdir()
    corpus.rename(corpus.parent / "moved" / "renamed.jsonl")
    told.clear()
    second = prepare_data(recipe(path="moved"), corpus.parent, lambda done, total, what: told.append(what))
    assert set(told) <= {"fingerprinting"}
    assert second.position() == first.position()


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 16},
        {"packing": "paper"},
        {"shuffle": False},
        {"validation_fraction": 0.2},
        {"tokenizer_vocab_size": 290},
        {"train": {"seed": 3}},
        {"train": {"global_batch_size": 16}},
        {"content": 1},
    ],
)
def test_seek_refuses_other_data(
    corpus: Path, recipe: MakeRecipe, write_jsonl: Write, documents: list[str], change: dict[str, Any]
) -> None:
    position = json.loads(json.dumps(prepare_data(recipe(), corpus.parent).position()))
    prepare_data(recipe(), corpus.parent).seek(position, 5)
    if change.pop("content", None):
        write_jsonl(documents[:-1])
    with pytest.raises(UserError, match="trained on other data"):
        prepare_data(recipe(**change), corpus.parent).seek(position, 5)


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3] ^= 1
    path.write_bytes(raw)


HARM = {
    "flip": _flip,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
}


@pytest.mark.parametrize("instruct", [False, True])
@pytest.mark.parametrize("harm", HARM)
def test_whatever_is_damaged_in_the_cache_is_told_and_made_again(
    recipe: MakeRecipe, tmp_path: Path, instruct: bool, harm: str, documents: list[str]
) -> None:
    columns = {"prompt_field": "instruction", "response_field": "output", "max_length": 256}
    options: dict[str, Any] = columns if instruct else {}
    rows = [{"text": text, "instruction": text[:30], "output": text[:90]} for text in documents]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def prepared() -> tuple[Any, ...]:
        data = prepare_data(recipe(**options), tmp_path)
        batches = [data.global_batch(step) for step in (0, 7)]
        tensors = [tensor.tolist() for batch in batches for tensor in (batch.input_ids, batch.labels)]
        return data.notes, tensors, data.summary, text_of(data, "validation")

    notes, *whole = prepared()
    assert notes == ()
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size]
    assert len({path.parent.parent.name for path in files}) >= 2
    for path in files:
        before = path.read_bytes()
        HARM[harm](path)
        notes, *again = prepared()
        assert again == whole, path
        assert path.read_bytes() == before
        kept = path.parent.parent.name in ("tokens", "tokenizers")
        assert len(notes) == kept
        assert all("made anew" in note and str(path.parent) in note for note in notes)


def test_an_id_beyond_the_vocabulary_never_leaves_the_store(corpus: Path, recipe: MakeRecipe, tmp_path: Path) -> None:
    data = prepare_data(recipe(), tmp_path)
    for side in ("train", "validation"):
        tokens = next((tmp_path / "cache" / "tokens").glob(f"*/{side}.tokens"))
        with tokens.open("r+b") as file:
            file.write(b"\xff" * tokens.stat().st_size)
    what = r"hold the token 65535, and the tokenizer has 300.*\n.*--resume"
    for use in (lambda: data.global_batch(0), data.token_counts, lambda: list(data.validation_batches(4, None))):
        with pytest.raises(RunFailed, match=what):
            use()


def test_bad_rows_are_in_the_summary(corpus: Path, recipe: MakeRecipe) -> None:
    corpus.write_bytes(corpus.read_bytes() + b'{"txt": 1}\n{"text": "\xff"}\n')
    bad = prepare_data(recipe(), corpus.parent).summary["bad_rows"]
    assert {kind: entry["rows"] for kind, entry in bad.items()} == {"missing_field": 1, "invalid_utf8": 1}
    assert "train.jsonl:201" in bad["missing_field"]["first"]
    with pytest.raises(UserError, match=r"train\.jsonl:201"):
        prepare_data(recipe(on_bad_rows="error"), corpus.parent)


def test_a_corpus_without_the_field_says_which_fields_there_are(corpus: Path, recipe: MakeRecipe) -> None:
    with pytest.raises(UserError, match=r"no document to train on \(bad rows: 200 missing_field.*among text"):
        prepare_data(recipe(text_field="body"), corpus.parent)


@pytest.mark.parametrize(
    ("texts", "data", "message"),
    [
        ([], {}, "no document to train on"),
        (["one short text"], {"validation_fraction": 0}, "cannot fill one sequence of 32"),
        (["a text of some length " * 50], {"validation_fraction": 1e-9}, "0 held-out documents"),
    ],
)
def test_too_little_text_is_refused(
    write_jsonl: Write, recipe: MakeRecipe, texts: list[str], data: dict[str, Any], message: str
) -> None:
    path = write_jsonl(texts)
    with pytest.raises(UserError, match=message):
        prepare_data(recipe(**data), path.parent)


@pytest.mark.parametrize("count", [4, 7, 30, 200])
@pytest.mark.parametrize("packing", ["packed", "paper"])
def test_too_little_held_out_names_a_share_that_works(
    write_jsonl: Write, recipe: MakeRecipe, documents: list[str], count: int, packing: str
) -> None:
    path = write_jsonl(documents[:count])
    with pytest.raises(UserError, match="cannot fill one sequence") as caught:
        prepare_data(recipe(validation_fraction=1e-6, packing=packing), path.parent)
    share = re.search(r"set data.validation_fraction: ([0-9.]+)(, lower data.max_length)?, or", caught.value.fix)
    assert share, caught.value.fix
    assert bool(share[2]) == (packing == "packed")
    data = prepare_data(recipe(validation_fraction=float(share[1]), packing=packing), path.parent)
    assert data.summary["validation"]["sequences"] > 0
    assert data.summary["train"]["sequences"] > 0


def test_one_document_cannot_be_on_both_sides(write_jsonl: Write, recipe: MakeRecipe) -> None:
    path = write_jsonl(["a text of some length " * 50])
    with pytest.raises(UserError, match="no share of 1 document is enough on both sides"):
        prepare_data(recipe(validation_fraction=1e-9), path.parent)


def test_without_evaluation(corpus: Path, recipe: MakeRecipe) -> None:
    data = prepare_data(recipe(validation_fraction=0), corpus.parent)
    assert list(data.validation_batches(4, None)) == []
    assert data.summary["validation"]["sequences"] == 0


def test_evaluation_rows_are_fixed_and_limited(corpus: Path, recipe: MakeRecipe) -> None:
    data = prepare_data(recipe(validation_fraction=0.3), corpus.parent)
    total = data.summary["validation"]["sequences"]
    everything = [number for batch in data.validation_batches(5, None) for number in batch.sequence_ids]
    assert everything == list(range(total))
    some = [number for batch in data.validation_batches(3, 10 * 32 + 31) for number in batch.sequence_ids]
    assert len(some) == 10
    assert some[0] == 0
    assert some[-1] >= total * 9 // 10  # spread over all held-out text, not its beginning
    assert sum(map(len, data.validation_batches(3, 1))) == 1
    assert [len(batch) for batch in data.validation_batches(4, 10 * 32)] == [4, 4, 2]


def test_a_batch_may_be_longer_than_an_epoch(write_jsonl: Write, recipe: MakeRecipe, documents: list[str]) -> None:
    path = write_jsonl(documents[:2])
    data = prepare_data(recipe(validation_fraction=0, train={"global_batch_size": 64}), path.parent)
    assert data.num_sequences is not None
    assert data.num_sequences < 64
    assert set(data.global_batch(0).sequence_ids) == set(range(data.num_sequences))


def test_an_embedding_that_is_too_small_is_refused(corpus: Path, recipe: MakeRecipe) -> None:
    made = recipe()
    small = made.model_copy(update={"model": made.model.model_copy(update={"vocab_size": 299})})
    with pytest.raises(UserError, match="tokenizer has 300 tokens"):
        prepare_data(small, corpus.parent)


def test_a_file_that_changes_while_it_is_read(corpus: Path, recipe: MakeRecipe, tmp_path: Path) -> None:
    def meddle(done: int, total: int, what: str) -> None:
        if what == "tokenizing":
            os.utime(corpus, ns=(1, 1))
            corpus.write_bytes(corpus.read_bytes() + b"\n")

    with pytest.raises(UserError, match="changed while it was being read"):
        prepare_data(recipe(), corpus.parent, meddle)
    assert [path.suffix for path in (tmp_path / "cache" / "tokens").iterdir()] == [".lock"]


def test_real_c4_rows(recipe: MakeRecipe) -> None:
    root = Path(os.environ.get("GALORE_TEST_DATA") or Path(__file__).parents[4] / "shared" / "data")
    path = root / "text" / "c4_en_first1000.jsonl"
    if not path.is_file():
        pytest.skip("set GALORE_TEST_DATA to a folder with text/c4_en_first1000.jsonl")
    data = prepare_data(recipe(path=str(path), max_length=256, packing="paper", tokenizer_vocab_size=512), root)
    assert sum(data.summary["documents"].values()) == 1000
    batch = data.global_batch(0)
    assert (batch.labels == -100).any()
    texts = {json.loads(line)["text"] for line in path.open()}
    row = batch.input_ids[0][batch.labels[0] != -100]
    start = data.tokenizer.decode(row)
    assert any(text.startswith(start) for text in texts)


def test_the_batch_that_memory_is_predicted_by_has_weights_where_those_of_the_run_have(recipe: MakeRecipe) -> None:
    ids = torch.zeros(2, 16, dtype=torch.int64)
    for weight, has in ((1.0, False), (30.0, True)):
        asked = recipe(path=None, sources=[{"path": "a.jsonl"}, {"path": "b.jsonl", "loss_weight": weight}])
        batch = fullest_batch(asked, ids)
        assert (batch.weights is not None) is has  # type: ignore[attr-defined]
