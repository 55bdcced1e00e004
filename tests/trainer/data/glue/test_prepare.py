"""From rows to examples: what the tokenizer says of each, cut where it is too long, counted and fingerprinted."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from galore.trainer.common.errors import UserError
from galore.trainer.data.glue.prepare import prepare_task, read_rows
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.schema.recipe import Recipe


def recipe(model: Path, data: Path, task: str, *more: str) -> Recipe:
    where = [f"model.name_or_path={model}", f"data.path={data}", f"data.task={task}", "data.max_length=32"]
    return load_recipe("roberta-glue", [*where, *more]).recipe


@pytest.mark.parametrize("task", ["sst2", "rte"])
@pytest.mark.parametrize("length", [9, 32])
def test_an_example_is_what_the_tokenizer_makes_of_it(
    tiny_roberta: Path, glue_folder: Path, task: str, length: int
) -> None:
    asked = recipe(tiny_roberta, glue_folder, task, f"data.max_length={length}")
    data, tokenizer = prepare_task(asked, Path()), AutoTokenizer.from_pretrained(tiny_roberta)
    rows = read_rows(asked, "train", Path())
    found = [data.train.tokens[a:b].tolist() for a, b in zip(data.train.offsets, data.train.offsets[1:], strict=False)]
    pairs = [(row.text_a, row.text_b) if row.text_b else (row.text_a,) for row in rows]
    assert found == [tokenizer(*texts, truncation=True, max_length=length)["input_ids"] for texts in pairs]
    assert data.train.labels.tolist() == [row.label for row in rows]
    long = sum(len(tokenizer(*texts)["input_ids"]) > length for texts in pairs)
    assert (data.train.truncated, bool(long)) == (long, length == 9)
    assert [note.split(" examples")[0] for note in data.notes][:1] == ([f"train: {long} of 24"] if long else [])


def test_both_validation_splits_of_mnli(tiny_roberta: Path, glue_folder: Path) -> None:
    data = prepare_task(recipe(tiny_roberta, glue_folder, "mnli"), Path())
    assert list(data.held_out) == ["validation_matched", "validation_mismatched"]


def test_lines_that_glue_broke_are_counted(tiny_roberta: Path, tmp_path: Path) -> None:
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    good = "".join(f"{number}\t1\t2\tQuestion?\tAnd?\t0\n" for number in range(1000))
    (tmp_path / "train.tsv").write_text(header + "1\tWhat?\n" + good)
    (tmp_path / "dev.tsv").write_text(header + good)
    data = prepare_task(recipe(tiny_roberta, tmp_path, "qqp"), Path())
    what = "of another number of columns than the header"
    assert data.summary["bad_rows"] == {what: {"rows": 1, "first": f"{tmp_path / 'train.tsv'}:2"}}


def test_the_first_examples_on_demand(tiny_roberta: Path, glue_folder: Path) -> None:
    few = prepare_task(recipe(tiny_roberta, glue_folder, "sst2", "data.max_train_samples=5"), Path())
    every = prepare_task(recipe(tiny_roberta, glue_folder, "sst2"), Path())
    assert (len(few.train), len(few.held_out["validation"]), few.num_sequences) == (5, 24, 5)
    assert few.train.tokens.tolist() == every.train.tokens[: len(few.train.tokens)].tolist()
    assert few.summary["fingerprint"] != every.summary["fingerprint"]


def test_batches_are_a_function_of_seed_and_step(tiny_roberta: Path, glue_folder: Path) -> None:
    first, again, other = (
        prepare_task(recipe(tiny_roberta, glue_folder, "sst2", f"train.seed={seed}"), Path()) for seed in (1, 1, 2)
    )
    orders = [[data.global_batch(step).sequence_ids for step in (3, 0, 1)] for data in (first, again, other)]
    assert orders[0] == orders[1] != orders[2]
    epoch = [number for step in range(3) for number in first.global_batch(step).sequence_ids][:24]
    assert sorted(epoch) == list(range(24))


def test_other_data_are_not_resumed(tiny_roberta: Path, glue_folder: Path) -> None:
    data = prepare_task(recipe(tiny_roberta, glue_folder, "rte"), Path())
    file = glue_folder / "rte/train.jsonl"
    file.write_text(file.read_text().replace("song", "plot", 1))
    changed = prepare_task(recipe(tiny_roberta, glue_folder, "rte"), Path())
    data.seek(data.position(), 3)
    with pytest.raises(UserError, match="trained on other data"):
        changed.seek(data.position(), 3)


def test_no_room_for_text(tiny_roberta: Path, glue_folder: Path) -> None:
    with pytest.raises(UserError, match="no room for text"):
        prepare_task(recipe(tiny_roberta, glue_folder, "rte", "data.max_length=4"), Path())
