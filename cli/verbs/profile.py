"""`galore profile-memory`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from galore.cli import arguments as given
from galore.cli.show.fastest import fastest as show_fastest
from galore.cli.show.longest import show_longest
from galore.cli.show.profile import Plain, say_before_a_search
from galore.cli.show.profilebeside import compared, loaded_with, measured, told_on_stderr, write_file, write_timeline
from galore.cli.show.tables import say, screen
from galore.trainer.common.durable import refuse_unwritable
from galore.trainer.common.errors import UserError
from galore.trainer.common.format import size
from galore.trainer.recipe.extras import refuse_missing

if TYPE_CHECKING:
    from galore.trainer.fit.advice import Advice
    from galore.trainer.fit.shipped import Shipped
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

BESIDE = ("--compare", "--measure")
# → options that it does not go with
WITHOUT = {
    "--ram": BESIDE,
    "--gpus": (*BESIDE, "--fit"),
    "--timeline": BESIDE,
    "--fit": BESIDE,
    "--longest": (*BESIDE, "--gpus", "--timeline", "--fit", "--advise", "--fastest"),
    "--fastest": (*BESIDE, "--gpus", "--timeline", "--advise"),
}
# → endings of its file, what is said of another, and what to do
FILES = {
    "--timeline": ((".html", ".png"), "neither .html nor .png", "name a page or a picture"),
    "--picture": ((".png",), "no .png", "give it that ending"),
    "--fit": ((".yaml", ".yml"), "no .yaml", "give it that ending"),
    "--plot": ((".png", ".svg"), "neither .png nor .svg", "name a picture"),
}


def profile_memory(
    recipe: given.RecipeOrNone = None,
    overrides: given.Overrides = None,
    model: given.Network = None,
    method: given.Method = None,
    gpu: given.Gpu = None,
    gpus: given.Gpus = 1,
    ram: given.Ram = None,
    parallel: given.Parallel = None,
    as_json: given.AsJson = False,
    timeline: given.Timeline = None,
    compare: given.Compare = False,
    picture: given.Picture = None,
    measure: given.Measure = False,
    advise: given.Advise = None,
    fit: given.Fit = None,
    longest: given.Longest = False,
    force: given.Force = False,
    fastest: given.Fastest = False,
    plot: given.Plot = None,
) -> None:
    """What a training step of a recipe will need on a card, without one: does it fit, and what to change.

    Nothing is allocated and no data is read: the run's own training step is traced, and its allocations are replayed
    through a model of PyTorch's CUDA allocator.
    """
    files = {"--timeline": timeline, "--picture": picture, "--fit": fit, "--plot": plot}
    flags = {"--compare": compare, "--measure": measure and not fastest, "--advise": advise}
    if flags["--measure"] and gpu is not None:
        raise UserError("runs on what is here", where="--measure", fix="leave out --gpu, or --measure")
    if advise is False and fit is not None:
        raise UserError("writes what a search finds", where="--fit", fix="leave out --no-advise, or --fit")
    searches = {"--longest": longest, "--fastest": fastest}
    _refuse_contradictions({"--ram": ram, "--gpus": gpus > 1, "--force": force, **flags, **searches, **files})
    _refuse_files(files, force)
    if parallel is not None and gpus == 1:
        raise UserError("says how several processes share a run", where="--parallel", fix="name how many: --gpus 2")
    until = time.monotonic() + LONGEST if advise is None and fit is None else math.inf
    shared = [f"parallel.mode={parallel}"] if parallel else []
    loaded = loaded_with(recipe, [*(overrides or []), *shared], model, method)
    if gpus > 1 and (loaded.recipe.train.stream_weights or loaded.recipe.optim.gradient_sums == "host"):
        what = "blocks are streamed, and sums of gradients wait on the host, in one process only"
        raise UserError(what, where="--gpus", fix="leave it out, or stream_weights and gradient_sums")
    if fastest:
        show_fastest(loaded, gpu, ram, measure=measure, as_json=as_json, recipe=fit, plot=plot)
        return
    if measure:
        measured(loaded, as_json)
        return
    from galore.trainer.machine.cards import card_or_default

    card = card_or_default(gpu, loaded.recipe.train.device)
    if compare:
        compared(loaded, card, as_json, picture)
        return
    if longest:
        asked = {"--model": model, "--method": method, "--gpu": gpu, "--ram": ram}
        command = ["galore", "profile-memory", *([recipe] if recipe else []), *(overrides or [])]
        command += [str(word) for name, value in asked.items() if value is not None for word in (name, value)]
        show_longest(loaded, card, ram, as_json, command)
        return

    from galore.trainer.fit.ranks import profile_of_one

    profile = profile_of_one(loaded, card, gpus, brief=model is not None)
    if timeline is not None:  # files first: whoever reads the output may leave before its end
        write_timeline(timeline, profile, loaded)
    plain = Plain(loaded, profile, gpus, ram)
    if plain.in_parts and advise:
        raise UserError("tries changes on one process", where="--advise", fix="leave it out, or --parallel fsdp")
    wanted = not plain.in_parts and (fit is not None or (profile.fits is not True if advise is None else advise))
    searched = wanted and not plain.fits
    left = None if as_json else _left(plain.show)
    if left is not None and fit is None:
        raise left
    shipped = _shipped(loaded, card, ram) if searched and gpus == 1 else None
    what = ROOM if plain.fits else TRYING if until < math.inf else TO_THE_END
    left = left or (None if as_json or not wanted else _left(lambda: say_before_a_search(shipped, what)))
    advice = _advice(loaded, card, gpus, until, ram) if wanted else None
    fitting = _fitting(loaded, plain.fits, advice)
    if fit is not None and fitting is not None:
        write_file(fit, fitting.text)
    if left is not None:
        raise left
    if as_json:
        typer.echo(json.dumps(plain.as_json(advice, shipped), indent=2))
    elif advice is not None:
        _show_advice(advice)
    elif advise is None and plain.fits and not plain.in_parts:
        _show_room(loaded, profile, gpus, ram)
    if fit is not None and fitting is None:
        by = f", whose method is another ({shipped.method})" if shipped and shipped.method else ""
        fix = f"take the shipped recipe {shipped.name}{by}, or a smaller model" if shipped else "take a smaller model"
        refused = not plain.on_host or any(not each.profile.on_host for each in (advice.trials if advice else ()))
        machine = f" in a machine with {ram:g} GiB of memory" if refused else ""
        fix += ", or more memory than --ram says" if refused else ""
        raise UserError(f"nothing tried makes it fit {profile.card.name}{machine}", where="--fit", fix=fix)


def _left(show: Callable[[], None]) -> BaseException | None:
    """Prints; what it ended with where the reader left, who may wait for a file all the same."""
    try:
        show()
    except (BrokenPipeError, SystemExit) as left:  # the latter is rich's
        return left
    return None


def _refuse_contradictions(options: Mapping[str, Any]) -> None:
    """Raise UserError for options that do not go together; `options` has those that were given, by name."""
    if options["--picture"] is not None and not options["--compare"]:
        raise UserError("--picture draws a comparison", where="--picture", fix="add --compare, or use --timeline")
    if options["--compare"] and options["--measure"]:
        raise UserError("--compare predicts and --measure runs", where="--measure", fix="choose one of them")
    if options["--plot"] is not None and not options["--fastest"]:
        raise UserError("draws what --fastest tried", where="--plot", fix="add --fastest")
    if options["--force"] and options["--fit"] is None:
        raise UserError("replaces what --fit names", where="--force", fix="add --fit FILE.yaml, or leave it out")
    for option, others in WITHOUT.items():
        if options[option]:
            for other in (other for other in others if options[other]):
                raise UserError("goes with the plain profile only", where=option, fix=f"leave out {other}")


def _refuse_files(files: Mapping[str, Path | None], force: bool) -> None:
    """Raise UserError for a file that cannot be written, before anything is traced for it."""
    named = {option: file for option, file in files.items() if file is not None}
    for option, file in named.items():
        endings, told, fix = FILES[option]
        if str(file).startswith("--"):
            raise UserError("names no file", where=option, fix=f"write {option} FILE{endings[0]} {file}")
        if file.suffix not in endings:
            raise UserError(f"{file} is {told}", where=option, fix=fix)
    for option, file in named.items():
        if file.suffix in (".png", ".svg"):
            page = f"write {option} as .html" if ".html" in FILES[option][0] else ""
            refuse_missing("matplotlib", "a picture", option, page)
    for option, file in named.items():
        refuse_unwritable(file, option)
    if not force and (recipe := named.get("--fit")) is not None and recipe.exists():
        raise UserError(f"{recipe} exists already", where="--fit", fix="name another file, or add --force")


def _advice(loaded: LoadedRecipe, card: Card, gpus: int, until: float = math.inf, ram: float | None = None) -> Advice:
    from galore.trainer.fit.advice import Adviser
    from galore.trainer.losses.router import is_configured

    with told_on_stderr() as tell:
        router = is_configured(loaded)
        how: dict[str, Any] = {"until": until, "processes": gpus, "router": router, "ram": ram}
        return Adviser(loaded, card, lambda text: tell(f"trying {text}"), **how).advise()


def _shipped(loaded: LoadedRecipe, card: Card, ram: float | None) -> Shipped | None:
    from galore.trainer.fit.shipped import shipped_that_fits

    with told_on_stderr() as tell:
        return shipped_that_fits(loaded, card, lambda name: tell(f"trying {name}"), ram)


def _show_advice(advice: Advice) -> None:
    from galore.cli.show.memory import show_advice

    show_advice(screen(), advice)


def _show_room(loaded: LoadedRecipe, profile: Profile, gpus: int, ram: float | None) -> None:
    """What a run that fits has room for, where that is found at once, or how to ask for it."""
    spare, train = profile.limit.low - profile.total.high, loaded.recipe.train
    if spare <= 0 or train.micro_batch_size >= train.global_batch_size // gpus:
        return
    if len(profile.trace.events) > QUICK:
        typer.echo()
        say(f"{size(spare)} to spare: --advise {SEARCH}")
    elif (advice := _advice(loaded, profile.card, gpus, ram=ram)).room:
        _show_advice(advice)


def _fitting(loaded: LoadedRecipe, fits: bool | None, advice: Advice | None) -> LoadedRecipe | None:
    """The recipe with what was advised, if that makes it fit."""
    from galore.trainer.recipe.change import changed

    settings = advice.settings if advice and not fits else {}
    return changed(loaded, settings) if fits or settings else None
