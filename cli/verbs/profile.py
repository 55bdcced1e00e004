"""`galore profile-memory`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from galore.cli.arguments import Overrides, complete_architecture, complete_recipe
from galore.cli.show.longest import show_longest
from galore.cli.show.profilebeside import (
    BY_NAME,
    compared,
    loaded_with,
    measured,
    profile_as_json,
    refuse_beside,
    told_on_stderr,
    write_file,
    write_timeline,
)
from galore.cli.show.tables import say, say_pairs, screen
from galore.trainer.common.errors import UserError
from galore.trainer.common.format import size
from galore.trainer.recipe.extras import refuse_missing

if TYPE_CHECKING:
    from galore.trainer.fit.advice import Advice
    from galore.trainer.fit.hostmemory import HostProfile
    from galore.trainer.fit.plan import Plan
    from galore.trainer.fit.ranks import Sent
    from galore.trainer.machine.cards import Card
    from galore.trainer.memory.profile import Profile
    from galore.trainer.recipe.load import LoadedRecipe

LONGEST = 120  # seconds until a search that nobody asked for tries nothing more
TO_THE_END = "Trying what to change: to the end, minutes for a large model."
TRYING = (
    f"Trying what to change, for {LONGEST // 60} minutes in all; --advise tries to the end, --no-advise leaves it out."
)
ROOM = "Trying larger micro-batches and longer sequences, in some ten traces like this one."
QUICK = 10_000  # events of a trace; of fewer a search takes a second or two
SEARCH = "finds the largest micro-batch and the longest sequences that use it, in some ten traces like this one."


def profile_memory(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="[RECIPE]",
            help=f"A recipe file, or a shipped name: see `galore recipes list`. With --model {BY_NAME}, if left out.",
            autocompletion=complete_recipe,
            show_default=False,
        ),
    ] = None,
    overrides: Overrides = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A public network in place of the recipe's: llama-2-70b, qwen3-8b … Its dimensions are known here.",
            autocompletion=complete_architecture,
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A method by name in place of the recipe's, as `galore compare --help` lists them.",
            show_default=False,
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            help="The card, such as rtx3090, rtx4070-laptop or 16GB.", show_default="the one here, or rtx4090"
        ),
    ] = None,
    gpus: Annotated[
        int,
        typer.Option(
            min=1, max=4096, help="Processes, one a card: memory of each, what it sends, and how long that takes."
        ),
    ] = 1,
    ram: Annotated[
        float | None,
        typer.Option(
            min=1, max=65536, metavar="GIB", help="Memory of the machine: whether it holds what waits on the host."
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
    longest: Annotated[
        bool, typer.Option("--longest", help="The longest sequences that fit the card, and --ram, and how: minutes.")
    ] = False,
) -> None:
    """What a training step of a recipe will need on a card, without one: does it fit, and what to change.

    Nothing is allocated and no data is read: the run's own training step is traced, and its allocations are replayed
    through a model of PyTorch's CUDA allocator.
    """
    _refuse_contradictions(compare, picture, measure, timeline, fit)
    if ram is not None and (compare or measure):
        other = "--compare" if compare else "--measure"
        raise UserError("goes with the plain profile only", where="--ram", fix=f"leave out {other}")
    if gpus > 1 and (compare or measure or fit is not None):
        other = "--compare" if compare else "--measure" if measure else "--fit"
        raise UserError("goes with the plain profile only", where="--gpus", fix=f"leave out {other}")
    until = time.monotonic() + LONGEST if advise is None and fit is None else math.inf
    loaded = loaded_with(recipe, overrides or [], model, method)
    if gpus > 1 and (loaded.recipe.train.stream_weights or loaded.recipe.optim.gradient_sums == "host"):
        what = "blocks are streamed, and sums of gradients wait on the host, in one process only"
        raise UserError(what, where="--gpus", fix="leave it out, or stream_weights and gradient_sums")
    if longest:
        alone = {"--advise": advise, "--fit": fit, "--timeline": timeline, "--gpus": gpus > 1}
        refuse_beside("--longest", {"--compare": compare, "--measure": measure} | alone)
    if measure:
        measured(loaded, as_json)
        return
    from galore.trainer.machine.cards import card_or_default

    card = card_or_default(gpu)
    if compare:
        compared(loaded, card, as_json, picture)
        return
    if longest:
        show_longest(loaded, card, ram, as_json)
        return

    from galore.trainer.fit.predict import profile_on

    profile = profile_on(_of_one(loaded, gpus), card, brief=model is not None, ranks=gpus)
    if timeline is not None:  # files first: whoever reads the output may leave before its end
        write_timeline(timeline, profile, loaded)
    wanted = fit is not None or (profile.fits is not True if advise is None else advise)
    searched = wanted and not profile.fits
    left = None if as_json else _left(lambda: _show(loaded, profile, gpus, ram))
    if left is not None and fit is None:
        raise left
    shipped = _shipped(loaded, card) if searched else None
    left = left or (None if as_json or not wanted else _left(lambda: _before_the_search(profile.fits, shipped, until)))
    advice = _advice(loaded, card, until) if wanted else None
    fitting = _fitting(loaded, profile, advice)
    if fit is not None and fitting is not None:
        write_file(fit, fitting.text.encode())
    if left is not None:
        raise left
    if as_json:
        sent = {} if gpus == 1 else {"parallel": _sent(loaded, gpus).as_json()}
        found = (
            profile_as_json(profile, _planned(loaded, profile, gpus), advice, shipped)
            | sent
            | _host_as_json(loaded, ram)
        )
        typer.echo(json.dumps(found, indent=2))
    elif advice is not None:
        _show_advice(advice)
    elif advise is None:
        _show_room(loaded, profile)
    if fit is not None and fitting is None:
        fix = f"take the shipped recipe {shipped[0]}, or a smaller model" if shipped else "take a smaller model"
        raise UserError(f"nothing tried makes it fit {profile.card.name}", where="--fit", fix=fix)


def _left(show: Callable[[], None]) -> BaseException | None:
    """Prints; what it ended with where the reader left, who may wait for a file all the same."""
    try:
        show()
    except (BrokenPipeError, SystemExit) as left:  # the latter is rich's
        return left
    return None


def _before_the_search(fits: bool | None, shipped: tuple[str, Profile] | None, until: float) -> None:
    from galore.cli.show.memory import gib

    typer.echo()
    if shipped is not None:
        name, profile = shipped
        say(f"The shipped recipe {name} trains the same model and fits: {gib(profile.total.high)} GiB in total.")
    say(ROOM if fits else TRYING if until < math.inf else TO_THE_END)


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


def _advice(loaded: LoadedRecipe, card: Card, until: float = math.inf) -> Advice:
    from galore.trainer.fit.advice import Adviser

    with told_on_stderr() as tell:
        return Adviser(loaded, card, lambda text: tell(f"trying {text}"), until=until).advise()


def _shipped(loaded: LoadedRecipe, card: Card) -> tuple[str, Profile] | None:
    from galore.trainer.fit.shipped import shipped_that_fits

    with told_on_stderr() as tell:
        return shipped_that_fits(loaded, card, lambda name: tell(f"trying {name}"))


def _planned(loaded: LoadedRecipe, profile: Profile, gpus: int) -> Plan:
    """The whole run; of several processes a step is as long as that of one, sums over them apart."""
    from galore.trainer.fit.duration import duration_on
    from galore.trainer.fit.plan import plan
    from galore.trainer.parameters import dry_run

    costs = dry_run(loaded).costs
    step = duration_on(_of_one(loaded, gpus), profile.trace, profile.card, costs.needed_flops_per_token)
    return plan(loaded.recipe, costs, profile.card.name, step and step.of(gpus))


def _of_one(loaded: LoadedRecipe, gpus: int) -> LoadedRecipe:
    from galore.trainer.fit.ranks import of_one_rank

    return loaded if gpus == 1 else of_one_rank(loaded, gpus)


def _sent(loaded: LoadedRecipe, gpus: int) -> Sent:
    from galore.trainer.fit.ranks import sent_by

    return sent_by(loaded, gpus)


def _host(loaded: LoadedRecipe, ram: float | None) -> HostProfile | None:
    """What the run needs of host memory; None where nothing waits there, and nobody asked."""
    from galore.trainer.fit.hostmemory import host_profile

    host = host_profile(loaded, "cuda")
    return host if host.matters or ram is not None else None


def _host_as_json(loaded: LoadedRecipe, ram: float | None) -> dict[str, object]:
    host = _host(loaded, ram)
    return {} if host is None else {"host": host.as_json(ram)}


def _show(loaded: LoadedRecipe, profile: Profile, gpus: int, ram: float | None) -> None:
    from galore.cli.show.dryrun import plan_lines
    from galore.cli.show.memory import show_profile
    from galore.trainer.parameters import planned_vocabulary

    show_profile(screen(), loaded, profile, planned_vocabulary(loaded)[1])
    typer.echo()
    say_pairs(plan_lines(_planned(loaded, profile, gpus)))
    if (host := _host(loaded, ram)) is not None:
        from galore.cli.show.hostmemory import host_lines

        typer.echo()
        say_pairs(host_lines(host, ram))
    if gpus > 1:
        from galore.cli.show.dryrun import rank_lines

        typer.echo()
        say_pairs(rank_lines(_sent(loaded, gpus)))


def _show_advice(advice: Advice) -> None:
    from galore.cli.show.memory import show_advice

    show_advice(screen(), advice)


def _show_room(loaded: LoadedRecipe, profile: Profile) -> None:
    """What a run that fits has room for, where that is found at once, or how to ask for it."""
    spare, train = profile.limit.low - profile.total.high, loaded.recipe.train
    if spare <= 0 or train.micro_batch_size == train.global_batch_size:
        return
    if len(profile.trace.events) > QUICK:
        typer.echo()
        say(f"{size(spare)} to spare: --advise {SEARCH}")
    elif (advice := _advice(loaded, profile.card)).room:
        _show_advice(advice)


def _fitting(loaded: LoadedRecipe, profile: Profile, advice: Advice | None) -> LoadedRecipe | None:
    """The recipe with what was advised, if that makes it fit."""
    from galore.trainer.recipe.change import changed

    settings = advice.settings if advice and not profile.fits else {}
    return changed(loaded, settings) if profile.fits or settings else None
