"""Whatever the model libraries raise about a folder is one message, with the file and what to do; our mistakes are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from galore.trainer.common import library
from galore.trainer.common.errors import UserError
from galore.trainer.common.library import explained
from galore.trainer.data.tokens.tokenizer import load_tokenizer as named_tokenizer
from galore.trainer.trained.runmodel import load_run_model, load_tokenizer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
Change = Callable[[Path], object]


@pytest.fixture
def folder(build: Callable[..., PreTrainedModel], tmp_path: Path) -> Path:
    path = tmp_path / "stored"
    build().save_pretrained(path)
    return path


def cut(share: float) -> Change:
    def change(folder: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])

    return change


def config(**values: object) -> Change:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


def index(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {}}))


@pytest.mark.parametrize(
    ("change", "named", "remedy"),
    [
        (cut(0.5), "model.safetensors", "fetch it again"),
        (cut(0.0), "model.safetensors", "fetch it again"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64), "model.safetensors", "fetch it again"),
        (lambda f: (f / "model.safetensors").write_text(POINTER), "model.safetensors", "git lfs pull"),
        (lambda f: (f / "config.json").write_text(POINTER), "config.json", "git lfs pull"),
        (lambda f: (f / "config.json").write_text("{"), "configuration", "config.json"),
        (lambda f: (f / "config.json").write_text("[1]"), "configuration", "config.json"),
        (config(dtype="bflgat16"), "bflgat16", "config.json"),
        (config(num_hidden_layers="two"), ": Field 'num_hidden_layers' expected int, got str", "config.json"),
        (config(num_attention_heads=0, head_dim=None), "num_attention_heads is 0", "stored weights have"),
        (config(num_key_value_heads=0), "num_key_value_heads is 0", "stored weights have"),
        (config(num_key_value_heads=-2), "num_key_value_heads is -2", "stored weights have"),
        (config(num_key_value_heads=3), "is not a multiple of num_key_value_heads 3", "stored weights have"),
        (config(head_dim=0), "head_dim is 0", "stored weights have"),
        (config(intermediate_size=0), "intermediate_size is 0", "stored weights have"),
        (config(vocab_size=-3), "vocab_size is -3", "stored weights have"),
        (config(num_hidden_layers=-1), "num_hidden_layers is -1", "stored weights have"),
        (config(hidden_act="none such"), "none such", "config.json"),
        (index, "weights", "config.json"),
        (config(num_hidden_layers=1), "layers.1", ""),
        (config(num_hidden_layers=10**9), "this machine has", "smaller"),
        (config(num_hidden_layers=10**12, model_type="qwen2"), "this machine has", "smaller"),
        (config(hidden_size=10**6), "this machine has", "smaller"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "adapter", "merge_and_unload"),
    ],
)
def test_an_unusable_folder_is_one_message(folder: Path, change: Change, named: str, remedy: str) -> None:
    change(folder)
    with pytest.raises(UserError) as refused:
        load_run_model(str(folder))
    assert named in refused.value.what
    assert str(folder) in refused.value.what or named == "this machine has"
    assert remedy in refused.value.fix
    assert len(str(refused.value).splitlines()) == 2 - (not remedy)


def test_a_tokenizer_that_cannot_be_read_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": 7}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(UserError, match=f"cannot read the tokenizer of {tmp_path}"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_in_sentencepieces_format_alone_says_what_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "find_spec", lambda name: None)
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e")
    for load in (
        lambda: load_tokenizer(str(tmp_path)),
        lambda: named_tokenizer(str(tmp_path), None, tmp_path, "data.tokenizer"),
    ):
        with pytest.raises(UserError, match=r"tokenizer\.model alone") as refused:
            load()
        assert "pip install sentencepiece" in refused.value.fix
    assert refused.value.where == "data.tokenizer"


@pytest.mark.parametrize("error", [RuntimeError, Exception, IndexError, RecursionError])
def test_any_kind_of_error_is_told_in_one_line(error: type[Exception]) -> None:
    with pytest.raises(UserError, match=r"cannot load it") as refused, explained("x", "load it of"):
        raise error("bad\x1b[31m\nthing" + "g" * 5000)
    assert len(str(refused.value)) < 1000
    assert "\x1b" not in str(refused.value)


def test_our_own_mistakes_are_let_through() -> None:
    def galores() -> None:
        raise NameError("ours")

    galores = type(galores)(galores.__code__, {"__name__": "galore.trainer.somewhere", "NameError": NameError})
    with pytest.raises(NameError, match="ours"), explained("x"):
        galores()
    with pytest.raises(UserError), explained("x"):
        torch.zeros(2).no_such_method()  # here the innermost frame is not galore's


def test_an_attention_that_the_architecture_lacks_has_the_remedy_that_works(
    tmp_path: Path, build: Callable[..., PreTrainedModel]
) -> None:
    from architectures import decoder

    decoder("gptneo").save_pretrained(tmp_path / "gptneo")
    with pytest.raises(UserError) as refused:
        build(260, name_or_path="gptneo")
    assert refused.value.where == "model.attn_implementation"
    assert refused.value.fix == "set model.attn_implementation: eager"
    assert build(260, name_or_path="gptneo", attn_implementation="eager").config._attn_implementation == "eager"


def test_two_tensors_for_one_parameter_are_refused(build: Callable[..., PreTrainedModel], tmp_path: Path) -> None:
    build().save_pretrained(tmp_path)  # a head of its own
    config(tie_word_embeddings=True)(tmp_path)
    with pytest.raises(UserError, match=r"two different tensors for model\.embed_tokens\.weight and lm_head\.weight"):
        load_run_model(str(tmp_path))
