"""A recipe whose whole steps take a fraction of a second."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from galore.trainer.recipe.load import LoadedRecipe, load_recipe

TINY = (
    "model.hidden_size=64",
    "model.intermediate_size=176",
    "model.num_hidden_layers=2",
    "model.num_attention_heads=4",
    "model.vocab_size=256",
    "data.max_length=32",
    "optim.rank=8",
    "optim.update_proj_gap=4",
    "train.global_batch_size=2",
    "train.micro_batch_size=2",
    "train.device=cpu",
)


@pytest.fixture
def tiny(unfrozen: None) -> Callable[..., LoadedRecipe]:
    """The demo with a LLaMA of 130,000 parameters, and with overrides such as `optim.method=full`."""

    def load(*overrides: str) -> LoadedRecipe:
        return load_recipe("demo", [*TINY, *overrides])

    gc.freeze()  # every rehearsal collects garbage; what the libraries have made is none
    return load


@pytest.fixture
def breaking_off(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AbstractContextManager[pytest.MonkeyPatch]]:
    """A context in which a run is interrupted once `done` steps are done; what else is patched in it ends with it."""

    @contextmanager
    def after(done: int) -> Iterator[pytest.MonkeyPatch]:
        from galore.trainer import loop

        real, steps = loop.train_step, count()

        def fragile(*arguments: Any, **options: Any) -> Any:
            if next(steps) == done:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "train_step", fragile)
            with pytest.raises(KeyboardInterrupt):
                yield patch

    return after


@pytest.fixture(scope="session")
def unfrozen() -> Iterator[None]:
    """Afterwards, the collector sees everything again."""
    import galore.trainer.fit.verify  # noqa: F401 - before anything is frozen

    yield
    gc.unfreeze()


_refused: list[tuple[str, int]] = []


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if _refused and event in ("open", "os.scandir") and isinstance(arguments[0], (str, os.PathLike)):
        for part, number in _refused:
            if part in os.fspath(arguments[0]):
                raise OSError(number, os.strerror(number), os.fspath(arguments[0]))


@pytest.fixture(scope="session")
def _audited() -> None:
    sys.addaudithook(_refuse)  # stays for as long as the process: it cannot be taken back


@pytest.fixture
def unreadable(_audited: None) -> Iterator[list[tuple[str, int]]]:
    """With (part, errno) in it, whatever opens a file or lists a folder with `part` in its path gets that error."""
    yield _refused
    _refused.clear()


CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def chat_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a byte-level tokenizer that merges nothing and speaks ChatML: one token a byte, or a special one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.chat_template = CHATML
    folder = tmp_path_factory.mktemp("chatty")
    tokenizer.save_pretrained(folder)
    return folder
