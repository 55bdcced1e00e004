"""What prepared data come to, in words and as a histogram of lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from galore.cli.show.tables import say, say_pairs
from galore.trainer.common.format import counted, percent, size

if TYPE_CHECKING:
    from galore.trainer.data.survey import Survey
    from galore.trainer.recipe.schema.recipe import Recipe

WIDTH = 40  # of the longest bar
WHOLE, CUT = "#", "+"  # marks of documents up to data.max_length, and beyond


def show_survey(found: Survey, recipe: Recipe) -> None:
    """All of it, in 80 columns where they are all there are."""
    from galore.trainer.data.notices import notices
    from galore.trainer.facts import data_line

    say_pairs(
        [
            ("data", data_line(found.summary)),
            ("epoch", _epoch(found, recipe)),
            ("packing", _packing(found, recipe)),
            ("cut off", _cut(found, recipe)),
            ("lengths", _lengths(found)),
            ("cache", _cache(found)),
        ]
    )
    for note in (*found.notes, *notices(found.summary)):
        say(note)
    typer.echo()
    for line in histogram(found, recipe):
        typer.echo(line)


def histogram(found: Survey, recipe: Recipe) -> list[str]:
    """A line for each class of lengths: from, to, how many documents, their share as a bar."""
    classes = found.lengths.histogram(found.max_length)
    most, total = max(documents for *_, documents in classes), sum(documents for *_, documents in classes)
    names = [f"{low:,}-{high:,}" if high > low else f"{low:,}" for low, high, _ in classes]
    left, right = max(map(len, (*names, "tokens"))), max(map(len, (f"{most:,}", what := _what(recipe) + "s")))
    head = f"{'tokens':>{left}}  {what:>{right}}"
    lines = [
        f"{name:>{left}}  {documents:>{right},}  {100 * documents / total:5.1f} %  "
        + (CUT if low > found.max_length else WHOLE) * -(-documents * WIDTH // most)
        for name, (low, _, documents) in zip(names, classes, strict=True)
    ]
    beyond = any(low > found.max_length for low, *_ in classes)
    return [head, *(line.rstrip() for line in lines), *([f"{CUT} longer than data.max_length"] if beyond else [])]


def _what(recipe: Recipe) -> str:
    return "example" if recipe.data.task or any(part.examples for part in recipe.data.parts) else "document"


def _epoch(found: Survey, recipe: Recipe) -> str:
    steps = found.rows / recipe.train.global_batch_size
    return f"{counted(found.rows, 'row')}, {counted(found.used, 'token')}, {steps:,.1f} steps of {recipe.train.global_batch_size}"


def _packing(found: Survey, recipe: Recipe) -> str:
    if recipe.data.task:
        return "none: the examples of a batch are padded to its longest"
    padding = "the rest is padding" if found.used < found.positions else "without padding"
    if recipe.data.packing == "paper" and found.used < found.positions:
        padding += ", of which a step is fed what its longest row needs"
    return f"{recipe.data.packing}: {percent(found.efficiency)} of {counted(found.positions, 'position')} hold a token, {padding}"


def _cut(found: Survey, recipe: Recipe) -> str:
    cut, whole = found.cut_examples, found.whole
    what = f"{cut:,} of {counted(whole, _what(recipe))} ({percent(cut / max(whole, 1))}) exceed data.max_length {found.max_length:,}"
    if not whole:
        what = "nothing: a document that exceeds a row goes on in the next"
    if found.cut_tokens is None:
        return what
    return f"{what}; {counted(found.cut_tokens, 'token')} ({percent(found.cut_tokens / max(found.lengths.total, 1))}) are left out"


def _lengths(found: Survey) -> str:
    lengths = found.lengths
    mean = lengths.total / max(int(lengths.counts.sum()), 1)
    return f"mean {mean:,.0f}, median {lengths.quantile(0.5):,}, 95 % up to {lengths.quantile(0.95):,}, longest {lengths.longest:,} tokens"


def _cache(found: Survey) -> str:
    if found.cache is None:
        return "none: examples of a task are encoded at every start"
    total = sum(path.stat().st_size for folder in found.folders for path in folder.iterdir())
    return f"{found.cache}, {size(total)}, {'made now' if found.made else 'there already'}"
