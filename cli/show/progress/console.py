"""Which console a run gets: live progress on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO, cast

from galore.cli.show.progress.plain import PlainConsole
from galore.cli.show.progress.stream import Unbreakable
from galore.trainer.recipe.schema.train import LogSection

if TYPE_CHECKING:
    from galore.trainer.record.metrics import Console


def make_console(log: LogSection, stream: TextIO | None = None, *, verbose: bool = False) -> Console:
    """The console for `stream` (standard output). It never raises: what cannot be shown is not shown."""
    output = cast(TextIO, Unbreakable(stream or sys.stdout))
    if not output.isatty():
        return PlainConsole(output, log.logging_steps, verbose)

    from rich.console import Console as Terminal

    from galore.cli.show.progress.live import LiveConsole

    terminal = Terminal(file=output, highlight=False)
    return (
        LiveConsole(terminal, verbose) if terminal.is_interactive else PlainConsole(output, log.logging_steps, verbose)
    )
