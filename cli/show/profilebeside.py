"""`galore profile-memory` beside something else: other methods (`--compare`), or real steps here (`--measure`)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from galore.cli.show.tables import screen

if TYPE_CHECKING:
    from galore.trainer.machine.cards import Card
    from galore.trainer.recipe.load import LoadedRecipe


def compared(loaded: LoadedRecipe, card: Card, as_json: bool, picture: Path | None) -> None:
    """The methods side by side, on the screen, as JSON or as a picture."""
    from galore.trainer.fit.compare import compare
    from galore.trainer.recipe.extras import missing

    if why := missing("peft"):
        typer.echo(f"LoRA is left out: {why}", err=True)
    with told_on_stderr() as tell:
        tell("tracing")
        found = []
        for name, profile in compare(loaded, card):
            tell(f"traced {name}")
            found.append((name, profile))
    if picture is not None:
        from galore.trainer.memory.chart.pictures import bars_png

        bars = [(name, each.categories, _verdict(each.fits)) for name, each in found if each is not None]
        write_file(picture, bars_png(bars, card.usable_low, f"{loaded.name} on {card.name}"))
    if as_json:
        typer.echo(json.dumps({name: each and each.as_json() for name, each in found}, indent=2))
    else:
        from galore.cli.show.memory import show_comparison

        show_comparison(screen(), loaded, card, found)


def measured(loaded: LoadedRecipe, as_json: bool) -> None:
    """Real steps here against the prediction of the same steps."""
    from galore.trainer.machine.process import prepare_process

    prepare_process()  # before torch is imported

    from galore.trainer.fit.verify import verify

    with told_on_stderr() as tell:
        tell("training real steps")
        found = verify(loaded)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
        return
    from galore.cli.show.memory import show_measured

    show_measured(screen(), loaded, found)


def _verdict(fits: bool | None) -> str:
    return {True: "fits", False: "does not fit", None: "may fit"}[fits]


def write_file(file: Path, content: bytes) -> None:
    """The whole file or none of it, and a line that says so."""
    from galore.trainer.common.durable import replace_file

    replace_file(file, content)
    typer.echo(f"wrote {file}", err=True)


@contextmanager
def told_on_stderr() -> Iterator[Callable[[str], None]]:
    """A line that says what is being done, on a terminal only."""
    from rich.console import Console

    console = Console(stderr=True)
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    with console.status("") as status:
        yield status.update
