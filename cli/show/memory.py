"""Memory profiles as tables: one recipe, several methods, remedies, predicted against measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.table import Table

from galore.cli.show.dryrun import short_span
from galore.cli.show.tables import least_width, numbers, say, show_table
from galore.trainer.common.format import GIB, counted, percent
from galore.trainer.memory.categories import CATEGORIES, MEANING, OVERHEAD, spoken
from galore.trainer.memory.verdict import VERDICTS, out_of_memory, place, reason, runs_out, unit_of
from galore.trainer.recipe.methods import described

if TYPE_CHECKING:
    from galore.trainer.fit.advice import Advice, Need, Trial
    from galore.trainer.fit.verify import Verification
    from galore.trainer.machine.cards import Card
    from galore.trainer.memory.peak import Holder
    from galore.trainer.memory.profile import Profile
    from galore.trainer.recipe.load import LoadedRecipe

MOST_HOLDERS = 8
# Names that leave room for twelve columns.
SHORT = {
    "optimizer_states": "states",
    "projectors": "P",
    "accumulators": "accum.",
    "activations": "activ.",
    "recompute": "recomp.",
    "logits_and_loss": "logits",
    "temporaries": "temp.",
    "workspaces": "works.",
    "allocator_overhead": "overhead",
    "cuda_context": "context",
}
# The columns of a comparison where those twelve do not fit.
NARROW = {
    "weights": ("weights",),
    "grads": ("gradients", "accumulators"),
    "optim.": ("optimizer_states", "projectors"),
    "activ.": ("activations", "recompute", "logits_and_loss"),
    "rest": ("temporaries", "workspaces", *OVERHEAD),
}
ADAPTERS_ALONE = (
    "LoRA trains its adapters alone here. The shipped -lora recipes also train embeddings, head and last norm, "
    "and need more: optim.train_modules=[embed_tokens,lm_head,norm]."
)
UNFINISHED = "The time is over before all was tried: --advise tries to the end, several changes together included."
NOTHING_FITS = "Nothing that was tried makes it fit, not even all of it together."
FITS = {True: "yes", False: "no", None: "maybe"}


def gib(count: int) -> str:
    return f"{count / GIB:.2f}"


class Unit(NamedTuple):
    """The unit of one profile's tables: GiB, or MiB where that would show noughts."""

    nbytes: int
    name: str

    def told(self, count: int) -> str:
        return f"{count / self.nbytes:.2f}"


def subject(loaded: LoadedRecipe) -> str:
    """What is profiled: the recipe, and before it the network and the method, where its name does not tell."""
    network = loaded.recipe.model.architecture_of
    return loaded.name if network is None else f"{network}, {described(loaded.recipe.optim)}, as {loaded.name},"


def show_profile(console: Console, loaded: LoadedRecipe, profile: Profile, notes: Sequence[str] = ()) -> None:
    """The verdict, the categories at the peak, the peaks of the phases, and what holds the memory."""
    unit = Unit(*unit_of(profile))
    if profile.card.note:
        say(profile.card.note)
    say(f"{subject(loaded)} on {profile.card.name}", bold=True)
    say(f"{VERDICTS[profile.fits]}. {reason(profile)}")
    say(_peak_line(profile, unit))
    for note in notes:
        say(f"Note: {note}", hanging="  ")
    console.print()
    show_table(console, _categories(profile, unit))
    console.print()
    show_table(console, _totals(profile, unit))
    console.print()
    say(_phases(profile, unit))
    console.print()
    show_table(console, _holders(profile.peak.holders, unit))


def _peak_line(profile: Profile, unit: Unit) -> str:
    peak, end = profile.peak, runs_out(profile)
    gone = "" if end is None else f" {out_of_memory(profile).capitalize()}: {profile.trace.mark_at(end)}."
    most = f"{unit.told(profile.allocated.high)} {unit.name} are allocated at the peak"
    return f"{most}: {place(peak)} ({peak.op}).{gone}"


def _categories(profile: Profile, unit: Unit) -> Table:
    table = Table("category", unit.name, "of the card", "what it is", box=None)
    numbers(table, (1, 2))
    table.columns[0].no_wrap = True
    for name, nbytes in profile.categories.items():
        if nbytes:
            share = percent(nbytes / profile.limit.low)
            table.add_row(spoken(name), unit.told(nbytes), share, MEANING[name])
    total = profile.total.high
    table.add_row("total", unit.told(total), percent(total / profile.limit.low), "as nvidia-smi shows", style="bold")
    return table


def _totals(profile: Profile, unit: Unit) -> Table:
    table = Table(unit.name, "allocated", "reserved", "total", "fits", box=None)
    numbers(table, range(1, len(table.columns)))
    for expandable in (False, True):
        replay, reserved = profile.replayed(expandable), profile.reserved(expandable)
        total = reserved.high + profile.card.context_high
        name = (
            "segments that grow (expandable_segments)" if expandable else "segments of fixed size (PyTorch's default)"
        )
        own = ", this run" if expandable == profile.expandable else ""
        sizes = (unit.told(each) for each in (replay.peak_allocated, reserved.high, total))
        table.add_row(name + own, *sizes, FITS[profile.fits_with(expandable)])
    return table


def _phases(profile: Profile, unit: Unit) -> str:
    peaks = ", ".join(f"{name} {unit.told(nbytes)}" for name, nbytes in profile.phases.items())
    return f"Tensors at most, {unit.name}: {peaks}."


def _holders(holders: Sequence[Holder], unit: Unit) -> Table:
    table = Table("most is held by", "tensors", "shape", "type", unit.name, box=None)
    numbers(table, (1, 4))
    for index in (2, 3):
        table.columns[index].no_wrap = True
    for each in holders[:MOST_HOLDERS]:
        shape = " × ".join(str(side) for side in each.shape)
        name = spoken(each.category) + (f" of {each.module}" if each.module else "")
        table.add_row(name, str(each.count), shape, each.dtype, unit.told(each.nbytes))
    return table


def show_advice(console: Console, advice: Advice) -> None:
    """Each change alone, and the fewest that make it fit."""
    from galore.trainer.recipe.change import spelled

    console.print()
    if advice.unfinished and not advice.trials:
        say(UNFINISHED)
        return
    if not advice.trials and not advice.fits:
        say(NOTHING_FITS)
        return
    if not advice.trials:
        room = ", or ".join(" ".join(spelled(settings)) for settings in advice.room)
        longer = "no longer sequence is possible"
        if advice.positions is not None:
            longer += f" within model.max_position_embeddings={advice.positions}"
        say(f"Room for: {room}" if room else f"No larger micro-batch and {longer}.")
        return
    table = Table("change, the least disruptive first", "gains GiB", "total GiB", "fits", box=None)
    numbers(table, (1, 2, 3))
    for trial in advice.trials:
        change = f"{' '.join(spelled(trial.settings))}\n  {trial.cost}"
        table.add_row(change, gib(trial.gained), gib(trial.profile.total.high), _verdict(trial.profile))
    show_table(console, table)
    console.print()
    for line in _enough(advice):
        say(line, hanging="  ")


def _verdict(need: Need) -> str:
    return FITS[need.fits] if need.on_host else "no: host"


def _enough(advice: Advice) -> Iterator[str]:
    """What makes it fit, with the total of each way; the one that `--fit` writes comes last."""
    alone, mildest, settled = advice.alone, _together(advice.mildest), _together(advice.chosen)
    if advice.unfinished:
        yield f"One change is enough: {_together([alone])}" if alone else UNFINISHED
    elif alone is None:
        yield f"The mildest that fits, together: {mildest}" if mildest else NOTHING_FITS
    elif settled == _together([alone]):
        if mildest not in ("", settled):
            yield f"Each of them milder, but several: {mildest}"
        yield f"One change is enough: {settled}"
    else:
        yield f"One change is enough, but it alters what is computed: {_together([alone])}"
        yield f"Several that alter nothing, together, as --fit writes them: {settled}"


def _together(trials: Sequence[Trial]) -> str:
    from galore.trainer.fit.advice import settings_of
    from galore.trainer.recipe.change import spelled

    return (
        f"{' '.join(spelled(settings_of(trials)))} ({gib(trials[-1].profile.total.high)} GiB in total)"
        if trials
        else ""
    )


def show_comparison(
    console: Console, loaded: LoadedRecipe, card: Card, found: Sequence[tuple[str, Profile | None]]
) -> None:
    """One row per method, one column per category, GiB at each method's own peak."""
    if card.note:
        say(card.note)
    say(
        f"{loaded.recipe.model.architecture_of or loaded.name} on {card.name}, GiB at each method's own peak", bold=True
    )
    profiles = [(method, profile) for method, profile in found if profile is not None]
    used = [name for name in (*CATEGORIES, *OVERHEAD) if any(each.categories[name] for _, each in profiles)]
    table = _comparison(profiles, {SHORT.get(name, name): (name,) for name in used})
    if least_width(table) > console.width:
        table = _comparison(profiles, NARROW)
    show_table(console, table)
    for method in (method for method, profile in found if profile is None):
        say(f"{method}: ruled out by the recipe's other settings")
    alone = not loaded.recipe.optim.train_modules and loaded.recipe.data.task is None
    if alone and any(method.startswith("LoRA") for method, _ in profiles):
        console.print()
        say(ADAPTERS_ALONE)


def _comparison(profiles: Sequence[tuple[str, Profile]], groups: Mapping[str, Sequence[str]]) -> Table:
    table = Table("method", *groups, "total", "fits", box=None)
    numbers(table, range(1, len(table.columns)))
    for method, profile in profiles:
        cells = [gib(sum(profile.categories[name] for name in names)) for names in groups.values()]
        table.add_row(method, *cells, gib(profile.total.high), FITS[profile.fits])
    return table


def show_measured(console: Console, loaded: LoadedRecipe, found: Verification) -> None:
    """Predicted against measured, by category, with the error."""
    say(f"{loaded.name} on {found.device}, bytes at the peak", bold=True)
    table = Table("category", "predicted", "measured", "error", box=None)
    numbers(table, range(1, len(table.columns)))
    for name, (predicted, measured) in found.categories.items():
        if predicted or measured:
            table.add_row(spoken(name), f"{predicted:,}", f"{measured:,}", found.error(predicted, measured))
    table.add_row(
        "together",
        f"{found.predicted:,}",
        f"{found.measured:,}",
        found.error(found.predicted, found.measured),
        style="bold",
    )
    for name, (predicted, measured) in found.host.items():
        table.add_row(name, f"{predicted:,}", f"{measured:,}", found.error(predicted, measured))
    show_table(console, table)
    say(f"Measured: {found.basis}. Peak predicted in the {found.phases[0]}, found in the {found.phases[1]}.")
    pace, of = found.pace, counted(found.pace.micro_batches, "micro-batch", "micro-batches")
    error = found.error(pace.predicted, pace.measured)
    alone, together = (short_span((each, each)) for each in (pace.predicted, pace.measured))
    times = f"{alone} predicted, each operation timed alone; {together} measured"
    say(f"An ordinary step of {of}: {times} ({error}).")
