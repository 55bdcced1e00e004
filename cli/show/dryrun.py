"""`galore train --dry-run`: what the recipe sets, the parameter table, bytes of weights and states, the run's plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from galore.cli.show.tables import numbers, say, say_command, say_pairs, screen, show_table
from galore.trainer.common.format import count, counted, learning_rate, significant, size

if TYPE_CHECKING:
    from galore.trainer.fit.plan import Plan, Range
    from galore.trainer.fit.ranks import Sent
    from galore.trainer.machine.cards import Card
    from galore.trainer.parameters import DryRun, ParameterRow
    from galore.trainer.recipe.load import LoadedRecipe
    from galore.trainer.time.estimate import Estimate

REST = (
    "All other settings are defaults; `galore recipes show` with the same arguments prints every one with its meaning."
)


LEAST = {"seconds": 1, "minutes": 1, "hours": 1, "days": 1, "kWh": 0.01, "MWh": 1}  # less is not told as a number
SPANS = ((2 * 86_400, 86_400, "days"), (2 * 3600, 3600, "hours"), (120, 60, "minutes"), (0, 1, "seconds"))


def show_dry_run(loaded: LoadedRecipe, card: Card, profiling: Sequence[str]) -> None:
    """Prints the recipe before the model is built, so that it is there to read if the model is refused.

    Args:
        profiling: the command that says whether a step fits the card.

    Raises:
        UserError: the model cannot be built; or, once all is shown, the run would find no data here.
    """
    from galore.trainer.recipe.dump import dump_settings

    header = loaded.text.partition("\n\n")[0]
    for line in [*header.splitlines(), "", *dump_settings(loaded.recipe).splitlines()]:
        say(line, hanging="#     " if line.startswith("#") else "      ")
    typer.echo()
    say(REST)

    from galore.trainer.parameters import dry_run

    planned = dry_run(loaded)
    typer.echo()
    show_table(screen(), parameter_table(planned), narrow_table(planned))
    for note in planned.notes:
        say(f"Note: {note}", hanging="  ")

    from galore.trainer.fit.duration import few_blocks
    from galore.trainer.fit.plan import plan

    typer.echo()
    if card.note:
        say(card.note)
    step = few_blocks(loaded, card, planned.costs.needed_flops_per_token)
    say_pairs(
        [
            *plan_lines(plan(loaded.recipe, planned.costs, card.name, step)),
            ("memory", "of a step, and whether it fits, is told by:"),
        ]
    )
    say_command(profiling)
    _refuse_absent(loaded)


def _refuse_absent(loaded: LoadedRecipe) -> None:
    """Raise UserError for the first file of the recipe that is not here; the others are told before it."""
    from galore.cli.errors import show
    from galore.trainer.data.here import not_here

    if absent := not_here(loaded.recipe, loaded.base_dir):
        typer.echo()
        for error in absent[1:]:
            show(error)
        raise absent[0]


def plan_lines(plan: Plan) -> Iterator[tuple[str, str]]:
    """(what, how much) of a run as a whole."""
    most = "at most " * plan.cut
    per_step, tokens = f"{most}{plan.tokens_per_step:,} tokens", plan.tokens
    if tokens is None:
        passes = f"{plan.epochs:g} epoch{'' if plan.epochs == 1 else 's'}"
        yield "run", f"{passes}, {per_step} a step; tokens and steps are not known here: `galore prepare` counts them"
    else:
        yield "run", f"{counted(plan.steps or 0, 'step')} × {per_step} = {count(tokens)} tokens, padding included"
        yield "epochs", "not known: no corpus is read here"
    if plan.flops_per_token is None:
        yield "FLOPs", "not known for a model of this kind"
    elif plan.flops is None:
        yield "FLOPs", f"{_power(plan.flops_per_token)} a token, recomputation included"
    else:
        yield "FLOPs", f"{_power(plan.flops)}, recomputation included"
    yield from _time(plan)
    kept = f"{plan.checkpoints} × {size(plan.checkpoint_bytes)}"
    writing = ", the one being written included" if plan.checkpoints > 1 else ", at the end"
    yield "checkpoints", f"{kept} = {size(plan.disk_bytes)}{writing}"
    if (lost := plan.seconds_unsaved) is not None:
        often = "at the end" if plan.save_steps is None else f"every {counted(plan.save_steps, 'step')}"
        yield "saved", f"{often} (train.save_steps): a power cut costs {span(lost)} at most{_apart(plan)}"
    each = plan.cache_bytes_per_token
    stream = "none of the training text: it is streamed, or read whole"
    yield "token cache", f"{size(each * 10**9)} per billion tokens of the corpus" if each else stream


def rank_lines(sent: Sent) -> Iterator[tuple[str, str]]:
    """(what, how much) of each of several processes; above it stands the memory of one."""
    ordinary, most = sum(sent.ordinary.values()), sum(sent.most.values())
    kinds = ", ".join(f"{size(each)} {kind}" for kind, each in sent.ordinary.items() if each and kind != "flags")
    parts = "" if sent.mode == "ddp" else ", its parts of weights and states, and what is gathered at a time"
    yield "processes", f"{sent.size}, {sent.mode}: the memory above is of each, with its share of the batch{parts}"
    yield "sent a step", f"{size(ordinary)} by each ({kinds}); whole gradients would be {size(sent.gradients)}"
    yield "at most", f"{size(most)} in a step that finds subspaces"
    times = ", ".join(f"{each:.2g} s by {link}" for link, each in sent.seconds.items())
    yield "predicted", f"{times}, at the link's nominal rate"


def _time(plan: Plan) -> Iterator[tuple[str, str]]:
    if plan.peak is None and plan.step is None:
        yield "time", f"not estimated: no published peak is known for {plan.card} and this type; --gpu names a card"
        return
    tokens, unit = (10**9, "a billion tokens take ") if plan.tokens is None else (plan.tokens, "")
    if plan.step is not None:
        yield from step_lines(plan.step)
    if (seconds := plan.seconds_of(tokens)) is not None:
        yield "time", f"{unit}{span(seconds)} on an {plan.card}{'' if plan.step else _assumed(plan)}{_apart(plan)}"
    if plan.watts is None:
        yield "energy", "not estimated: no board power is known for this card"
    elif (energy := plan.kilowatt_hours) is not None:
        cards = "the card alone, at its" if plan.cards == 1 else f"the {plan.cards} cards alone, each at its"
        yield "energy", f"{_kilowatt_hours(energy)} for {cards} {plan.watts} W (assumed){_apart(plan)}"


def step_lines(step: Estimate) -> Iterator[tuple[str, str]]:
    """How long a step takes, what that is in tokens and of the peak, and whom it waits for."""
    least, most = step.seconds
    rates = f"{count_between(step.tokens_per_second)} tokens/s"
    of = f" of the {step.peak_of} peak" if step.peak_of else ""  # which 8-bit products may pass
    share = "" if step.mfu is None else f", MFU {100 * step.mfu[0]:.0f}–{100 * step.mfu[1]:.0f} %{of}"
    yield "a step", f"{short_span((least, most))}, {rates}{share}: {step.basis}"
    waits = {"card": "computes all the time", "host": "waits for the host, which asks for many small operations"}
    yield "its card", waits.get(step.ordinary[0].bound, "waits for the bus, which carries what is kept on the host")


def short_span(seconds: Range) -> str:
    """`52–65 s`, `0.71–0.86 s`, `3.1–4.4 ms`."""
    unit, name = (1.0, "s") if seconds[1] >= 0.1 else (1e-3, "ms")
    low, high = (significant(each / unit) for each in seconds)
    return f"{low} {name}" if low == high else f"{low}–{high} {name}"


def count_between(ends: Range) -> str:
    """`2.0–2.5 k` in the digits that `count` gives."""
    low, high = (count(round(each)) for each in ends)
    return low if low == high else f"{low}–{high}"


def _apart(plan: Plan) -> str:
    """What times of several processes are without: it hangs on the link between them."""
    from galore.trainer.time.estimate import APART

    return f", {APART}" if plan.cards > 1 else ""


def _assumed(plan: Plan) -> str:
    from galore.trainer.fit.plan import ASSUMED

    low, high = ASSUMED
    assert plan.peak is not None
    return f", if it reaches {100 * low:.0f}–{100 * high:.0f} % of its {plan.peak / 1e12:.0f} TFLOP/s (assumed)"


def _power(number: int) -> str:
    return f"{number:.2e}".replace("e+", "e")


def span(seconds: Range) -> str:
    """`157–262 days`: in the largest unit of which the shorter time has two."""
    unit, name = next((each, name) for least, each, name in SPANS if seconds[0] >= least)
    return _between(seconds, unit, name)


def _kilowatt_hours(energy: Range) -> str:
    return _between(energy, 1000, "MWh") if energy[0] >= 1000 else _between(energy, 1, "kWh")


def _between(ends: Range, unit: float, name: str) -> str:
    if ends[1] < LEAST[name] * unit:
        return f"less than {LEAST[name]:g} {name.removesuffix('s')}"
    low, high = (significant(end / unit) for end in ends)
    return f"{low} {name}" if low == high else f"{low}–{high} {name}"


def narrow_table(planned: DryRun) -> Table:
    """The same in fewer columns: layers stand in a row above theirs, projectors count as state, `count` is left out."""
    table = Table("parameter", "", "shape", "update", "weights", "state + P", *_rates_head(planned), box=None)
    numbers(table, range(1, len(table.columns)))
    table.columns[0].no_wrap = True
    above = ""
    for row in planned.parameters:
        layers, star, name = row.name.rpartition(".*.")
        if star and layers != above:
            table.add_row(f"{layers}.*")
        above = layers
        update = row.update.removeprefix("projected, ") + (f" {row.rank}" if row.rank else "")
        sizes = size(row.weight_bytes), size(row.state_bytes + row.projector_bytes)
        table.add_row(
            f"  {name}" if star else row.name, f"{row.tensors} ×", _shape(row), update, *sizes, *_rate(row, planned)
        )
    weights, kept = (sum(getattr(row, f"{kind}_bytes") for row in planned.parameters) for kind in KINDS[:2])
    kept += sum(row.projector_bytes for row in planned.parameters)
    tensors = sum(row.tensors for row in planned.parameters)
    table.add_row("together", str(tensors), "", "", size(weights), size(kept), style="bold")
    return table


def parameter_table(planned: DryRun) -> Table:
    """One row per kind of parameter, and their sum."""
    table = Table(
        "parameter", "tensors", "shape", "update", "rank", "count", "weights", "states", "projectors",
        *_rates_head(planned), box=None,
    )  # fmt: skip
    numbers(table, range(1, len(table.columns)))
    for row in planned.parameters:
        table.add_row(*_cells(row), *_rate(row, planned))
    table.add_section()
    table.add_row(
        "together",
        str(sum(row.tensors for row in planned.parameters)),
        *("", "", ""),
        count(sum(row.count for row in planned.parameters)),
        *(size(sum(getattr(row, f"{kind}_bytes") for row in planned.parameters)) for kind in KINDS),
        style="bold",
    )
    return table


KINDS = ("weight", "state", "projector")


def _rates_head(planned: DryRun) -> list[str]:
    """A column of peak learning rates where there are several."""
    return ["lr"] if len({row.learning_rate for row in planned.parameters} - {None}) > 1 else []


def _rate(row: ParameterRow, planned: DryRun) -> list[str]:
    told = "" if row.learning_rate is None else learning_rate(row.learning_rate)
    return [told] if _rates_head(planned) else []


def _cells(row: ParameterRow) -> list[str]:
    sizes = [size(getattr(row, f"{kind}_bytes")) for kind in KINDS]
    return [row.name, str(row.tensors), _shape(row), row.update, str(row.rank or ""), count(row.count), *sizes]


def _shape(row: ParameterRow) -> str:
    return " × ".join(str(side) for side in row.shape)
