"""`galore bench`: how fast the kernels are, measured on the GPU that is here, or predicted where there is none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from galore.cli.show.tables import numbers, say, screen, show_table
from galore.cli.words import Verb, VerbGroup
from galore.trainer.common.errors import UserError
from galore.trainer.common.format import percent
from galore.trainer.recipe.extras import refuse_missing

if TYPE_CHECKING:
    from galore.kernels.predict.card import Card
    from galore.kernels.predict.sequences import Row

app = typer.Typer(cls=VerbGroup, no_args_is_help=True, help="How fast the parts are, on this machine.")


@app.callback()
def bench() -> None:
    """How fast the parts are, on this machine."""


@app.command("kernels", cls=Verb)
def kernels(
    tune: Annotated[bool, typer.Option("--tune", help="Time every tile and keep the fastest for this user.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """One update of each matrix of LLaMA-7B: fused kernels against cuBLAS and against the official package's sequence.

    On a GPU times are measured, on tensors made for it; without one they are predicted for an RTX 4090.
    """
    refuse_missing("triton", "the table", "galore bench kernels")

    import torch

    here = torch.cuda.is_available()
    if tune and not here:
        raise UserError("there is no GPU to tune for", where="--tune", fix="leave it out for the predicted table")
    if tune:
        _tune(torch.device("cuda", torch.cuda.current_device()))
    found = _measured(torch) if here else _predicted()
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _show(found)


def _predicted() -> dict[str, Any]:
    from galore.kernels.predict.predicted import Predictor
    from galore.kernels.predict.sequences import rows
    from galore.kernels.triton.tuning import origin

    predictor = Predictor()
    found = rows(predictor)
    return {
        "device": predictor.card.name,
        "evidence": "predicted, not timed: there is no GPU here",
        "tiles": ", ".join(origin()),
        "rows": [_row(row) for row in found],
        "all": _all([asdict(row) for row in found], predictor.card),
    }


def _all(found: Sequence[Mapping[str, float]], card: Card | None) -> list[dict[str, float]]:
    """Milliseconds of a step's update by rank, and its share of the step on a card whose peak is known."""
    from galore.kernels.predict.sequences import all_matrices, step_seconds

    def row(times: dict[str, float]) -> dict[str, float]:
        share = {"share of a step": round(times["ours"] / 1e3 / step_seconds(card), 4)} if card else {}
        return {name: round(value, 1) for name, value in times.items()} | share

    return [row(times) for times in all_matrices(found)]


def _row(row: Row) -> dict[str, Any]:
    return {name: round(value, 1) for name, value in asdict(row).items()} | {
        "share of the floor": round(row.roofline, 2)
    }


def _measured(torch: Any) -> dict[str, Any]:
    from galore.kernels.predict.card import card_named
    from galore.kernels.predict.timed import measured
    from galore.kernels.triton.tuning import origin

    device = torch.device("cuda", torch.cuda.current_device())
    name, found = torch.cuda.get_device_name(device), measured(device)
    return {
        "device": name,
        "evidence": "measured here: CUDA events, median of 20, L2 cache flushed",
        "tiles": ", ".join(origin()),
        "rows": found,
        "all": _all(found, card_named(name)),
    }


def _tune(device: Any) -> None:
    from galore.kernels.predict.candidates import entries
    from galore.kernels.predict.measure import cuda_timer, tune
    from galore.kernels.triton.tuning import override_path, write

    def show(entry: Any, tile: Any, seconds: float) -> None:
        typer.echo(f"{entry.key}: {seconds * 1e6:.0f} µs with {tile}", err=True)

    try:
        path = override_path()
    except RuntimeError as error:
        raise UserError(f"a measured table has no place: {error}", where="--tune", fix="set XDG_CONFIG_HOME") from None
    tiles = tune(entries(), device, cuda_timer(device), show)
    write(path, tiles, f"measured on {device}")
    typer.echo(f"written to {path}", err=True)


def _show(found: dict[str, Any]) -> None:
    from galore.kernels.predict.sequences import MATRICES, TOKENS

    say(f"{found['device']}, microseconds per update of one matrix; {found['evidence']}")
    say(f"tiles: {found['tiles']}")
    _show_rows([_named(row) for row in found["rows"]])
    typer.echo()
    say(f"All {MATRICES} matrices of LLaMA-7B, milliseconds per step; {found['evidence']}")
    _show_rows(found["all"])
    if "share of a step" in found["all"][0]:
        say(
            f"The share is that of `ours` in a step of {TOKENS:,} tokens: forward and backward "
            "predicted at 85 % of the card's published peak."
        )


def _named(row: dict[str, Any]) -> dict[str, Any]:
    """A row with shape and rank as one name."""
    rest = {name: value for name, value in row.items() if name not in ("a", "b", "r")}
    return {"matrix": f"{row['a']}×{row['b']}, r={row['r']}"} | rest


def _show_rows(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(*rows[0], box=None)
    numbers(table, range(len(table.columns)))
    for row in rows:
        table.add_row(*(percent(value) if name == "share of a step" else str(value) for name, value in row.items()))
    show_table(screen(), table)
