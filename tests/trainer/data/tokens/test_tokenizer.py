from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from galore.trainer.common.errors import UserError
from galore.trainer.data.batch import silent
from galore.trainer.data.tokens import tokenizer
from galore.trainer.data.tokens.tokenizer import (
    END_OF_TEXT,
    frame_of,
    given_tokenizer,
    id_bound,
    is_trained_here,
    load_tokenizer,
    tokenizer_digest,
    train_bpe,
    trained_tokenizer,
    usable,
)
from galore.trainer.recipe.schema.recipe import Recipe

TEXTS = ["a cat sat on the mat and looked at the hat"] * 20


@pytest.fixture
def trained(tmp_path: Path) -> PreTrainedTokenizerFast:
    return trained_tokenizer(TEXTS, 270, tmp_path / "bpe", silent)


@pytest.mark.parametrize(
    "text",
    [
        " lead",
        "trail ",
        "a  b\n\n\tc",
        "don 't . !",
        "naïve 漢字 🎉 \u0000 \ufeff",
        END_OF_TEXT + "x",
        "\r\n",
        "a ' b n't",
    ],
)
def test_decode_inverts_encode(trained: PreTrainedTokenizerFast, text: str) -> None:
    assert trained.decode(trained(text)["input_ids"]) == text


def test_special_tokens(trained: PreTrainedTokenizerFast) -> None:
    assert trained.eos_token == trained.bos_token == trained.pad_token == trained.unk_token == END_OF_TEXT
    assert trained.eos_token_id == 0
    assert id_bound(trained) == len(trained) == 270


def test_one_that_was_trained_here_is_known_wherever_it_lies(trained: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    trained.add_tokens(["<image_0>"])
    trained.save_pretrained(tmp_path / "copy")
    assert is_trained_here(PreTrainedTokenizerFast.from_pretrained(tmp_path / "copy"))
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    assert not is_trained_here(PreTrainedTokenizerFast(tokenizer_object=backend))


def test_training_is_deterministic_and_done_once(tmp_path: Path, trained: PreTrainedTokenizerFast) -> None:
    again = trained_tokenizer(TEXTS, 270, tmp_path / "other", silent)
    assert tokenizer_digest(again) == tokenizer_digest(trained)

    def unread() -> object:
        raise AssertionError("the cached tokenizer is not used")
        yield

    cached = trained_tokenizer(unread(), 270, tmp_path / "bpe", silent)  # type: ignore[arg-type]
    assert tokenizer_digest(cached) == tokenizer_digest(trained)


def test_a_folder_and_a_file_give_the_same_tokenizer(tmp_path: Path, trained: PreTrainedTokenizerFast) -> None:
    trained.save_pretrained(tmp_path / "saved")
    folder = load_tokenizer("saved", None, tmp_path, "data.tokenizer")
    file = usable(load_tokenizer("saved/tokenizer.json", None, tmp_path, "data.tokenizer"), "data.tokenizer")
    assert tokenizer_digest(folder) == tokenizer_digest(file) == tokenizer_digest(trained)
    assert file.pad_token_id == file.eos_token_id == 0


def test_the_recipe_decides(tmp_path: Path, trained: PreTrainedTokenizerFast) -> None:
    trained.save_pretrained(tmp_path / "model")
    sections = {"data": {"path": "x"}, "train": {"max_steps": 1}}
    assert given_tokenizer(Recipe.model_validate(sections), tmp_path) is None
    sections["model"] = {"name_or_path": "model"}
    assert tokenizer_digest(given_tokenizer(Recipe.model_validate(sections), tmp_path)) == tokenizer_digest(trained)


def test_the_digest_sees_one_merge_and_not_the_padding(trained: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    digest = tokenizer_digest(trained)
    trained("text", padding="max_length", max_length=7, truncation=True)  # leaves its mark on the Rust tokenizer
    assert tokenizer_digest(trained) == digest
    assert tokenizer_digest(trained_tokenizer(TEXTS, 269, tmp_path / "smaller", silent)) != digest


@pytest.mark.parametrize("name", ["./absent", "/absent/tokenizer.json", "a/b/c"])
def test_an_absent_path_is_refused_without_the_network(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        load_tokenizer(name, None, tmp_path, "data.tokenizer")


def test_what_cannot_be_loaded_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("{")
    for name in ("empty", "broken.json"):
        with pytest.raises(UserError, match="cannot be loaded") as caught:
            load_tokenizer(name, None, tmp_path, "data.tokenizer")
        assert "save_pretrained" in caught.value.fix


def test_a_tokenizer_without_an_end_is_refused() -> None:
    backend = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(UserError, match="no EOS token"):
        usable(PreTrainedTokenizerFast(tokenizer_object=backend), "data.tokenizer")


def test_an_id_that_no_embedding_reaches_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a lower bound: to copy a tokenizer, the library walks over all ids up to the largest."""
    assert tokenizer.LARGEST_VOCABULARY == 2**31 - 1
    monkeypatch.setattr(tokenizer, "LARGEST_VOCABULARY", 2**20)
    backend = Tokenizer(models.WordLevel({"a": 0, "</s>": 2**20}, unk_token="a"))
    with pytest.raises(UserError, match="a token of id 1,048,576"):
        usable(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>"), "data.tokenizer")


def test_a_vocabulary_without_room_for_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="257"):
        trained_tokenizer(TEXTS, 256, tmp_path / "x", silent)


def test_the_frame_is_what_the_template_adds() -> None:
    backend = train_bpe(iter(TEXTS), 270)
    backend.add_special_tokens(["<s>"])
    plain = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT)
    assert frame_of(plain, 8) == ((), (), 0)
    backend.post_processor = processors.TemplateProcessing(
        single=f"<s> $A {END_OF_TEXT}", special_tokens=[("<s>", 270), (END_OF_TEXT, 0)]
    )
    framed = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END_OF_TEXT, pad_token="<s>")
    assert frame_of(framed, 8) == ((270,), (0,), 270)
    with pytest.raises(UserError, match="no room"):
        frame_of(framed, 2)


def test_pre_tokenizers_are_bytes() -> None:
    backend = train_bpe(iter(["x"]), 257)
    assert backend.get_vocab_size() == 257
    assert len(pre_tokenizers.ByteLevel.alphabet()) == 256


def test_code_of_a_tokenizer_is_refused_and_nothing_is_asked(chat_tokenizer: Path, tmp_path: Path) -> None:
    """With `y` on standard input; not one byte of it is read."""
    canary, folder, answers = tmp_path / "canary", tmp_path / "tokenizer", tmp_path / "answers"
    shutil.copytree(chat_tokenizer, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": "Own"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "own.py").write_text(f"open({str(canary)!r}, 'w')\nfrom transformers import PreTrainedTokenizer as Own\n")
    answers.write_text("y\n" * 50)
    with answers.open("rb", buffering=0) as stdin:
        command = [sys.executable, "-P", "-c", "from galore.cli.main import main; main()", "train", "demo"]
        command += [f"data.tokenizer={folder}", f"data.cache_dir={tmp_path}/cache"]
        done = subprocess.run(
            command, stdin=stdin, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert stdin.tell() == 0
    assert not canary.exists()
    assert done.returncode == 2
    assert f"the tokenizer `{folder}` needs code of its own, which galore never runs" in done.stderr
    assert done.stderr.count("error:") == 1
    assert "trust_remote_code" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
