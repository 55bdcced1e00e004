"""`galore profile-memory --longest`: the longest sequences that fit, and the settings with which they do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from galore.cli.show.profilebeside import told_on_stderr
from galore.cli.show.tables import say, say_command, say_pairs
from galore.trainer.common.format import size

if TYPE_CHECKING:
    from galore.trainer.fit.length.search import Longest
    from galore.trainer.machine.cards import Card
    from galore.trainer.recipe.load import LoadedRecipe


def show_longest(loaded: LoadedRecipe, card: Card, ram: float | None, as_json: bool, command: Sequence[str]) -> None:
    """Search, and print what was found; `command` is what this was asked for with, but for --longest."""
    from galore.trainer.fit.length.search import Search

    with told_on_stderr() as tell:
        found = Search(loaded, card, lambda text: tell(f"tracing {text}")).longest(ram)
    if as_json:
        typer.echo(json.dumps(found.as_json(ram), indent=2))
        return
    if card.note:
        say(card.note)
    say_pairs(longest_lines(found, ram))
    if found.length:
        from galore.trainer.recipe.change import spelled

        kept = [each for each in command if each.partition("=")[0] not in found.settings]
        typer.echo()
        say_command([*kept, *spelled(found.settings)])


def longest_lines(found: Longest, ram: float | None) -> Iterator[tuple[str, str]]:
    """(what, how much)."""
    from galore.cli.show.hostmemory import host_lines
    from galore.trainer.recipe.change import spelled

    card = f"{size(found.total)} of {size(found.limit)} of {found.card}"
    if not found.length:
        more = ", and more than the host has" if found.bound == "host" else ""
        yield "longest", f"none fits: sequences of 1,024 tokens take {card}{more}"
        if found.host is not None:
            yield from host_lines(found.host, ram)
        yield "basis", found.basis
        return
    yield "longest", f"{found.length:,} tokens, a multiple of 1,024: {card}"
    what = {"card": "more than the card has", "host": "more than the host has"}.get(found.bound)
    beyond = "nothing longer was tried" if found.too_long is None else f"{found.too_long:,} tokens take {what}"
    yield "beyond", beyond
    yield "settings", ", ".join(spelled(found.settings))
    yield "beside", "logits are made in chunks, always; what a block keeps, its input, waits on the host"
    if found.positions is not None and found.length > found.positions:
        yield (
            "positions",
            f"the model knows {found.positions:,}: beyond them model.rope scales positions, and it has to be tuned",
        )
    elif found.positions is not None:
        yield "positions", f"the model knows {found.positions:,}"
    if found.step is not None:
        least, most = found.step.tokens_per_second
        yield (
            "speed",
            f"{least:,.0f} to {most:,.0f} tokens/s, {found.step.tokens:,} tokens a step, bound by the {found.step.ordinary[0].bound}",
        )
    if found.host is not None:
        yield from host_lines(found.host, ram)
    yield "basis", found.basis
