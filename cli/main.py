"""`galore`: the verbs, each in a module of its own that imports what it needs only when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

import galore
from galore.cli.errors import READER_LEFT, ReportingGroup
from galore.cli.verbs.bench import app as bench
from galore.cli.verbs.chat import chat
from galore.cli.verbs.compare import compare
from galore.cli.verbs.doctor import doctor
from galore.cli.verbs.evaluate import evaluate
from galore.cli.verbs.export import export
from galore.cli.verbs.finetune_glue import finetune_glue
from galore.cli.verbs.generate import generate
from galore.cli.verbs.prepare import prepare
from galore.cli.verbs.profile import profile_memory
from galore.cli.verbs.recipes import app as recipes
from galore.cli.verbs.report import report, web
from galore.cli.verbs.runs import runs
from galore.cli.verbs.search.rope import rope_search
from galore.cli.verbs.train import train
from galore.cli.words import RecipeVerb, Verb

app = typer.Typer(
    name="galore",
    cls=ReportingGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train", cls=RecipeVerb)(train)
app.command("prepare", cls=RecipeVerb)(prepare)
app.command("finetune-glue", cls=RecipeVerb)(finetune_glue)
app.command("profile-memory", cls=RecipeVerb)(profile_memory)
app.command("compare", cls=RecipeVerb)(compare)
app.command("runs", cls=Verb)(runs)
app.command("report", cls=Verb)(report)
app.command("web", cls=Verb)(web)
app.command("eval", cls=RecipeVerb)(evaluate)
app.command("rope-search", cls=RecipeVerb)(rope_search)
app.command("generate", cls=Verb)(generate)
app.command("chat", cls=Verb)(chat)
app.command("export", cls=Verb)(export)
app.add_typer(recipes, name="recipes")
app.command("doctor", cls=Verb)(doctor)
app.add_typer(bench, name="bench")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"galore {galore.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Train large language models, all weights, on one GPU: gradient low-rank projection.

    A first run, on any computer: [bold]galore train demo[/bold]
    """


def main() -> None:
    """The console script. Where the reader of its output leaves, as `head` does, it ends as by a signal."""
    try:
        app()
    except SystemExit as leaving:
        if isinstance(leaving.__context__, BrokenPipeError):  # which click and rich both make silent, with code 1
            raise SystemExit(READER_LEFT) from None
        raise


if __name__ == "__main__":
    main()
