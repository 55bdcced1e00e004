"""From a recipe with a task to its examples: read the splits, encode sentences and pairs, count what is cut off."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from galore.trainer.common.errors import UserError
from galore.trainer.common.reading import user_path
from galore.trainer.data.batch import Progress, silent, throttled
from galore.trainer.data.glue.labelled import LabelledData
from galore.trainer.data.glue.readers import local_split, read_split
from galore.trainer.data.glue.rows import Rows
from galore.trainer.data.rows.labelled import Examples, Padding
from galore.trainer.data.rows.mapped import Order
from galore.trainer.data.tokens.cache import fingerprint
from galore.trainer.data.tokens.extend import extend
from galore.trainer.data.tokens.tokenizer import given_tokenizer, tokenizer_digest
from galore.trainer.recipe.extras import refuse_missing
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.tasks.glue import TASKS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ENCODED_TOGETHER = 1024
SEGMENTS = "token_type_ids"


def prepare_task(recipe: Recipe, base_dir: Path, progress: Progress | None = None) -> LabelledData:
    """Training and validation examples of the recipe's task, encoded.

    Raises:
        UserError: a split cannot be read, or no usable tokenizer.
    """
    check_splits(recipe, base_dir)
    report = throttled(progress) if progress else silent
    section = recipe.data
    assert section.task is not None
    task, (tokenizer, added) = TASKS[section.task], task_tokenizer(recipe, base_dir)
    train = read_examples(recipe, "train", base_dir, tokenizer, report)
    held_out = {split: read_examples(recipe, split, base_dir, tokenizer, report) for split in task.evaluation_splits}
    splits = {"train": train, **held_out}
    rules: list[Any] = [tokenizer_digest(tokenizer), section.max_length, recipe.train.seed]
    rules += [recipe.train.global_batch_size, section.shuffle]
    summary = {
        "source": f"{task.folder} in {section.path}",
        "fingerprint": fingerprint([*(each.identity for each in splits.values()), *rules]),
        "documents": {"train": len(train), "validation": sum(map(len, held_out.values()))},
        "tokens": {"train": len(train.tokens), "validation": sum(len(each.tokens) for each in held_out.values())},
        "examples": {split: len(each) for split, each in splits.items()},
        "truncated_examples": {split: each.truncated for split, each in splits.items()},
        "bad_rows": _passed_over(splits),
        **({"new_tokens": added} if added else {}),
    }
    order = Order(recipe.train.seed, recipe.train.global_batch_size, section.shuffle)
    return LabelledData(tokenizer, task.name, train, held_out, order, summary, _notes(splits, section.max_length))


def task_tokenizer(recipe: Recipe, base_dir: Path) -> tuple[PreTrainedTokenizerBase, dict[str, int]]:
    """The tokenizer that the recipe names, or its model's, and the tokens that it adds. Raises UserError."""
    tokenizer = given_tokenizer(recipe, base_dir)
    assert tokenizer is not None  # a task has a model, and a model its tokenizer
    return tokenizer, extend(tokenizer, recipe, base_dir)


def read_examples(
    recipe: Recipe, split: str, base_dir: Path, tokenizer: PreTrainedTokenizerBase, progress: Progress = silent
) -> Examples:
    """One split, encoded; of training examples the first `data.max_train_samples`. Raises UserError."""
    rows = read_rows(recipe, split, base_dir)
    most = recipe.data.max_train_samples if split == "train" else None
    return encode(rows, min(len(rows), most or len(rows)), tokenizer, recipe.data.max_length, progress)


def read_rows(recipe: Recipe, split: str, base_dir: Path) -> Rows:
    """One split of the recipe's task as it is. Raises UserError."""
    assert recipe.data.task is not None
    return read_split(TASKS[recipe.data.task], split, _source(recipe, base_dir))


def check_splits(recipe: Recipe, base_dir: Path, splits: Sequence[str] = ()) -> None:
    """Whether the files of `splits` are there, unless they are on the hub, and what reads them. Raises UserError.

    Args:
        splits: none of them are those of training and validation.
    """
    assert recipe.data.task is not None
    task = TASKS[recipe.data.task]
    for split in splits or ("train", *task.evaluation_splits):
        files = local_split(task, split, _source(recipe, base_dir))
        if files is None:
            refuse_missing("datasets", "a data set of the hub", "data.path", "name a local folder of GLUE")
        elif files.format == "parquet":
            refuse_missing("pyarrow", "a parquet file", str(files.paths[0]))


def _source(recipe: Recipe, base_dir: Path) -> str | Path:
    assert isinstance(recipe.data.path, str)
    folder = base_dir / user_path(recipe.data.path)
    return folder if folder.exists() else recipe.data.path


def encode(
    rows: Rows, count: int, tokenizer: PreTrainedTokenizerBase, max_length: int, progress: Progress = silent
) -> Examples:
    """The first `count` rows as token ids; of a pair that is too long the longer sentence loses its end first.

    Raises:
        UserError: the special tokens alone do not fit `max_length`.
    """
    pair = rows.task.text_b is not None
    if tokenizer.num_special_tokens_to_add(pair=pair) >= max_length:
        raise UserError(f"is {max_length}: no room for text", where="data.max_length", fix="use 64 or more")
    tokens: list[Any] = [np.empty(0, np.int32)]
    segments: list[Any] = [np.empty(0, np.uint8)]
    lengths: list[Any] = [np.zeros(1, np.int64)]
    truncated, with_segments = 0, SEGMENTS in tokenizer.model_input_names
    for start in range(0, count, ENCODED_TOGETHER):
        ids, kinds, cut = _encoded(tokenizer, rows[start : min(count, start + ENCODED_TOGETHER)], pair, max_length)
        tokens.append(np.concatenate(ids).astype(np.int32))
        segments.append(np.concatenate(kinds).astype(np.uint8))
        lengths.append(np.array([len(each) for each in ids], np.int64))
        truncated += cut
        progress(min(count, start + ENCODED_TOGETHER), count, f"encoding {rows.task.folder} {rows.split}")
    labels = rows.labels[:count].astype(np.float32 if rows.task.is_regression else np.int64)
    return Examples(
        np.concatenate(tokens),
        np.concatenate(segments) if with_segments else None,
        np.cumsum(np.concatenate(lengths)),
        labels,
        _padding(tokenizer),
        truncated,
        f"{rows.fingerprint} {count}",
        tuple(rows.broken),
    )


def _encoded(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Any], pair: bool, max_length: int
) -> tuple[list[Any], list[Any], int]:
    """Ids and segments of `rows`, and how many of them were cut."""
    firsts = [row.text_a for row in rows]
    seconds = [row.text_b for row in rows] if pair else None
    found = tokenizer(
        firsts,
        seconds,
        truncation="longest_first",
        max_length=max_length,
        return_attention_mask=False,
        return_token_type_ids=True,
        return_overflowing_tokens=True,
    )
    first = np.unique(found["overflow_to_sample_mapping"], return_index=True)[1]
    cut = int((np.bincount(found["overflow_to_sample_mapping"]) > 1).sum())
    return [found["input_ids"][at] for at in first], [found[SEGMENTS][at] for at in first], cut


def _padding(tokenizer: PreTrainedTokenizerBase) -> Padding:
    return Padding(int(tokenizer.pad_token_id), int(tokenizer.pad_token_type_id))


def _passed_over(splits: dict[str, Examples]) -> dict[str, dict[str, Any]]:
    """How many lines GLUE's own files are known to have broken, and the first of them, by what to call them."""
    places = [place for each in splits.values() for place in each.passed_over]
    return {"of another number of columns than the header": {"rows": len(places), "first": places[0]}} if places else {}


def _notes(splits: dict[str, Examples], max_length: int) -> tuple[str, ...]:
    """A line for every split whose examples are cut."""
    return tuple(
        f"{split}: {each.truncated:,} of {len(each):,} examples are longer than data.max_length {max_length} and cut"
        for split, each in splits.items()
        if each.truncated
    )
