"""`galore eval`."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from galore.cli.arguments import Chosen, Device, DeviceName, Model, Overrides, complete_recipe
from galore.cli.errors import tell_skipped
from galore.trainer.common.errors import UserError
from galore.trainer.common.format import counted
from galore.trainer.common.reading import user_path


class Mode(StrEnum):
    """How losses are averaged; as `eval.mode` of a recipe."""

    token = "token"
    paper = "paper"


def evaluate(
    model: Model,
    overrides: Overrides = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="The recipe whose held-out text is scored.",
            autocompletion=complete_recipe,
            show_default="the run's own",
        ),
    ] = None,
    mode: Annotated[Mode | None, typer.Option(help="Averaging of the loss.", show_default="the recipe's")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, max=2**63 - 1, help="Tokens that are scored.", show_default="the recipe's")
    ] = None,
    checkpoint: Chosen = None,
    device: Device = DeviceName.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Score a model on held-out text: mean cross-entropy in nats per token, and perplexity; or a classifier on its
    task."""
    from galore.trainer.recipe.load import load_recipe

    if overrides and recipe is None:
        recipe = _own_recipe(model)
    loaded = load_recipe(recipe, overrides or []) if recipe is not None else None

    from galore.trainer.machine.process import import_libraries, prepare_process

    prepare_process()  # before torch is imported
    import_libraries()

    from galore.trainer.machine.device import choose_device
    from galore.trainer.trained.evaluation import evaluate_stored

    where = str(choose_device(device))
    scored = evaluate_stored(
        model,
        loaded,
        device=where,
        mode=mode.value if mode else None,
        max_tokens=max_tokens,
        checkpoint=checkpoint,
    )
    tell_skipped(scored.skipped)
    for note in scored.notes:
        typer.echo(note, err=True)
    facts = scored.result.row()
    if as_json:
        typer.echo(json.dumps({"model": scored.origin, "step": scored.step} | facts))
    elif "scores" in facts:
        from galore.cli.show.cells import score_cells

        typer.echo(f"{scored.origin}: {facts['task']}  " + "  ".join(map(str, score_cells(facts))))
    else:
        typer.echo(f"{scored.origin}: loss {facts['loss_nats']:.4f} nats, ", nl=False)
        typer.echo(f"perplexity {facts['perplexity']:.2f}, ", nl=False)
        if "bits_per_byte" in facts:
            typer.echo(f"{facts['bits_per_byte']:.4f} bits per byte, ", nl=False)
        typer.echo(f"{counted(facts['tokens'], 'held-out token')}, ", nl=False)
        typer.echo(f"eval.mode {facts['mode']}")


def _own_recipe(model: str) -> str:
    from galore.trainer.record.rundir import refuse_absent, refuse_part_of_run, run_of

    run = run_of(user_path(model))
    if run is None:
        refuse_part_of_run(user_path(model))
        refuse_absent(model)
        raise UserError(f"{model} is no run, so it has no recipe to override", fix="name a recipe with --recipe")
    return str(run.recipe)
