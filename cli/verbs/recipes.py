"""`galore recipes`: what is shipped, what a recipe says once resolved, and whether it is right."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from galore.cli.arguments import Overrides, Recipe, at_home, complete_file, complete_shipped
from galore.cli.errors import show as show_error
from galore.cli.show.tables import say, say_pairs
from galore.cli.words import RecipeVerb, Verb, VerbGroup
from galore.trainer.common.errors import UserError

if TYPE_CHECKING:
    from galore.trainer.recipe.load import LoadedRecipe

Toolkit = Literal["llama-factory", "axolotl", "torchtune"]

app = typer.Typer(cls=VerbGroup, no_args_is_help=True, help="List, show, copy, convert and check recipes.")


@app.command("list", cls=Verb)
def list_recipes() -> None:
    """The shipped recipes, each with what it trains."""
    from galore.trainer.recipe.shipped import about, shipped_names

    say_pairs((name, about(name)) for name in shipped_names())


@app.command(cls=RecipeVerb)
def show(recipe: Recipe, overrides: Overrides = None) -> None:
    """A recipe as it resolves: what it extends, overrides and defaults included, every field with its meaning."""
    from galore.trainer.recipe.load import load_recipe

    typer.echo(load_recipe(recipe, overrides or []).text, nl=False)


@app.command(cls=RecipeVerb)
def copy(
    name: Annotated[
        str,
        typer.Argument(help="A shipped recipe, or a file.", autocompletion=complete_shipped, show_default=False),
    ],
    file: Annotated[
        Path, typer.Argument(callback=at_home, help="The file to write, or a folder for it.", show_default=False)
    ],
    overrides: Overrides = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write a recipe to a file of yours, complete and commented, ready to edit."""
    from galore.trainer.recipe.change import copy_recipe

    made = not file.is_dir() and not file.parent.is_dir()
    written = copy_recipe(name, file, overrides or [], force=force)
    if made:
        typer.echo(f"made the folder {file.parent}")
    say(f"wrote {written}; check it with `galore recipes validate {written}`, run it with `galore train {written}`")


@app.command(cls=Verb)
def validate(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Recipe files, or shipped names; settings such as optim.rank=64 hold for each of them.",
            autocompletion=complete_file,
            show_default=False,
        ),
    ],
) -> None:
    """Check recipes and report all their errors at once. Exit code 0 if every one is right, else 2.

    Files that a recipe names and that are not here are told below it: it may be right all the same, elsewhere.
    """
    from galore.trainer.common.reading import is_there, user_path
    from galore.trainer.recipe.load import load_recipe

    overrides = [each for each in files[1:] if "=" in each and not is_there(user_path(each))]
    wrong = False
    for file in [each for each in files if each not in overrides]:
        try:
            _say_right(load_recipe(file, overrides), file)
        except UserError as error:
            show_error(error)
            wrong = True
    if wrong:
        raise typer.Exit(2)


def _say_right(loaded: LoadedRecipe, file: str) -> None:
    from galore.trainer.data.here import not_here, only_on_the_hub

    absent = [str(error) for error in not_here(loaded.recipe, loaded.base_dir)]
    say(f"{file}: ok" + (", but not all that it names is here; a run here would be refused" if absent else ""), "  ")
    for told in [*absent, *only_on_the_hub(loaded.recipe, loaded.base_dir)]:
        for line in told.splitlines():
            say(f"  {line}", hanging="    ")


@app.command("convert", cls=Verb)
def convert_file(
    file: Annotated[
        Path, typer.Argument(callback=at_home, help="A training file of another toolkit, YAML.", show_default=False)
    ],
    tool: Annotated[
        Toolkit | None,
        typer.Option("--from", help="Whose file it is.", show_default="what its keys say"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(callback=at_home, help="The recipe to write.", show_default="standard output")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Make a recipe of a LLaMA-Factory, axolotl or torchtune file, and say what became of each line."""
    from galore.trainer.common.durable import refuse_unwritable, replace_file
    from galore.trainer.recipe.convert.convert import convert
    from galore.trainer.recipe.convert.draft import INDENT

    made = convert(str(file), tool)
    if output is None:
        typer.echo(made.text, nl=False)
        return
    if output.exists() and not force:
        raise UserError("exists", where=str(output), fix="choose another --output, or --force")
    refuse_unwritable(output, "--output")
    replace_file(output, made.text)
    for line in map(str, made.told):
        say(line, hanging=" " * INDENT)
    say(f"wrote {output}: {made.counts}; check it with `galore train {output} --dry-run`")


@app.command(cls=Verb)
def schema(
    output: Annotated[
        Path | None, typer.Option(callback=at_home, help="The file to write.", show_default="standard output")
    ] = None,
) -> None:
    """The JSON schema of a recipe file, with which editors complete and check."""
    from galore.trainer.common.durable import refuse_unwritable, replace_file
    from galore.trainer.recipe.explain.fields import schema_text

    if output is None:
        typer.echo(schema_text(), nl=False)
    else:
        refuse_unwritable(output, "--output")
        replace_file(output, schema_text())
        typer.echo(f"wrote {output}")
