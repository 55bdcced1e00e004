"""Memory profiles as tables: one recipe, several methods, remedies, predicted against measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.table import Table

from galore.trainer.common.format import GIB, percent
from galore.trainer.memory.categories import CATEGORIES, MEANING, OVERHEAD, spoken
from galore.trainer.memory.verdict import VERDICTS, out_of_memory, reason, runs_out, unit_of

if TYPE_CHECKING:
    from galore.trainer.fit.advice import Advice
    from galore.trainer.fit.verify import Verification
    from galore.trainer.machine.cards import Card
    from galore.trainer.memory.peak import Holder
    from galore.trainer.memory.profile import Profile
    from galore.trainer.recipe.load import LoadedRecipe

MOST_HOLDERS = 8
SHORT = {  # names that leave room for twelve columns
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


def gib(count: int) -> str:
    return f"{count / GIB:.2f}"


class Unit(NamedTuple):
    """The unit of one profile's tables: GiB, or MiB where that would show noughts."""

    nbytes: int
    name: str

    def told(self, count: int) -> str:
        return f"{count / self.nbytes:.2f}"


def show_profile(console: Console, loaded: LoadedRecipe, profile: Profile, notes: Sequence[str] = ()) -> None:
    """The verdict, the categories at the peak, the peaks of the phases, and what holds the memory."""
    unit = Unit(*unit_of(profile))
    console.print(f"[bold]{loaded.name} on {profile.card.name}[/bold]", highlight=False)
    console.print(f"{VERDICTS[profile.fits]}. {reason(profile)}", markup=False)
    console.print(_peak_line(profile), markup=False)
    for note in notes:
        console.print(f"Note: {note}", markup=False)
    console.print()
    console.print(_categories(profile, unit))
    console.print()
    console.print(_totals(profile, unit))
    console.print()
    console.print(_phases(profile, unit), markup=False)
    console.print()
    console.print(_holders(profile.peak.holders, unit))


def _peak_line(profile: Profile) -> str:
    peak = profile.peak
    where = f", in {peak.module}" if peak.module else ""
    end = runs_out(profile)
    gone = "" if end is None else f" {out_of_memory(profile).capitalize()}: {profile.trace.mark_at(end)}."
    return f"The peak is in the {peak.phase}{where} ({peak.op}).{gone}"


def _categories(profile: Profile, unit: Unit) -> Table:
    table = Table("category", unit.name, "of the card", "what it is", box=None)
    for column in table.columns[1:3]:
        column.justify = "right"
    for name, nbytes in profile.categories.items():
        if nbytes:
            share = percent(nbytes / profile.limit.low)
            table.add_row(spoken(name), unit.told(nbytes), share, MEANING[name])
    total = profile.total.high
    table.add_row("total", unit.told(total), percent(total / profile.limit.low), "as nvidia-smi shows", style="bold")
    return table


def _totals(profile: Profile, unit: Unit) -> Table:
    table = Table(unit.name, "allocated", "reserved", "with context", "fits", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for expandable in (False, True):
        replay, reserved = profile.replayed(expandable), profile.reserved(expandable)
        total = reserved.high + profile.card.context_high
        fits = {True: "yes", False: "no", None: "maybe"}[profile.fits_with(expandable)]
        name = (
            "segments that grow (expandable_segments)" if expandable else "segments of fixed size (PyTorch's default)"
        )
        own = ", this run" if expandable == profile.expandable else ""
        sizes = (unit.told(each) for each in (replay.peak_allocated, reserved.high, total))
        table.add_row(name + own, *sizes, fits)
    return table


def _phases(profile: Profile, unit: Unit) -> str:
    peaks = ", ".join(f"{name} {unit.told(nbytes)}" for name, nbytes in profile.phases.items())
    return f"Tensors at most, {unit.name}: {peaks}."


def _holders(holders: Sequence[Holder], unit: Unit) -> Table:
    table = Table("most is held by", "", "tensors", "shape", "type", unit.name, box=None)
    for index in (2, 5):
        table.columns[index].justify = "right"
    for each in holders[:MOST_HOLDERS]:
        shape = " × ".join(str(side) for side in each.shape)
        table.add_row(spoken(each.category), each.module, str(each.count), shape, each.dtype, unit.told(each.nbytes))
    return table


def show_advice(console: Console, advice: Advice) -> None:
    """Each change alone, and the fewest that make it fit."""
    from galore.trainer.recipe.change import spelled

    console.print()
    if not advice.trials:
        room = ", or ".join(spelled(advice.room))
        told = (
            f"Room for: {room}" if room else "No larger micro-batch, in doublings, and no longer sequence is possible."
        )
        console.print(told, markup=False)
        return
    table = Table("change, the least disruptive first", "gains GiB", "total GiB", "fits", "cost", box=None)
    for index in (1, 2, 3):
        table.columns[index].justify = "right"
    for trial in advice.trials:
        fits = {True: "yes", False: "no", None: "maybe"}[trial.profile.fits]
        table.add_row(
            " ".join(spelled(trial.settings)), gib(trial.gained), gib(trial.profile.total.high), fits, trial.cost
        )
    console.print(table)
    console.print()
    mildest = " ".join(spelled(advice.settings))
    alone = " ".join(spelled(advice.alone.settings)) if advice.alone else ""
    if alone:
        console.print(f"One change is enough: {alone}", markup=False, soft_wrap=True)
    if mildest and mildest != alone:
        console.print(f"The mildest that fits, together: {mildest}", markup=False, soft_wrap=True)
    if not mildest:
        console.print("Nothing that was tried makes it fit, not even all of it together.")


def show_comparison(
    console: Console, loaded: LoadedRecipe, card: Card, found: Sequence[tuple[str, Profile | None]]
) -> None:
    """One row per method, one column per category, GiB at each method's own peak."""
    console.print(f"[bold]{loaded.name} on {card.name}[/bold], GiB at each method's own peak", highlight=False)
    names = [name for name in (*CATEGORIES, *OVERHEAD) if any(each and each.categories[name] for _, each in found)]
    table = Table("method", *(SHORT.get(name, name) for name in names), "total", "fits", box=None)
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    for method, profile in found:
        if profile is None:
            table.add_row(method, *["" for _ in names], "", "ruled out by the recipe's other settings")
            continue
        cells = [gib(profile.categories[name]) for name in names]
        fits = {True: "yes", False: "no", None: "maybe"}[profile.fits]
        table.add_row(method, *cells, gib(profile.total.high), fits)
    console.print(table)


def show_measured(console: Console, loaded: LoadedRecipe, found: Verification) -> None:
    """Predicted against measured, by category, with the error."""
    console.print(f"[bold]{loaded.name} on {found.device}[/bold], bytes at the peak", highlight=False)
    table = Table("category", "predicted", "measured", "error", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
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
    console.print(table)
    console.print(f"Measured: {found.basis}. Peak predicted in the {found.phases[0]}, found in the {found.phases[1]}.")
