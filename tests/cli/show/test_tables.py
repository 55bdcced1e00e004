"""Nothing that a verb prints is cut at 80 columns, nor at 60: texts wrap between words, rows become blocks."""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from galore.cli.show.progress.live import LiveConsole
from galore.cli.show.tables import numbers, say, say_command, say_pairs, show_table

WIDTHS = (80, 60)
VERBS = {
    "recipes list": (),
    "doctor": (),
    "train tiny.yaml --dry-run": ("post_attention_layernorm", "right", "per billion tokens"),
    "profile-memory tiny.yaml --gpu rtx4090": ("most is held by", "optimizer states", "(expandable_segments)"),
    "profile-memory tiny.yaml --gpu rtx4090 --compare": ("8-bit", "activ.", "total"),
    "profile-memory long.yaml --gpu 1GB": ("train.gradient_checkpointing=true", "same results; smaller products"),
    "profile-memory tiny.yaml --measure": ("optimizer states",),
    "bench kernels": ("of the floor",),
}


@pytest.fixture
def narrow(galore: Any, traced_recipes: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str], str]:
    """What a verb prints on so many columns, which it keeps to."""

    def run(columns: int, command: str) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        shown = galore(*command.split())
        assert shown.exit_code == 0, shown.output
        return check(str(shown.stdout), columns)

    return run


def is_whole(line: str) -> bool:
    """Whether it is one word, or a command to copy."""
    return len(line.split()) == 1 or line.startswith("galore ")


def check(text: str, columns: int) -> str:
    assert [line for line in text.splitlines() if len(line) > columns and not is_whole(line)] == []
    assert "…" not in text
    return text


@pytest.mark.parametrize("command", VERBS)
def test_verbs(narrow: Callable[[int, str], str], command: str) -> None:
    if command.startswith("bench"):
        pytest.importorskip("triton")
    if command.endswith("--compare"):
        pytest.importorskip("peft")
    for columns in WIDTHS if "--gpu 1GB" not in command else WIDTHS[:1]:
        text = narrow(columns, command)
        for piece in VERBS[command]:
            assert piece in text, piece


WIDE = [["a name", *(str(10**index) for index in range(1, 12)), "1.00 MiB"], ["another", *["7"] * 11, ""]]


def table_of(rows: list[list[str]]) -> Table:
    table = Table("method", *(f"column {index}" for index in range(1, len(rows[0]))), box=None)
    numbers(table, range(1, len(rows[0])))
    for row in rows:
        table.add_row(*row)
    return table


@pytest.mark.parametrize("columns", [30, 60, 80, 120, 300])
def test_no_cell_is_torn(columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    show_table(Console(), table_of(WIDE))
    lines = check(capsys.readouterr().out, columns).splitlines()
    for cell in (*WIDE[0], "another", "column 11"):
        assert any(cell in line for line in lines), cell
    assert len(lines) == 3 or columns < 200


def test_only_the_text_beside_numbers_wraps(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    show_table(Console(), table_of([["a text of some words", "12.50 GiB"]]))
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "method                column 1",
        "a text of some       12.50 GiB",
        "words",
    ]


def test_a_pipe_gets_every_text_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    say("word " * 100)
    say_pairs([("name", "text " * 100)])
    assert [len(line.split()) for line in capsys.readouterr().out.splitlines()] == [100, 101]


COMMAND = ["galore", "profile-memory", "a folder/" + "x" * 50 + ".yaml", "data.path=two words", "--gpu", "rtx4090"]


def test_a_command_is_as_a_shell_takes_it_on_any_screen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    say_command(COMMAND)
    (line,) = capsys.readouterr().out.splitlines()
    assert shlex.split(line) == COMMAND


def test_neither_a_command_within_a_text_nor_a_path_is_torn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    path, told = "/runs/" + "x" * 50, "wrote {}; check it, which is wise, with `galore recipes validate my.yaml` twice"
    say(told.format(path))
    assert capsys.readouterr().out.splitlines() == [
        "wrote",
        f"{path};",
        "check it, which is wise, with",
        "`galore recipes validate my.yaml` twice",
    ]


def test_a_text_stands_under_a_name_that_leaves_it_no_room(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    say_pairs([("a-name-of-twenty-chars", "and a text of more than a few words")])
    assert capsys.readouterr().out.splitlines() == ["a-name-of-twenty-chars", "  and a text of more than a few words"]


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_header_of_a_run(columns: int) -> None:
    terminal = Console(file=io.StringIO(), width=columns, force_terminal=True, color_system=None)
    console = LiveConsole(terminal)
    console.start({"method": "GaLore " + "with many words " * 12, "output": "/a/path/" + "x" * 100}, total_steps=2)
    console.message("report: " + "runs/some/where/" * 8)
    console.close()
    text = terminal.file.getvalue().replace("\x1b[?25l", "").replace("\x1b[?25h", "")  # type: ignore[attr-defined]
    head = text[: text.index("step")]
    check(head, columns)
    assert head.count("x") == 100
