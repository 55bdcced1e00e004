"""The tokenizer of a recipe: a given one, the model's, or a byte-level BPE trained on the corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from galore.trainer.checkpoint.exported import require_as_exported
from galore.trainer.common.durable import Written, save_pretrained
from galore.trainer.common.errors import UserError
from galore.trainer.common.library import require_sentencepiece
from galore.trainer.common.reading import means_a_path, require_plain_folder, user_path
from galore.trainer.data.tokens.cache import entry
from galore.trainer.data.tokens.store import Ids
from galore.trainer.data.tokens.tokenize import encode, encoder
from galore.trainer.machine.offline import spare_retries
from galore.trainer.recipe.schema.data import DataSection
from galore.trainer.recipe.schema.model import ModelSection
from galore.trainer.recipe.schema.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_OF_TEXT = "<|endoftext|>"
BYTES = 256
WITHOUT_CODE = "name a tokenizer.json, or a folder whose tokenizer_config.json has no auto_map"
LARGEST_VOCABULARY = 2**31 - 1


def given_tokenizer(recipe: Recipe, base_dir: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer that `data.tokenizer` or `model.name_or_path` names; None if neither is set.

    Raises:
        UserError: it cannot be loaded, is not a fast one, or has no token that ends a text.
    """
    if recipe.data.tokenizer is not None:
        return usable(load_tokenizer(recipe.data.tokenizer, None, base_dir, "data.tokenizer"), "data.tokenizer")
    if recipe.model.name_or_path is not None:
        name, revision = recipe.model.name_or_path, recipe.model.revision
        return usable(load_tokenizer(name, revision, base_dir, "model.name_or_path"), "model.name_or_path")
    return None


def load_tokenizer(name: str, revision: str | None, base_dir: Path, key: str) -> PreTrainedTokenizerBase:
    """A folder or tokenizer.json relative to `base_dir`, or a hub name. Raises UserError."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    path = base_dir / user_path(name)
    fix = (
        "name a folder written by `save_pretrained`, or a tokenizer.json; hub names need the network or a filled cache"
    )
    if not path.exists() and means_a_path(name, base_dir):
        raise UserError(f"no such file or folder: {path}", where=key, fix=fix)
    if not path.exists():
        spare_retries()
    require_sentencepiece(path, key)
    require_as_exported(str(path.parent if path.is_file() else path), weights=False)
    try:
        require_plain_folder(str(path))
        if path.is_file():
            return PreTrainedTokenizerFast(tokenizer_file=str(path))
        source = str(path) if path.is_dir() else name
        return AutoTokenizer.from_pretrained(source, revision=revision, use_fast=True, trust_remote_code=False)
    except Exception as error:  # the library, its parsers and its network raise types of their own
        if "trust_remote_code" in str(error):
            what = f"the tokenizer `{name}` needs code of its own, which galore never runs"
            raise UserError(what, where=key, fix=WITHOUT_CODE) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"the tokenizer `{name}` cannot be loaded ({reason})", where=key, fix=fix) from error


def usable(tokenizer: PreTrainedTokenizerBase, key: str) -> PreTrainedTokenizerBase:
    """The tokenizer with what training needs: Rust inside, an EOS, and a token to pad with."""
    if not tokenizer.is_fast:
        fix = "save it as a fast tokenizer (tokenizer.json) and name that"
        raise UserError("the tokenizer is not a fast one", where=key, fix=fix)
    if id_bound(tokenizer) > LARGEST_VOCABULARY:
        fix = "number its tokens from 0 on: the model has a row for every id up to the largest"
        raise UserError(f"the tokenizer has a token of id {id_bound(tokenizer) - 1:,}", where=key, fix=fix)
    if tokenizer.eos_token_id is None:
        _find_eos(tokenizer, key)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _find_eos(tokenizer: PreTrainedTokenizerBase, key: str) -> None:
    """A bare tokenizer.json does not say which token ends a text; its name does."""
    vocabulary = tokenizer.get_vocab()
    for token in (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "[SEP]"):
        if token in vocabulary:
            tokenizer.eos_token = token
            return
    raise UserError("the tokenizer has no EOS token", where=key, fix="set eos_token in its tokenizer_config.json")


def trained_tokenizer(
    texts: Iterable[str], vocab_size: int, folder: Path, progress: Any, tell: Callable[[str], object] = str
) -> PreTrainedTokenizerBase:
    """A byte-level BPE (GPT-2's) trained on `texts`, kept in `folder`; `texts` is not touched if it is there.

    `tell` hears if what was kept is damaged. It loses nothing: decode(encode(x)) == x for every string. `<|endoftext|>`
    ends a text, and pads.

    Raises:
        UserError: `vocab_size` has no room for the 256 bytes and `<|endoftext|>`.
    """
    from transformers import PreTrainedTokenizerFast

    if vocab_size <= BYTES:
        raise UserError(f"is {vocab_size}, but 256 bytes and {END_OF_TEXT} need 257", where="data.tokenizer_vocab_size")

    def build(private: Path) -> dict[str, Written]:
        names = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), END_OF_TEXT)
        backend = train_bpe(iter(texts), vocab_size)
        made = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **names)
        return save_pretrained(private, made)

    return entry(
        folder,
        build,
        lambda path: PreTrainedTokenizerFast.from_pretrained(path, trust_remote_code=False),
        progress,
        tell,
    )


def train_bpe(texts: Iterator[str], vocab_size: int) -> Any:
    """A `tokenizers.Tokenizer`; deterministic in the texts and their order."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def is_trained_here(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether `train_bpe` made it: its first pieces are the end of text and the bytes, in order."""
    from tokenizers import pre_tokenizers

    first = [END_OF_TEXT, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    return bool(tokenizer.convert_ids_to_tokens(list(range(min(len(first), len(tokenizer))))) == first)


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of everything that turns text into ids."""
    state = f"{tokenizer.eos_token_id} {encoder(tokenizer).to_str()}"
    return hashlib.sha256(state.encode()).hexdigest()


def id_bound(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the largest token id: the rows an embedding needs."""
    return int(max(tokenizer.get_vocab().values())) + 1


def require_room(model: ModelSection, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises UserError if the tokenizer has ids beyond the embedding that the recipe asks for."""
    rows, needed = model.vocab_size, id_bound(tokenizer)
    if model.name_or_path is None and rows is not None and rows < needed:
        fix = f"set it to {needed} or more, or to null for the tokenizer's size"
        raise UserError(f"is {rows}, but the tokenizer has {needed} tokens", where="model.vocab_size", fix=fix)


def frame_of(tokenizer: PreTrainedTokenizerBase, max_length: int) -> Frame:
    """The special tokens the tokenizer puts around a text, such as T5's EOS or LLaMA's BOS.

    Raises:
        UserError: they leave no room for text in a row of `max_length`.
    """
    frame = Frame(*_around(tokenizer), int(tokenizer.pad_token_id))
    if frame.room(max_length) < 1:
        raise UserError(f"is {max_length}: no room for text", where="data.max_length", fix="use a few hundred tokens")
    return frame


def packed_beginning(tokenizer: PreTrainedTokenizerBase, section: DataSection) -> tuple[int, ...]:
    """The special tokens, such as LLaMA's BOS, that begin a document among others; one in its own row has a frame."""
    return _around(tokenizer)[0] if section.packing == "packed" else ()


def prompt_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a document that goes on after `text`, the special tokens that begin every document before it."""
    return [*_around(tokenizer)[0], *encode(encoder(tokenizer), [text])[0]]


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    framed = list(tokenizer("a")["input_ids"])
    start = next((i for i in range(len(framed)) if framed[i : i + len(bare)] == bare), None)
    return ((), ()) if start is None else (tuple(framed[:start]), tuple(framed[start + len(bare) :]))


class Frame(NamedTuple):
    """Special tokens that a tokenizer puts around one text, and what fills a short row."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    pad: int

    def room(self, max_length: int) -> int:
        """Tokens of text in a row."""
        return max_length - len(self.prefix) - len(self.suffix)

    def around(self, ids: npt.NDArray[Any], max_length: int) -> Ids:
        """The row before padding: text without EOS, truncated, between the special tokens."""
        return np.concatenate([self.prefix, ids[: self.room(max_length)], self.suffix]).astype(np.int64)
