"""`galore rope-search`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from galore.cli.arguments import Chosen, Device, DeviceName, Model, Overrides, Recipe, at_home
from galore.cli.errors import tell_skipped
from galore.trainer.common.errors import UserError

UNITS = {"s": 1, "m": 60, "h": 3600}


def rope_search(
    model: Model,
    recipe: Recipe,
    overrides: Overrides = None,
    length: Annotated[
        int | None,
        typer.Option(min=8, max=2**24, help="Tokens of the rows that are scored.", show_default="data.max_length"),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, max=2**20, help="Held-out rows that each candidate is scored on.")] = 8,
    generations: Annotated[int, typer.Option(min=1, max=100_000, help="Generations of the evolution.")] = 20,
    population: Annotated[
        int, typer.Option(min=4, max=4096, help="Candidates at first; a generation has as many children.")
    ] = 16,
    start_tokens: Annotated[
        str, typer.Option(metavar="0,2,…", help="First tokens that may be left alone; transformers knows none.")
    ] = "0",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of the evolution.")] = 42,
    budget: Annotated[
        str | None,
        typer.Option(metavar="30m", help="Time after which this call ends: 90s, 30m, 2h.", show_default="none"),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            callback=at_home,
            help="Where scores, result and picture are kept.",
            show_default="runs/rope-search-RECIPE",
        ),
    ] = None,
    checkpoint: Chosen = None,
    device: Device = DeviceName.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Search the factors of LongRoPE that rotary positions are slowed by, dimension by dimension, for longer sequences.

    An evolution of monotone factors, scored by the perplexity of MODEL on rows that RECIPE holds out. It begins with
    linear scaling, NTK and YaRN. The result is read by model.rope={type: longrope, factors: OUTPUT_DIR/rope.json}.
    Called again it goes on where it was. Of a model with long factors, a --length it was trained at gives short ones.
    """
    from galore.trainer.recipe.load import load_recipe

    seconds, starts = _seconds(budget), _starts(start_tokens)
    loaded = load_recipe(recipe, overrides or [])

    from galore.trainer.machine.process import import_libraries, prepare_process

    prepare_process()  # before torch is imported
    import_libraries()

    from galore.cli.show.longcontext import searching, show_search
    from galore.cli.show.progress.preparing import preparing
    from galore.trainer.machine.device import choose_device, choose_threads
    from galore.trainer.trained.longcontext.evolution import Size
    from galore.trainer.trained.longcontext.ropesearch import Asked, search

    choose_threads(loaded.recipe.train.num_threads)
    root = output_dir or Path("runs") / f"rope-search-{loaded.name}"
    half = population // 2
    size = Size(population, half, half, population - half)
    tokens = length or loaded.recipe.data.max_length
    asked = Asked(tokens, rows, seed, generations, seconds, starts, size)
    where = str(choose_device(device))
    with preparing() as progress, searching() as tell:
        found = search(model, loaded, root, asked, device=where, checkpoint=checkpoint, progress=progress, tell=tell)
    tell_skipped(found.skipped)
    drawn = _draw(root, found, f"{found.values['search']['model']} at {tokens:,} tokens")
    if as_json:
        typer.echo(json.dumps(found.values))
        return
    show_search(found, tokens)
    if not found.done:
        typer.echo(f"the time is over in generation {found.generations + 1}: call again to go on")
    typer.echo(f"wrote {root}/rope.json{drawn}")
    key = f"{{type: longrope, factors: {root}/rope.json}}"
    typer.echo(f"next:   galore train RECIPE model.name_or_path=… data.max_length={tokens} 'model.rope={key}'")


def _draw(root: Path, found: object, title: str) -> str:
    """Write the picture where it can be drawn; what to say of it."""
    from galore.trainer.common.durable import replace_file
    from galore.trainer.recipe.extras import no_plots
    from galore.trainer.trained.longcontext.picture import draw
    from galore.trainer.trained.longcontext.ropesearch import Found

    assert isinstance(found, Found)
    if why := no_plots():
        return f"; {why}"
    replace_file(root / "rope.png", draw(found, title))
    return ", rope.png"


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([smh]?)", text.strip())
    if found is None or not float(found[1]):
        raise UserError(f"{text!r} is no length of time", where="--budget", fix="write 90s, 30m or 2h")
    return float(found[1]) * UNITS[found[2] or "s"]


def _starts(text: str) -> tuple[int, ...]:
    parts = [each.strip() for each in text.split(",")]
    if not all(each.isdecimal() and len(each) < 8 for each in parts):
        raise UserError(f"{text!r} are no numbers of tokens", where="--start-tokens", fix="write 0, or 0,2,4,8")
    return tuple(sorted({int(each) for each in parts}))
