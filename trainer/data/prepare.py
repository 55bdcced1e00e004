"""From a recipe to training data: find the text, tokenize it once, map it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from galore.trainer.common.errors import UserError
from galore.trainer.common.format import counted
from galore.trainer.data.batch import Batch, Data, Progress, silent, throttled
from galore.trainer.data.glue.prepare import prepare_task
from galore.trainer.data.notices import REMEDIES, encoding_remedy
from galore.trainer.data.rows.examplerows import rows_over
from galore.trainer.data.rows.labelled import full_batch
from galore.trainer.data.rows.mapped import MappedData, Order
from galore.trainer.data.rows.mixed import MixedData, mix
from galore.trainer.data.rows.modality import Modalities
from galore.trainer.data.rows.tokenbatch import TokenBatch
from galore.trainer.data.stream.beforehand import StreamMaterial
from galore.trainer.data.stream.stream import StreamedData, Told, stream_data
from galore.trainer.data.text.conversation import READING, WITHOUT_NULLS
from galore.trainer.data.text.holdout import content_hash, working_share
from galore.trainer.data.text.quality import BadRows
from galore.trainer.data.tokens.cache import cache_root, fingerprint
from galore.trainer.data.tokens.chat import OF_TOKENS
from galore.trainer.data.tokens.extend import extend
from galore.trainer.data.tokens.material import Material, Materials
from galore.trainer.data.tokens.tokenize import threads
from galore.trainer.data.tokens.tokenized import MISFITS, Tokenized, tokenized
from galore.trainer.data.tokens.tokenizer import given_tokenizer, id_bound, trained_tokenizer
from galore.trainer.recipe.schema.data import DataSection
from galore.trainer.recipe.schema.extraloss import ATTENTION
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.recipe.schema.source import SourceSection
from galore.trainer.tasks.glue import TASKS

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


EXAMPLE = 128  # tokens of a document that does not see the others of its row, where none is at hand
MARGIN = 1.5  # some documents have more characters per token than others


def prepare_data(
    recipe: Recipe, base_dir: Path, progress: Progress | None = None
) -> MappedData | StreamedData | MixedData:
    """Training and held-out sequences of a recipe.

    Args:
        base_dir: what relative paths of the recipe are relative to.
        progress: told how far fingerprinting, tokenizer training and tokenizing are.

    Raises:
        UserError: no or unreadable files, refused bad rows, no usable tokenizer, too little text.
        RunFailed: the disk is full.
    """
    report = throttled(progress) if progress else silent
    cache = cache_root(recipe.data.cache_dir, base_dir)
    seed, size, shuffle = recipe.train.seed, recipe.train.global_batch_size, recipe.data.shuffle
    with threads(recipe.data.num_proc):
        given = given_tokenizer(recipe, base_dir)
        parts = list[Material | StreamMaterial]()
        for part, told in zip(recipe.data.parts, _places(recipe), strict=True):
            with told():
                parts.append(_material(recipe, part, base_dir, cache, report))
        notes = list[str]()
        tokenizer = given or _trained(recipe, Materials(tuple(parts)), cache, report, notes.append)
        added = extend(tokenizer, recipe, base_dir, notes.append)
        data = list[MappedData | StreamedData]()
        for number, (one, told) in enumerate(zip(parts, _places(recipe), strict=True)):
            with told():
                if isinstance(one, StreamMaterial):
                    codes = Modalities.of(recipe, tokenizer, id_bound(tokenizer))
                    data.append(stream_data(one, tokenizer, Order(seed + number, size, shuffle), told, codes))
                else:
                    text = tokenized(one, tokenizer, report, notes.append, _mapped_codes(recipe, tokenizer))
                    data.append(map_data(recipe, tokenizer, one, text))
        whole: MappedData | StreamedData | MixedData = data[0]
        if recipe.data.sources is not None:
            named = {each.label: one for each, one in zip(recipe.data.sources, data, strict=True)}
            order, asked = Order(seed, size, shuffle), recipe.data.sources
            whole = mix(named, [each.weight for each in asked], order, [each.loss_weight for each in asked])
        return replace(
            whole, notes=(*notes, *whole.notes), facts=whole.facts | ({"new_tokens": added} if added else {})
        )


def _material(
    recipe: Recipe, part: DataSection, base_dir: Path, cache: Path, progress: Progress
) -> Material | StreamMaterial:
    if recipe.streams(part):
        return StreamMaterial.of(part, base_dir, cache, recipe.eval.max_tokens, progress)
    if part.source == "hub":
        progress(0, 0, f"fetching {part.path}")
    return Material.of(part, base_dir, cache, progress)


def _places(recipe: Recipe) -> list[Told]:
    """What is entered while each source is read, so that an error says which it is about."""

    @contextmanager
    def told(number: int, source: SourceSection) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            error.where = source.place(number, error.where)
            raise

    sources = recipe.data.sources
    return [nullcontext] if sources is None else [partial(told, *each) for each in enumerate(sources)]


def _trained(
    recipe: Recipe, material: Materials, cache: Path, progress: Progress, tell: Callable[[str], object]
) -> PreTrainedTokenizerBase:
    """A tokenizer trained on all sources, kept in the cache. Raises UserError: they are tokens already."""
    if any(part.tokens_field for part in recipe.data.parts):
        fix = "set data.tokenizer to the tokenizer that made the tokens"
        raise UserError("tokens mean nothing without their tokenizer", where="data.tokens_field", fix=fix)
    size = recipe.data.tokenizer_vocab_size
    folder = cache / "tokenizers" / fingerprint([material.identity, size])
    return trained_tokenizer(material.training_texts(progress), size, folder, progress, tell)


def _mapped_codes(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Tensor | None:
    """Which token ids are codes, (V,), where the numbers beside rows are maps of attention to them."""
    if recipe.extra_loss.name != ATTENTION or not recipe.extra_loss.is_on:
        return None
    modalities = Modalities.of(recipe, tokenizer, id_bound(tokenizer))
    return None if modalities is None else modalities.codes


def map_data(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, material: Material, text: Tokenized) -> MappedData:
    """Rows over the stores, checked to be enough. Raises UserError."""
    section, train_section = material.section, recipe.train
    order = Order(train_section.seed, train_section.global_batch_size, section.shuffle)
    codes = _mapped_codes(recipe, tokenizer)
    train, validation = (rows_over(store, section, tokenizer, codes) for store in (text.train, text.validation))
    options: list[Any] = [section.packing, section.max_length, order.seed, order.global_batch_size, order.shuffle]
    # a run of before read other rows
    options += [each for each in (READING, WITHOUT_NULLS, OF_TOKENS, MISFITS) if each in text.summary.get("noted", {})]
    summary = {
        "source": section.origin,
        "fingerprint": fingerprint([text.fingerprint, *options]),
        "passed_over": material.passed_over,
        **material.extent,
        **text.summary,
        "train": train.summary,
        "validation": validation.summary,
        "vocab_size": id_bound(tokenizer),
        **({"asked_vocab_size": section.tokenizer_vocab_size} if recipe.trains_tokenizer else {}),
    }
    _require_rows(material, len(train), len(validation), summary)
    size, folder = id_bound(tokenizer), text.folder
    modalities = Modalities.of(recipe, tokenizer, size)
    return MappedData(
        tokenizer,
        size,
        train,
        validation,
        section.max_length,
        order,
        summary,
        modalities=modalities,
        cache=folder,
    )


def _require_rows(material: Material, train: int, validation: int, summary: dict[str, Any]) -> None:
    section, documents, tokens = material.section, summary["documents"], summary["tokens"]
    if not documents["train"]:
        bad = "; ".join(
            f"{entry['rows']:,} {kind}, first {entry['first']}" for kind, entry in summary["bad_rows"].items()
        )
        raise UserError(
            f"no document to train on{f' (bad rows: {bad})' if bad else ''}",
            where=f"data.source: {section.source}",
            fix=_mend(summary),
        )
    _require_targets(summary, section.max_length)
    fix = "give more text, lower data.max_length, or set data.packing: paper"
    if not train:
        what = f"{counted(tokens['train'], 'training token')} cannot fill one sequence of {section.max_length:,}"
        raise UserError(what, where="data.max_length", fix=fix)
    if not validation and (material.validation or section.validation_fraction > 0):
        named = "validation_split" if section.source == "hub" else "validation_path"
        null = "data.validation_split: null and " if material.validation and section.source == "hub" else ""
        raise UserError(
            f"{counted(documents['validation'], 'held-out document')} ({counted(tokens['validation'], 'token')}) cannot fill one sequence",
            where=f"data.{named}" if material.validation else "data.validation_fraction",
            fix=f"{_hold_out_more(material, sum(tokens.values()))}, or set {null}data.validation_fraction: 0 to go without evaluation",
        )


def _require_targets(summary: dict[str, Any], max_length: int) -> None:
    """Raise UserError where every example of a side is cut off before the first token that it is to learn."""
    for side, name in (("train", "example"), ("validation", "held-out example")):
        dropped, documents = summary[side].get("dropped_examples", 0), summary["documents"][side]
        if dropped and dropped == documents:
            what = f"no token to learn in the first {max_length:,} of {counted(dropped, name)}, which is all of them"
            raise UserError(what, where="data.max_length", fix="raise it, as far as model and memory allow")


def _mend(summary: dict[str, Any]) -> str:
    """What to do where not one row is good."""
    kinds = set(summary["bad_rows"])
    if kinds and kinds <= {"refused", "no_response"}:
        return "choose another chat template (data.chat_template), or mend the rows"
    if looks := encoding_remedy(summary):
        return looks
    if kinds and kinds <= {"invalid_utf8", "undecodable"}:
        return "set data.encoding to what the files are in, or convert them: iconv -f LATIN1 -t UTF-8 is for those of western Europe"
    if kinds == {"invalid_json"}:
        return REMEDIES["invalid_json"]
    if kinds:
        return "check data.path, data.format and the columns that section data names"
    return "the files are empty, or all is held out"


def _hold_out_more(material: Material, tokens: int) -> str:
    """The share of documents that is enough to evaluate on, if any is. Sizes in tokens go by those in characters."""
    section, bad = material.section, BadRows("skip")
    whole = section.examples or section.packing == "paper"  # a row is made of one document, however short
    shorter = "" if whole else ", lower data.max_length"
    if material.validation:
        return f"name {'another split' if section.source == 'hub' else 'more files'}{shorter}"
    sizes = [(content_hash(document.text), len(document.text)) for document in material.train.documents(bad)]
    enough = 1 if whole else MARGIN * section.max_length * sum(size for _, size in sizes) / max(tokens, 1)
    share = working_share(sizes, enough)
    if share is None or share <= section.validation_fraction:
        return f"no share of {counted(len(sizes), 'document')} is enough on both sides: give more text{shorter}"
    return f"set data.validation_fraction: {share}{shorter}"


def read_data(recipe: Recipe, base_dir: Path, progress: Progress | None = None) -> Data:
    """Training and held-out rows of a recipe; see `prepare_data` and `prepare_task`. Raises UserError, RunFailed."""
    if recipe.data.task is not None:
        return prepare_task(recipe, base_dir, progress)
    return prepare_data(recipe, base_dir, progress)


def fullest_batch(recipe: Recipe, ids: Tensor) -> Batch:
    """The token ids (b, max_length) as a batch of the recipe's kind without padding, which needs the most memory."""
    task = recipe.data.task
    if task is not None:
        return full_batch(ids.numpy(), np.float32 if TASKS[task].is_regression else np.int64)
    at = torch.arange(ids.shape[1]).remainder(EXAMPLE).expand(ids.shape) if recipe.data.isolates else None
    batch = TokenBatch(ids, ids, tuple(range(len(ids))), at, Modalities.planned(recipe, ids))
    if any(each.loss_weight != 1 for each in recipe.data.sources or ()):
        batch = replace(batch, weights=torch.ones(len(ids), dtype=torch.float64))
    if recipe.extra_loss.is_on and any(part.extra_field for part in recipe.data.parts):
        half = ids.shape[1] // 2
        seen = torch.cat(
            (torch.zeros_like(ids[:, :half]), ids[:, half:].clamp_min(1)), 1
        )  # codes, and what is said of them
        batch = replace(batch, input_ids=seen, labels=seen, extras=torch.ones(len(ids), half, dtype=torch.float32))
    return batch
