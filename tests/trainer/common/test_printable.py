"""Text of others: nothing in it steers a terminal, opens a door, or goes on for ever."""

from __future__ import annotations

import logging
import time

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.common.printable import (
    LONGEST_LINE,
    MOST_LINES,
    listed,
    masked,
    masked_command,
    masked_logs,
    presentable,
    printable,
    shortened,
)


def test_control_characters() -> None:
    assert printable("größe\n中文\t\x07\u202e") == "größe\n中文 " + "\N{REPLACEMENT CHARACTER}" * 2
    assert "\x1b" not in str(UserError("is \x1b[2Jodd", where="\x1b]0;x\x07", fix="\x9b1m"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("override `x.hf_token=hf_abc`: there is no key", "override `x.hf_token=***`: there is no key"),
        ("HF_TOKEN: 'abc', other", "HF_TOKEN: '***', other"),
        ("token=abc", "token=***"),
        ("wandb.api_key = abc", "wandb.api_key = ***"),
        ('{"password": "p w"}', '{"password": "*** w"}'),
        ("https://me:pw@host/x https://me@host", "https://***@host/x https://***@host"),
        ("/here/https:/me:pw@host/x", "/here/https:/***@host/x"),
        ("`optim.hf_tokn=abc`", "`optim.hf_tokn=***`"),
        ("https://me:p/w@host/x", "https://***@host/x"),
        ("not of the hub: hf_" + "a" * 34, "not of the hub: ***"),
        ("found my-very-own-secret here", "found *** here"),
    ],
)
def test_secrets_are_masked(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "my-very-own-secret")
    assert masked(text) == shown
    assert str(UserError(text)) == shown


@pytest.mark.parametrize(
    "text",
    [
        "eval.max_tokens=100",
        "data.tokenizer_vocab_size=4096",
        "eos_token: </s>, pad_token=[PAD]",
        "https://huggingface.co/org/name@main",
        "/home/me@work/data",
        "the secret of a good run",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["t.py", "--hf_token", "abc", "--seed", "1"], "t.py --hf_token *** --seed 1"),
        (["t.py", "--wandb-api-key=abc", "-v"], "t.py --wandb-api-key=*** -v"),
        (["t.py", "--apiKey", "-abc", "x"], "t.py --apiKey *** x"),
        (["t.py", "--openai_key=abc", "--DbPassword", "a=b"], "t.py --openai_key=*** --DbPassword ***"),
        (["t.py", "--use-auth-token", "--client-secret-file=f"], "t.py --use-auth-token --client-secret-file=***"),
        (["t.py", "db.passwd=abc", "--x", "https://me:pw@host/x"], "t.py db.passwd=*** --x https://***@host/x"),
        (["t.py", "hf_" + "a" * 20, "--token="], "t.py *** --token="),
        (
            ["galore", "train", "demo", "eval.max_tokens=9", "data.tokenizer=x", "train.tile_tokens=auto"],
            "galore train demo eval.max_tokens=9 data.tokenizer=x train.tile_tokens=auto",
        ),
        (["t.py", "the key = a token"], "t.py the key = a token"),
        ([], ""),
    ],
)
def test_a_command_line_has_no_secrets(words: list[str], shown: str) -> None:
    assert masked_command(words) == shown
    assert masked_command(shown.split(" ")) == shown


def test_length_is_bounded() -> None:
    assert shortened("a" * 10, 10) == "a" * 10
    assert shortened("a" * 7 + "b" * 7, 8) == "aaaaa…bb"
    assert len(presentable("x" * 10**7)) == LONGEST_LINE
    lines = presentable("x\n" * 10**6).split("\n")
    assert len(lines) == MOST_LINES + 1
    assert lines[-1] == "  … and 999,881 lines more"


@pytest.mark.parametrize("part", ["-", "a.", "://a:", "token", "=", "hf_", "secret ", "sk-"])
def test_no_text_takes_long(part: str) -> None:
    begun = time.perf_counter()
    presentable(part * 10**6)
    assert time.perf_counter() - begun < 2


def test_lists_are_cut() -> None:
    assert listed(["a", 2]) == "a, 2"
    assert listed([]) == ""
    assert listed(map(str, range(200_000)), 3) == "0, 1, 2 and 199,997 more"
    assert len(listed(["x" * 10**6] * 20)) < 1000


def test_logs_are_masked(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("some.library")
    with masked_logs():
        log.warning("trying %s again in %d s", "https://me:pw@host/x", 8)
        log.warning("100 % of hf_token=abc")
    log.warning("%s", "https://me:pw@host/x")
    told = ["trying https://***@host/x again in 8 s", "100 % of hf_token=***", "https://me:pw@host/x"]
    assert [record.getMessage() for record in caplog.records] == told
