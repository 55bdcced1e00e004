"""A recipe whose whole steps take a fraction of a second."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

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


@pytest.fixture(scope="session")
def unfrozen() -> Iterator[None]:
    """Afterwards, the collector sees everything again."""
    import galore.trainer.memory.verify  # noqa: F401 - before anything is frozen

    yield
    gc.unfreeze()


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
