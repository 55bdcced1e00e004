"""`galore profile-memory`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from galore.cli.arguments import Overrides, Recipe
from galore.cli.show.tables import say, screen
from galore.trainer.common.errors import UserError
from galore.trainer.recipe.extras import refuse_missing

if TYPE_CHECKING:
    from galore.trainer.fit.advice import Advice
    from galore.trainer.machine.cards import Card
    from galore.trainer.memory.profile import Profile
    from galore.trainer.recipe.load import LoadedRecipe

DEFAULT_CARD = "rtx4090"
TRYING = "Trying what to change: a minute or two for a large model; --no-advise leaves it out."


def profile_memory(
    recipe: Recipe,
    overrides: Overrides = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            help="The card, such as rtx3090, rtx4070-laptop or 16GB.", show_default="the one here, or rtx4090"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    timeline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write memory over time: an .html page or a .png picture.")
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="AdamW, LoRA and GaLore side by side.")] = False,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="With --compare: draw the comparison.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Carry out real steps here, and compare them with the prediction.")
    ] = False,
    advise: Annotated[
        bool | None,
        typer.Option("--advise/--no-advise", help="Try what to change.", show_default="where it does not surely fit"),
    ] = None,
    fit: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="Write the recipe with the changes that make it fit.")
    ] = None,
) -> None:
    """What a training step of a recipe will need on a card, without one: does it fit, and what to change.

    Nothing is allocated and no data is read: the run's own training step is traced, and its allocations are replayed
    through a model of PyTorch's CUDA allocator.
    """
    _refuse_contradictions(compare, picture, measure, timeline, fit)
    from galore.trainer.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    if measure:
        _measure(loaded, as_json)
        return
    card = _card(gpu)
    if compare:
        _compare(loaded, card, as_json, picture)
        return

    from galore.trainer.fit.predict import profile_on

    profile = profile_on(loaded, card)
    if timeline is not None:  # files first: whoever reads the output may leave before its end
        _write_timeline(timeline, profile, loaded)
    wanted = fit is not None or (profile.fits is not True if advise is None else advise)
    left = None if as_json else _shown(loaded, profile, TRYING if wanted else "")
    if left is not None and fit is None:
        raise left
    advice = _advice(loaded, card) if wanted else None
    fitting = _fitting(loaded, profile, advice)
    if fit is not None and fitting is not None:
        _write(fit, fitting.text.encode())
    if left is not None:
        raise left
    if as_json:
        typer.echo(json.dumps(_as_json(profile, advice), indent=2))
    elif advice is not None:
        _show_advice(advice)
    if fit is not None and fitting is None:
        raise UserError(f"nothing tried makes it fit {profile.card.name}", where="--fit", fix="take a smaller model")


def _shown(loaded: LoadedRecipe, profile: Profile, last: str) -> BaseException | None:
    """Prints the profile, and `last`; what it ended with where the reader left, who may still wait for a file."""
    try:
        _show(loaded, profile)
        if last:
            typer.echo()
            say(last)
    except (BrokenPipeError, SystemExit) as left:  # the latter is rich's
        return left
    return None


def _refuse_contradictions(
    compare: bool, picture: Path | None, measure: bool, timeline: Path | None, fit: Path | None
) -> None:
    if picture is not None and not compare:
        raise UserError("--picture draws a comparison", where="--picture", fix="add --compare, or use --timeline")
    if compare and measure:
        raise UserError("--compare predicts and --measure runs", where="--measure", fix="choose one of them")
    for option, given in (("--timeline", timeline), ("--fit", fit)):
        if given is not None and (compare or measure):
            raise UserError("goes with the plain profile only", where=option, fix="leave out --compare or --measure")
    if timeline is not None and timeline.suffix not in (".html", ".png"):
        raise UserError(f"{timeline} is neither .html nor .png", where="--timeline", fix="name a page or a picture")
    if picture is not None and picture.suffix != ".png":
        raise UserError(f"{picture} is no .png", where="--picture", fix="give it that ending")
    if fit is not None and fit.suffix not in (".yaml", ".yml"):
        raise UserError(f"{fit} is no .yaml", where="--fit", fix="give it that ending")
    for option, given in (("--timeline", timeline), ("--picture", picture)):
        if given is not None and given.suffix == ".png":
            refuse_missing("matplotlib", "a picture", option, "write --timeline as .html" if given is timeline else "")
    for option, given in (("--timeline", timeline), ("--picture", picture), ("--fit", fit)):
        if given is not None and not given.absolute().parent.is_dir():
            raise UserError(f"there is no folder {given.parent}", where=option, fix="make it, or write elsewhere")


def _card(name: str | None) -> Card:
    from galore.trainer.machine.cards import attached, card

    here = attached() if name is None else None
    return here if here is not None else card(DEFAULT_CARD if name is None else name)


def _advice(loaded: LoadedRecipe, card: Card) -> Advice:
    from galore.trainer.fit.advice import Adviser

    with _told_on_stderr() as tell:
        return Adviser(loaded, card, lambda text: tell(f"trying {text}")).advise()


@contextmanager
def _told_on_stderr() -> Iterator[Callable[[str], None]]:
    """A line that says what is being done, on a terminal only."""
    from rich.console import Console

    console = Console(stderr=True)
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    with console.status("") as status:
        yield status.update


def _as_json(profile: Profile, advice: Advice | None) -> dict[str, object]:
    from galore.trainer.recipe.change import spelled

    found = profile.as_json()
    if advice is not None:
        found["advice"] = [
            {
                "settings": spelled(trial.settings),
                "gained_bytes": trial.gained,
                "total_bytes": trial.profile.total.high,
                "fits": trial.profile.fits,
                "cost": trial.cost,
            }
            for trial in advice.trials
        ]
        found["settings_that_fit"] = spelled(advice.settings)
        found["total_bytes_that_fit"] = advice.chosen[-1].profile.total.high if advice.chosen else None
        found["room_for"] = spelled(advice.room)
    return found


def _show(loaded: LoadedRecipe, profile: Profile) -> None:
    from galore.cli.show.memory import show_profile
    from galore.trainer.parameters import planned_vocabulary

    show_profile(screen(), loaded, profile, planned_vocabulary(loaded.recipe)[1])


def _show_advice(advice: Advice) -> None:
    from galore.cli.show.memory import show_advice

    show_advice(screen(), advice)


def _compare(loaded: LoadedRecipe, card: Card, as_json: bool, picture: Path | None) -> None:
    from galore.trainer.fit.compare import compare
    from galore.trainer.recipe.extras import missing

    if why := missing("peft"):
        typer.echo(f"LoRA is left out: {why}", err=True)
    with _told_on_stderr() as tell:
        tell("tracing")
        found = []
        for name, profile in compare(loaded, card):
            tell(f"traced {name}")
            found.append((name, profile))
    if picture is not None:
        from galore.trainer.memory.chart.pictures import bars_png

        bars = [(name, each.categories, _verdict(each.fits)) for name, each in found if each is not None]
        _write(picture, bars_png(bars, card.usable_low, f"{loaded.name} on {card.name}"))
    if as_json:
        typer.echo(json.dumps({name: each and each.as_json() for name, each in found}, indent=2))
    else:
        from galore.cli.show.memory import show_comparison

        show_comparison(screen(), loaded, card, found)


def _verdict(fits: bool | None) -> str:
    return {True: "fits", False: "does not fit", None: "may fit"}[fits]


def _measure(loaded: LoadedRecipe, as_json: bool) -> None:
    from galore.trainer.machine.process import prepare_process

    prepare_process()  # before torch is imported

    from galore.trainer.fit.verify import verify

    with _told_on_stderr() as tell:
        tell("training real steps")
        found = verify(loaded)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
        return
    from galore.cli.show.memory import show_measured

    show_measured(screen(), loaded, found)


def _write_timeline(file: Path, profile: Profile, loaded: LoadedRecipe) -> None:
    title = f"{loaded.name} on {profile.card.name}"
    if file.suffix == ".png":
        from galore.trainer.memory.chart.pictures import timeline_png

        _write(file, timeline_png(profile, title))
    else:
        from galore.trainer.memory.chart.timeline import page

        _write(file, page(profile, title).encode())


def _fitting(loaded: LoadedRecipe, profile: Profile, advice: Advice | None) -> LoadedRecipe | None:
    """The recipe with what was advised, if that makes it fit."""
    from galore.trainer.recipe.change import changed

    settings = advice.settings if advice and not profile.fits else {}
    return changed(loaded, settings) if profile.fits or settings else None


def _write(file: Path, content: bytes) -> None:
    from galore.trainer.common.durable import replace_file

    replace_file(file, content)
    typer.echo(f"wrote {file}", err=True)
