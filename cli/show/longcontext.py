"""Long sequences on a screen: a search for rotary factors, passkeys, the loss by position."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from galore.cli.errors import tell_skipped
from galore.cli.show.tables import screen, show_table
from galore.trainer.common.format import exponential

if TYPE_CHECKING:
    from galore.trainer.trained.longcontext.evaluation import LongScores
    from galore.trainer.trained.longcontext.ropesearch import Found, Tell

SECONDS = 10.0  # between two lines of progress where there is no terminal


@contextmanager
def searching() -> Iterator[Tell]:
    """Something to tell of each candidate: a line on stderr that a terminal writes over, else one now and then."""
    live, last = sys.stderr.isatty(), 0.0

    def tell(generation: int, generations: int, scored: int, loss: float) -> None:
        nonlocal last
        if live or time.monotonic() - last > SECONDS:
            last = time.monotonic()
            line = f"generation {generation + 1}/{generations}  {scored} scored  perplexity {exponential(loss):.3f}"
            typer.echo(f"\r{line}" if live else line, err=True, nl=not live)

    yield tell
    if live and last:
        typer.echo("", err=True)


def show_search(found: Found, length: int) -> None:
    """The usual ways beside what was found."""
    table = _table("positions", "loss", "perplexity")
    for name, loss in [*found.known.items(), ("searched", found.loss)]:
        table.add_row(name, f"{loss:.4f}", f"{exponential(loss):.3f}")
    show_table(screen(), table)
    start = f", the first {found.candidate.start} tokens left alone" if found.candidate.start else ""
    factors = ", ".join(f"{each:g}" for each in found.candidate.factors)
    typer.echo(f"at {length:,} tokens, attention × {found.candidate.attention:g}{start}; factors {factors}")


def show_evaluation(scored: LongScores, as_json: bool) -> None:
    """What a model scored on long sequences, as a table or as one line of JSON."""
    tell_skipped(scored.skipped)
    for note in scored.notes:
        typer.echo(note, err=True)
    if as_json:
        from galore.trainer.record.metrics import finite

        known = {"model": scored.origin, "step": scored.step}
        typer.echo(
            json.dumps(
                finite(known | ({"passkey": scored.passkey} if scored.passkey else {"by_position": scored.by_position}))
            )
        )
        return
    typer.echo(scored.origin)
    if scored.passkey:
        show_passkeys(scored.passkey)
    else:
        show_positions(scored.by_position)


def show_passkeys(rows: Sequence[Mapping[str, Any]]) -> None:
    """Shares of passkeys that were found, a row per length and a column per depth."""
    depths = list(rows[0]["by_depth"])
    table = _table("tokens", *(f"{depth} %" for depth in depths), "all", "asked")
    for row in rows:
        shares = [f"{row['by_depth'][depth]:.0%}" for depth in depths]
        table.add_row(f"{row['length']:,}", *shares, f"{row['accuracy']:.0%}", f"{row['asked']}")
    show_table(screen(), table)


def show_positions(rows: Sequence[Mapping[str, Any]]) -> None:
    """The loss of tokens by how many stand before them."""
    table = _table("positions", "loss", "perplexity", "tokens")
    for row in rows:
        where = f"{row['from']:,} – {row['to']:,}"
        table.add_row(where, f"{row['loss_nats']:.4f}", f"{row['perplexity']:.3f}", f"{row['tokens']:,}")
    show_table(screen(), table)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first)
    for each in others:
        table.add_column(each, justify="right")
    return table
