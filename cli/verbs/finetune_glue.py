"""`galore finetune-glue`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from galore.cli.arguments import Overrides, Runs, Seeds, at_home, complete_recipe
from galore.trainer.common.errors import UserError
from galore.trainer.recipe.methods import METHODS, listed

if TYPE_CHECKING:
    from galore.trainer.sweep.jobs import Failures, Show
    from galore.trainer.sweep.options import Trial
    from galore.trainer.sweep.outcome import Sweep


def _own() -> str:
    named = ", ".join(name for name, method in METHODS.items() if method.glue)
    return f"With a recipe and rates of their own: {named}"


def finetune_glue(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="[RECIPE]",
            help="A recipe with data.source: glue.",
            autocompletion=complete_recipe,
            show_default="roberta-glue-galore-r4, or the shipped one of the method",
        ),
    ] = None,
    overrides: Overrides = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            "--tasks",
            metavar="A,B,…",
            help="cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli, or as GLUE writes them: SST-2; or all.",
            show_default="the recipe's",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "--methods",
            metavar="A,B,…",
            help=f"{_own()}. By their settings: {listed()}.",
            show_default="the recipe's",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME|DIR", help="What is fine-tuned.", show_default="the recipe's")
    ] = None,
    data_dir: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="A folder of GLUE, or of one task.", show_default="nyu-mll/glue on the hub"),
    ] = None,
    seeds: Seeds = None,
    runs: Runs = None,
    learning_rates: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,…|auto",
            help="Tried with each; the best counts. auto: for each method its own rate, half of it and twice it.",
            show_default="the recipe's",
        ),
    ] = None,
    max_train_samples: Annotated[
        int | None, typer.Option(min=1, max=2**24, help="Train on the first so many examples.", show_default="all")
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(callback=at_home, help="Where the runs and the table are kept.", show_default="runs/glue-TASK"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Pass over what is done, go on with what broke off.")
    ] = False,
    predict_test: Annotated[
        bool, typer.Option("--predict-test", help="Answer the test splits too, in GLUE's submission format.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON per task and method, all else on stderr.")
    ] = False,
) -> None:
    """Fine-tune RoBERTa, or any encoder, on GLUE: GaLore against LoRA against full fine-tuning.

    The loop is that of galore train. A task that fails does not stop the others: it is listed at the end, exit code 1.
    Ctrl-C saves the current run and stops. Exit codes as for galore train.
    """
    if recipe is not None and "=" in recipe:  # no recipe, but a first override
        overrides, recipe = [recipe, *(overrides or [])], None
    given = {"--model": model, "--data-dir": data_dir, "--max-train-samples": max_train_samples}
    typed = {KEYS[option]: option for option, value in given.items() if value is not None}
    settings = [*(f"{path}={_quoted(given[option])}" for path, option in typed.items()), *(overrides or [])]

    from galore.trainer.sweep.glue.grid import grid

    with as_typed(typed):
        trials = grid(recipe, settings, task, method, learning_rates, seeds, runs)

    from galore.trainer.machine.process import ask_for_expandable_segments, import_libraries, prepare_process

    prepare_process()  # before torch is imported
    import_libraries()
    ask_for_expandable_segments(trials[0].recipe.train.expandable_segments)

    from galore.cli.show.progress.preparing import preparing
    from galore.trainer.sweep.glue.finetune import finetune

    root = output_dir or Path("runs") / f"glue-{_tasks(task, trials)}"
    with preparing() as progress, as_typed(typed):
        show = _show(progress, as_json)
        found, failures = finetune(trials, root, resume, show, predict_test)
    _print(found, root, as_json)
    try:
        failures |= _predict(trials, found, root, show) if predict_test else {}
    finally:
        _tell(failures)
    if failures:
        raise typer.Exit(1)


KEYS = {"--model": "model.name_or_path", "--data-dir": "data.path", "--max-train-samples": "data.max_train_samples"}


@contextmanager
def as_typed(options: Mapping[str, str]) -> Iterator[None]:
    """Errors name the options that were typed, {key of the recipe: option}, and not the keys that they stand for."""
    try:
        yield
    except UserError as error:
        error.what, error.where, error.fix = (_as_typed(text, options) for text in (error.what, error.where, error.fix))
        raise


def _as_typed(text: str, options: Mapping[str, str]) -> str:
    for key, option in options.items():
        text = re.sub(rf'override `{key}="?([^`"]*)"?`', rf"{option} \1", text)
        text = re.sub(rf"(?<![\w./-]){key}=", f"{option} ", text)
        text = re.sub(rf"(?<![\w./-]){key}(?![\w.])", option, text)
    return text


def _tasks(typed: str | None, trials: Sequence[Trial]) -> str:
    """What the folder of a call is named after."""
    return (
        "all"
        if (typed or "").strip().lower() == "all"
        else ",".join(dict.fromkeys(str(each.recipe.data.task) for each in trials))
    )


def _quoted(value: object) -> str:
    """A path as YAML text, whatever it is made of."""
    return json.dumps(value, ensure_ascii=False)


def _show(progress: object, as_json: bool) -> Show:
    from galore.cli.show.progress.console import make_console
    from galore.trainer.sweep.jobs import Show

    stream = sys.stderr if as_json else sys.stdout
    return Show(
        lambda loaded: make_console(loaded.recipe.log, stream),
        progress,  # type: ignore[arg-type]
        lambda text: typer.secho(text, bold=True, err=as_json),
    )


def _predict(trials: Sequence[Trial], found: Sweep, root: Path, show: Show) -> Failures:
    from galore.trainer.sweep.glue.submission import predict_tests

    asked = {each.folder for each in trials}
    return predict_tests([run for run in found.compared if run.trial.folder in asked], root, show.tell)[1]


def _print(found: Sweep, root: Path, as_json: bool) -> None:
    """The table, or one line of JSON per task and method."""
    from galore.trainer.record.metrics import finite
    from galore.trainer.sweep.glue.table import as_objects

    if as_json:
        for each in as_objects(found):
            typer.echo(json.dumps(finite(each)))
        return

    from galore.cli.show.gluetable import show_scores
    from galore.trainer.recipe.extras import no_plots

    show_scores(found)
    typer.echo(f"wrote {root}/glue.md, glue.json" + (", glue.png" if (root / "glue.png").exists() else ""))
    if why := no_plots():
        typer.echo(why)


def _tell(failures: Failures) -> None:
    for folder, error in failures.items():
        typer.echo(f"failed: {folder}: {error}", err=True)
