"""`galore chat`: lines of a pipe are turns, commands are none, and nothing a model says reaches the terminal as it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from galore.cli.main import app
from galore.cli.verbs import chat as verb
from galore.trainer.common.errors import UserError


class _Talk:
    """Stands in for a conversation; `stopped` is said, then Ctrl-C comes."""

    def __init__(self, *given: Any) -> None:
        self.given, self.system, self.log = given, given[-1], list[Any]()
        TALKS.append(self)

    def reset(self) -> None:
        self.log.append("reset")

    def answer(self, text: str, tell: Any) -> int:
        self.log.append((self.system, text))
        if text == "long":
            raise UserError("does not fit", where="message", fix="say it in fewer words")
        tell(f"to {text}\x1b[2J ")
        if text == "stopped":
            raise KeyboardInterrupt
        tell("is this\n")
        return 2 if text == "much" else 0


TALKS: list[_Talk] = []


@pytest.fixture
def talk(calls: Any) -> Any:
    TALKS.clear()
    stored = SimpleNamespace(model="M", tokenizer="T", origin="runs/a", skipped=(), recipe=None)
    calls.replace("galore.trainer.machine.device", choose_device="cpu", choose_threads=None)
    calls.replace("galore.trainer.trained.runmodel", load_run_model=stored)
    calls.replace("galore.trainer.trained.chat")
    import sys

    sys.modules["galore.trainer.trained.chat"].Chat = _Talk  # type: ignore[attr-defined]
    return stored


def _piped(text: str | bytes, *options: str) -> Any:
    return CliRunner().invoke(app, ["chat", "runs/a", *options], input=text, prog_name="galore")


def test_each_line_of_a_pipe_is_a_turn(talk: Any) -> None:
    said = _piped("one\n\n/system be kind\ntwo\n/reset\nmuch\n/exit\nnever\n", "--temperature", "0", "--system", "s")
    assert said.exit_code == 0, said.output
    assert said.stdout == "".join(
        f"to {word}\N{REPLACEMENT CHARACTER}[2J is this\n\n" for word in ("one", "two", "much")
    )
    assert TALKS[0].log == [("s", "one"), ("be kind", "two"), "reset", ("be kind", "much")]
    assert TALKS[0].given == (talk, 512, 0.0, 0.95, 0, "s")
    assert "first 2 messages are forgotten" in said.stderr


def test_bytes_that_are_no_text_are_replaced(talk: Any) -> None:
    assert _piped(b"a\xff\n").exit_code == 0
    assert _piped("a\n", "--system", "b\udcff").exit_code == 0
    replaced = "\N{REPLACEMENT CHARACTER}"
    assert [talk.log for talk in TALKS] == [[("", f"a{replaced}")], [(f"b{replaced}", "a")]]


def test_a_path_is_no_command(talk: Any) -> None:
    assert _piped("/usr/bin/env what?\nnext\n").exit_code == 0
    assert TALKS[0].log == [("", "/usr/bin/env what?"), ("", "next")]


def test_in_a_pipe_an_error_ends_it(talk: Any) -> None:
    for line in ("long\n", "/rest\n"):
        said = _piped(line + "next\n")
        assert said.exit_code == 2, said.output
        assert "→" in said.stderr
        assert "next" not in said.stdout


def test_at_a_terminal_ctrl_c_stops_the_answer_and_an_error_ends_nothing(
    talk: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    conversation: Any = _Talk("")
    verb._converse(conversation, iter(["stopped", "long", "/rest", "/help", "on"]), patient=True)
    shown = capsys.readouterr()
    assert "to stopped" in shown.out
    assert "(stopped)" in shown.out
    assert shown.out.endswith("is this\n\n")
    assert "does not fit" in shown.err
    assert "/rest: is no command" in shown.err


def test_typed_lines_end_with_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(["one", "two"])

    def typed(prompt: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", typed)
    assert list(verb._typed()) == ["one", "two"]
