"""`galore profile-memory` beside something else: other methods (`--compare`), or real steps here (`--measure`)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from galore.cli.arguments import BY_NAME
from galore.cli.show.tables import screen
from galore.trainer.common.errors import UserError
from galore.trainer.recipe.architectures import refuse_unknown

if TYPE_CHECKING:
    from galore.trainer.fit.advice import Advice
    from galore.trainer.fit.plan import Plan
    from galore.trainer.fit.shipped import Shipped
    from galore.trainer.machine.cards import Card
    from galore.trainer.memory.profile import Profile
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


def profile_as_json(profile: Profile, plan: Plan, advice: Advice | None, shipped: Shipped | None) -> dict[str, object]:
    """A profile as one object: its plan, and what was tried to make it fit."""
    from galore.trainer.recipe.change import spelled

    found = profile.as_json() | {"plan": plan.as_json()}
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
        found["advice_unfinished"] = advice.unfinished
        found["settings_that_fit"] = spelled(advice.settings)
        found["total_bytes_that_fit"] = advice.chosen[-1].profile.total.high if advice.chosen else None
        found["room_for"] = [" ".join(spelled(settings)) for settings in advice.room]
        found["shipped_that_fits"] = (
            {
                "recipe": shipped.name,
                "total_bytes": shipped.profile.total.high,
                "other_method": shipped.method or None,
            }
            if shipped is not None
            else None
        )
    return found


def write_timeline(file: Path, profile: Profile, loaded: LoadedRecipe) -> None:
    """Memory over time as a page or a picture, by the ending of the file."""
    title = f"{loaded.name} on {profile.card.name}"
    if file.suffix == ".png":
        from galore.trainer.memory.chart.pictures import timeline_png

        write_file(file, timeline_png(profile, title))
    else:
        from galore.trainer.memory.chart.timeline import page

        write_file(file, page(profile, title))


def _verdict(fits: bool | None) -> str:
    return {True: "fits", False: "does not fit", None: "may fit"}[fits]


def write_file(file: Path, content: bytes | str) -> None:
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


def loaded_with(recipe: str | None, overrides: list[str], model: str | None, method: str | None) -> LoadedRecipe:
    """The recipe with the network and the method that options name; a network alone brings a recipe along."""
    from galore.trainer.sweep.options import load_method

    if model is not None:
        try:
            refuse_unknown(model)
        except ValueError as error:
            raise UserError(str(error), where="--model") from error
        if recipe is None or "=" in recipe:
            overrides, recipe = [*([recipe] if recipe else []), *overrides], BY_NAME
        overrides = [f"model.architecture_of={model}", *overrides]
    if recipe is None:
        fix = "write galore profile-memory RECIPE, or --model NAME for a public network, such as --model llama-3-8b"
        raise UserError("names neither a recipe nor a model", where="profile-memory", fix=fix)
    return load_method(recipe, overrides, method, "--method")
