"""`galore eval`."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from galore.cli.arguments import Chosen, Device, DeviceName, Model, Overrides, at_home, complete_recipe
from galore.cli.errors import tell_skipped
from galore.trainer.common.errors import UserError
from galore.trainer.common.format import counted
from galore.trainer.common.reading import user_path

LONGEST = 2**24  # tokens of a passkey's text
TRIES, SEED = 5, 42  # of passkeys
TRAINING = ("optim", "log", "parallel")  # sections that bear on no score
OF_SCORES = {
    "model": ("rope", "max_position_embeddings", "new_tokens"),
    "train": ("micro_batch_size", "global_batch_size", "num_threads", "length_stages", "loss_weights"),
}  # and what does of others


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
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks", "--task", help="Benchmarks of lm-eval instead, such as hellaswag,arc_easy.", show_default=False
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, max=2**31, help="With --tasks: examples of each task.", show_default="all")
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(min=0, max=1000, help="With --tasks: examples in the prompt.", show_default="the task's own"),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, max=4096, help="With --tasks: requests of one forward.", show_default="1"),
    ] = None,
    include_path: Annotated[
        Path | None,
        typer.Option(callback=at_home, help="With --tasks: a folder with task files of your own.", show_default=False),
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="With --tasks: ask in the chat template.")] = False,
    passkey: Annotated[
        str | None,
        typer.Option(
            metavar="256,2048,…",
            help="Instead: hide a number in texts of so many tokens, and ask for it.",
            show_default=False,
        ),
    ] = None,
    tries: Annotated[
        int | None,
        typer.Option(
            min=1, max=100_000, help="With --passkey: numbers of each length and depth.", show_default=str(TRIES)
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**63 - 1, help="With --passkey: of the numbers.", show_default=str(SEED)),
    ] = None,
    by_position: Annotated[
        bool, typer.Option("--by-position", help="The loss by how many tokens stand before.")
    ] = False,
    device: Device = DeviceName.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Score a model on held-out text: mean cross-entropy in nats per token, perplexity, bits per byte; a classifier on
    its task; with --tasks on benchmarks of lm-eval; with --passkey on numbers hidden in long texts."""
    if passkey is not None and (tasks is not None or by_position):
        raise UserError("is asked alone", where="--passkey", fix="leave --tasks and --by-position out")
    if passkey is not None and (mode is not None or max_tokens is not None):
        raise UserError("scores no held-out text", where="--passkey", fix="leave --mode and --max-tokens out")
    for given, option in ((tries, "--tries"), (seed, "--seed")):
        if given is not None and passkey is None:
            raise UserError("is for passkeys", where=option, fix="add --passkey LENGTHS, or leave it out")
    if by_position and (tasks is not None or mode is not None):
        raise UserError("scores held-out tokens one by one", where="--by-position", fix="leave --tasks and --mode out")
    if tasks is not None:
        if overrides or recipe is not None or mode is not None or max_tokens is not None:
            what, fix = "scores no held-out text", "leave recipe, overrides, --mode and --max-tokens out"
            raise UserError(what, where="--tasks", fix=fix)
        asked = {"limit": limit, "num_fewshot": shots, "batch_size": batch_size or 1, "include_path": include_path}
        _on_tasks(model, tasks, {**asked, "apply_chat_template": chat, "checkpoint": checkpoint}, device, as_json)
        return
    of_tasks = {"--limit": limit, "--shots": shots, "--batch-size": batch_size, "--include-path": include_path}
    for option, value in (of_tasks | {"--chat": chat or None}).items():
        if value is not None:
            raise UserError("is for benchmarks", where=option, fix="add --tasks NAMES, or leave it out")

    from galore.trainer.recipe.load import load_recipe

    for each in overrides or []:
        _refuse_idle(each)
    if overrides and recipe is None:
        recipe = _own_recipe(model)
    loaded = load_recipe(recipe, overrides or []) if recipe is not None else None
    lengths = _lengths(passkey)

    from galore.trainer.machine.process import import_libraries, prepare_process

    prepare_process()  # before torch is imported
    import_libraries()

    from galore.trainer.machine.device import choose_device
    from galore.trainer.trained.evaluation import evaluate_stored

    where = str(choose_device(device))
    if lengths or by_position:
        from galore.cli.show.longcontext import show_evaluation
        from galore.trainer.trained.longcontext.evaluation import Asked, evaluate_long

        show_evaluation(
            evaluate_long(
                model,
                loaded,
                Asked(lengths, tries or TRIES, SEED if seed is None else seed, max_tokens),
                where,
                checkpoint,
            ),
            as_json,
        )
        return
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
        from galore.trainer.record.metrics import finite

        typer.echo(json.dumps(finite({"model": scored.origin, "step": scored.step} | facts)))
    elif "scores" in facts:
        from galore.cli.show.progress.cells import score_cells

        typer.echo(f"{scored.origin}: {facts['task']}  " + "  ".join(map(str, score_cells(facts))))
    else:
        typer.echo(f"{scored.origin}: loss {facts['loss_nats']:.4f} nats, ", nl=False)
        typer.echo(f"perplexity {facts['perplexity']:.2f}, ", nl=False)
        if "bits_per_byte" in facts:
            typer.echo(f"{facts['bits_per_byte']:.4f} bits per byte, ", nl=False)
        if "extra_loss" in facts:
            typer.echo(f"extra loss {facts['extra_loss']:.4f}, ", nl=False)
        typer.echo(f"{counted(facts['tokens'], 'held-out token')}, ", nl=False)
        typer.echo(f"eval.mode {facts['mode']}")


def _refuse_idle(override: str) -> None:
    """Raise UserError for a setting that no score depends on: the weights are trained, and have their dimensions."""
    from galore.trainer.recipe.explain.fields import fields

    path = override.partition("=")[0].strip()
    section, _, key = path.partition(".")
    if path in fields() and (section in TRAINING or key not in OF_SCORES.get(section, (key,))):
        what = "says how a model is made, and this one is: no score depends on it"
        raise UserError(what, where=path, fix="leave it out")


def _lengths(text: str | None) -> tuple[int, ...]:
    """The lengths of --passkey."""
    if text is None:
        return ()
    parts = [each.strip() for each in text.split(",") if each.strip()]
    if not parts or not all(re.fullmatch(r"\d{1,8}", each) and 0 < int(each) <= LONGEST for each in parts):
        raise UserError(f"{text!r} are no lengths in tokens", where="--passkey", fix="write 256,1024,2048")
    return tuple(int(each) for each in parts)


def _on_tasks(model: str, tasks: str, asked: dict[str, Any], device: DeviceName, as_json: bool) -> None:
    """Score benchmarks and print their table, or one line of JSON; `asked`: fields of `harness.Asked`."""
    from galore.trainer.machine.process import prepare_process
    from galore.trainer.recipe.extras import refuse_missing

    refuse_missing("lm_eval", "eval --tasks", "--tasks")
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise UserError("names no task", where="--tasks", fix="write --tasks hellaswag,arc_easy")
    prepare_process()  # before torch is imported

    from galore.cli.show.tasktable import show_scores
    from galore.trainer.machine.device import choose_device
    from galore.trainer.trained.harness import Asked, evaluate_tasks

    scored = evaluate_tasks(model, Asked(names, **asked), str(choose_device(device)))
    tell_skipped(scored.skipped)
    if as_json:
        from galore.trainer.record.metrics import finite

        known = {"model": scored.origin, "step": scored.step, "results": scored.results}
        typer.echo(json.dumps(finite(known | {"versions": scored.versions, "shots": scored.num_fewshot})))
    else:
        typer.echo(scored.origin)
        show_scores(scored)


def _own_recipe(model: str) -> str:
    from galore.trainer.common.suggest import refuse_absent
    from galore.trainer.recipe.shipped import refuse_as_model
    from galore.trainer.record.belonging import refuse_part_of_run, run_of

    run = run_of(user_path(model))
    if run is None:
        refuse_as_model(model)
        refuse_part_of_run(user_path(model))
        refuse_absent(model)
        raise UserError(f"{model} is no run, so it has no recipe to override", fix="name a recipe with --recipe")
    return str(run.recipe)
