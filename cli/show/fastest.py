"""`galore profile-memory --fastest`: the shortest step that fits, beside the recipe's own and the second best."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from galore.cli.show.dryrun import short_span
from galore.cli.show.memory import gib, subject
from galore.cli.show.profilebeside import told_on_stderr, write_file
from galore.cli.show.tables import numbers, say, screen, show_table
from galore.trainer.common.format import count, counted, size

if TYPE_CHECKING:
    from galore.trainer.fit.search.fastest import Choice, Fastest
    from galore.trainer.fit.search.places import Place
    from galore.trainer.recipe.load import LoadedRecipe


def fastest(
    loaded: LoadedRecipe,
    gpu: str | None,
    ram: float | None,
    *,
    measure: bool,
    as_json: bool,
    recipe: Path | None,
    plot: Path | None,
) -> None:
    """Search, write what was asked for, and show what was found."""
    place = _place(loaded, gpu, ram, measure)

    from galore.trainer.fit.search.fastest import Search
    from galore.trainer.recipe.change import changed

    with told_on_stderr() as tell:
        found = Search(loaded, place, lambda text: tell(f"trying {text}")).run()
        if measure:
            from galore.trainer.fit.search.measured import by_measurement

            tell("measuring what is fastest")
            found = by_measurement(loaded, found)
    if recipe is not None:
        chosen = changed(loaded, found.best.settings)
        assert chosen is not None
        write_file(recipe, chosen.text)
    if plot is not None:
        from galore.trainer.fit.search.picture import picture

        write_file(plot, picture(found, f"{loaded.name} on {found.place}", plot.suffix[1:]))
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
    else:
        if place.note:
            say(place.note)
        _show(loaded, found)


def _place(loaded: LoadedRecipe, gpu: str | None, ram: float | None, measure: bool) -> Place:
    """The card that is named, or the CPU where the recipe is for it."""
    from galore.trainer.common.errors import UserError

    here = gpu is None and loaded.recipe.train.device == "cpu"
    if measure and not here:
        what = "--fastest measures on the CPU only, where the recipe says so"
        raise UserError(what, where="--measure", fix="add train.device=cpu and leave out --gpu, or leave out --measure")
    if here:
        from galore.trainer.machine.process import prepare_process

        prepare_process()  # before torch is imported

    from galore.trainer.fit.search.places import Here, OnCard
    from galore.trainer.machine.cards import card_or_default

    return Here(ram) if here else OnCard(card_or_default(gpu, loaded.recipe.train.device), ram)


def _show(loaded: LoadedRecipe, found: Fastest) -> None:
    say(f"{subject(loaded)} on {found.place}: which setting trains fastest and fits", bold=True)
    table = Table("setting", "a step", "tokens/s", "total GiB", "fits", box=None)
    numbers(table, (1, 2, 3))
    for name, choice in _rows(found):
        table.add_row(name, *_pace(choice), gib(choice.total), "yes" if choice.fits else "no")
    show_table(screen(), table)
    typer.echo()
    for line in _lines(found):
        say(line, hanging="  ")


def _rows(found: Fastest) -> Iterator[tuple[str, Choice]]:
    yield f"fastest\n  {_spelled(found.best)}", found.best
    if found.second is not None:
        yield f"second best\n  {_spelled(found.second)}", found.second
    for choice in found.rounded:
        yield f"rounded otherwise\n  {_spelled(choice)}", choice
    if found.best.settings:
        yield "the recipe as it is", found.shipped


def _pace(choice: Choice) -> tuple[str, str]:
    if choice.measured is not None:
        return f"{short_span((choice.measured,) * 2)} measured", count(choice.estimate.tokens / choice.measured)
    (least, most), (slowest, fastest) = choice.estimate.seconds, choice.estimate.tokens_per_second
    rates = count(slowest) if least == most else f"{count(slowest)}–{count(fastest)}"
    return short_span((least, most)), rates


def _spelled(choice: Choice) -> str:
    from galore.trainer.recipe.change import spelled

    return " ".join(spelled(choice.settings)) or "the recipe as it is"


def _lines(found: Fastest) -> Iterator[str]:
    from galore.trainer.recipe.change import spelled

    if not found.best.settings:
        yield "The recipe is the fastest already."
    elif found.shipped.fits:
        gained = found.shipped.pace / found.best.pace - 1
        more = found.best.total - found.shipped.total
        yield f"{gained:+.0%} tokens/s for {size(abs(more))} {'more' if more >= 0 else 'less'} memory; the results are the same."
    if found.second is not None:
        behind, spared = found.second.pace / found.best.pace - 1, found.best.total - found.second.total
        yield (
            f"The second best takes {behind:.1%} longer and needs {size(abs(spared))} {'less' if spared >= 0 else 'more'}."
        )
    if found.rounded:
        gained = found.best.pace / found.rounded[-1].pace - 1
        last = found.rounded[-1].settings
        chosen = {path: value for path, value in last.items() if path not in found.best.settings}
        yield (
            f"What is rounded otherwise has other last digits (docs/fused.md, docs/matmul.md), and {gained:+.0%} tokens/s here. "
            f"To choose with it: the same command, and behind it {' '.join(spelled(chosen))}"
        )
    few = counted(found.few, "trace of few blocks", "traces of few blocks")
    yield f"{counted(len(found.tried), 'choice')}, known from {few} and {found.whole} of all: {found.best.estimate.basis}."
    if found.ended is not None:
        yield f"Micro-batches above {found.ended} were not tried: none should be faster, by how those below it fell."
    yield f"The limit is {size(found.limit)}; every one that is proposed was traced as a whole and fits."
