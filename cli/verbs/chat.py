"""`galore chat`."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from galore.cli.arguments import Chosen, Device, DeviceName, Model, Temperature, TopP, legible
from galore.cli.errors import show
from galore.cli.verbs.generate import LONGEST, load_to_generate
from galore.trainer.common.errors import UserError
from galore.trainer.common.printable import printable

if TYPE_CHECKING:
    from galore.trainer.trained.chat import Chat

LONGEST_MESSAGE = 2**20  # letters of a line from a pipe
COMMAND = re.compile(r"/\w*")  # a path has more of these strokes, and is said to the model
HELP = "/reset forgets the conversation, /system TEXT sets what it begins with, /exit leaves; Ctrl-C stops an answer"


def chat(
    model: Model,
    system: Annotated[str, typer.Option(callback=legible, help="The system prompt the conversation begins with.")] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, max=LONGEST, help="Length of an answer, in tokens.")] = 512,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.95,
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="The same seed gives the same answers.")] = 0,
    checkpoint: Chosen = None,
    device: Device = DeviceName.auto,
) -> None:
    """Talk to a trained model in its chat template. From a pipe, each line is a turn.

    In the conversation: /reset, /system TEXT, /exit; Ctrl-C stops an answer.
    """
    stored = load_to_generate(model, device, checkpoint)

    from galore.trainer.trained.chat import Chat

    talk = Chat(stored, max_new_tokens, temperature, top_p, seed, system)
    if sys.stdin.isatty():
        typer.echo(f"{stored.origin}\n{HELP}", err=True)
        _converse(talk, _typed(), patient=True)
    else:
        _converse(talk, _piped(), patient=False)


def _converse(talk: Chat, lines: Iterator[str], patient: bool) -> None:
    """Answer line after line; where somebody sits there, `patient`, what cannot be answered ends nothing."""
    for line in lines:
        command, _, rest = line.strip().partition(" ")
        if command in ("/exit", "/quit"):
            return
        try:
            if COMMAND.fullmatch(command):
                _command(talk, command, rest.strip())
            elif line.strip():
                _turn(talk, line.strip())
        except UserError as error:
            if not patient:
                raise
            show(error)
        except KeyboardInterrupt:
            if not patient:
                raise
            typer.echo(" (stopped)")


def _turn(talk: Chat, text: str) -> None:
    forgotten = talk.answer(text, _say)
    typer.echo("")
    if forgotten:
        typer.echo(f"(the first {forgotten} messages are forgotten: the model has no room for more)", err=True)


def _say(piece: str) -> None:
    """A model may say anything, and steers no terminal with it."""
    typer.echo(printable(piece), nl=False)
    sys.stdout.flush()


def _command(talk: Chat, command: str, rest: str) -> None:
    known: dict[str, Callable[[], object]] = {
        "/reset": talk.reset,
        "/system": lambda: setattr(talk, "system", rest),
        "/help": lambda: typer.echo(HELP, err=True),
    }
    if command not in known:
        raise UserError("is no command of a conversation", where=command, fix=HELP)
    known[command]()


def _typed() -> Iterator[str]:
    """Lines as they are typed, until Ctrl-D; with the history and the keys of readline, where there is one."""
    with suppress(ImportError):
        import readline  # noqa: F401
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    while True:
        try:
            yield input("> ")
        except EOFError:
            typer.echo("")
            return


def _piped() -> Iterator[str]:
    """The lines of standard input, each to a limit; bytes that are no text are replaced."""
    while line := sys.stdin.buffer.readline(LONGEST_MESSAGE):
        yield line.decode(errors="replace")
