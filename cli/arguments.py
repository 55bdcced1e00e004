"""Arguments that several verbs share, and how the shell completes them."""

from __future__ import annotations

import math
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from galore.trainer.common.errors import UserError
from galore.trainer.common.reading import user_path


def finite(value: float) -> float:
    """The number given to an option, unless it is `nan`, which lies within any range."""
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no number to compute with")
    return value


COLDEST = 1e-6  # of temperatures; below it logits overflow


def warm_enough(value: float) -> float:
    """The temperature given to an option. Raises UserError for one that nothing can be computed with."""
    if 0 < finite(value) < COLDEST:
        what = f"{value:g} is colder than can be computed with"
        raise UserError(what, where="--temperature", fix="write 0 for the likeliest token each time")
    return value


def at_home(path: Path | None) -> Path | None:
    """The path given to an option: `~` is the user's home, which shells leave as it is behind an equals sign."""
    return None if path is None else user_path(str(path))


def legible(text: str) -> str:
    """The text given to an option; bytes that are none are replaced, as in what comes from a pipe."""
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)


class DeviceName(StrEnum):
    """Devices, as `train.device` of a recipe names them."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class ParallelName(StrEnum):
    """How processes share a run, as `parallel.mode` of a recipe names it."""

    auto = "auto"
    ddp = "ddp"
    fsdp = "fsdp"


def complete_recipe(incomplete: str) -> list[str]:
    """Shipped names and YAML files."""
    from galore.trainer.recipe.shipped import shipped_names

    return [*shipped_names(), *complete_file(incomplete)]


def complete_file(incomplete: str) -> list[str]:
    """YAML files and folders that begin like `incomplete`."""
    typed, slash, _ = incomplete.rpartition("/")
    folder = user_path(typed + slash)
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    names = [f"{path.name}/" if path.is_dir() else path.name for path in found if not path.name.startswith(".")]
    return [typed + slash + name for name in names if name.endswith(("/", ".yaml", ".yml"))]


def complete_shipped(incomplete: str) -> list[tuple[str, str]]:
    """Shipped names, each with its one line."""
    from galore.trainer.recipe.shipped import about, shipped_names

    return [(name, about(name)) for name in shipped_names() if name.startswith(incomplete)]


def complete_architecture(incomplete: str) -> list[tuple[str, str]]:
    """Public networks whose dimensions are known, each with where they are from."""
    from galore.trainer.recipe.architectures import ARCHITECTURES

    return [(name, each.source) for name, each in ARCHITECTURES.items() if name.startswith(incomplete)]


def complete_override(incomplete: str) -> list[tuple[str, str]]:
    """Keys of a recipe, each with its meaning."""
    from galore.trainer.recipe.explain.fields import fields

    return [(f"{path}=", field.description) for path, field in fields().items() if path.startswith(incomplete)]


Recipe = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe file, or a shipped name: see `galore recipes list`.",
        autocompletion=complete_recipe,
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SECTION.KEY=VALUE",
        help="Settings that replace those of the recipe, such as optim.rank=256 train.max_steps=null.",
        autocompletion=complete_override,
        show_default=False,
    ),
]
Model = Annotated[
    str,
    typer.Argument(
        metavar="RUN|MODEL",
        help="The folder of a run (its newest good checkpoint), a checkpoint, a Hugging Face folder, or a hub name.",
        show_default=False,
    ),
]
Chosen = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        help="Of a run: newest, best (lowest held-out loss), or a step.",
        show_default="the newest good one",
    ),
]
Temperature = Annotated[
    float, typer.Option(min=0.0, max=100.0, callback=warm_enough, help="0 takes the likeliest token each time.")
]
TopP = Annotated[
    float,
    typer.Option(
        min=0.0, max=1.0, callback=finite, help="Sample among the likeliest tokens with this much probability."
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,…",
        help="Every run once with each of these seeds: 5 is seed 5, and --runs 5 are five.",
        show_default="the recipe's",
    ),
]
Runs = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1000,
        metavar="N",
        help="Every run so many times, with seeds counted up from the recipe's.",
        show_default="1",
    ),
]
Device = Annotated[DeviceName, typer.Option(help="auto takes CUDA when there is one.")]

# -- of `galore profile-memory`

BY_NAME = "llama-7b-24gb"  # the recipe of a model that comes by its name alone

RecipeOrNone = Annotated[
    str | None,
    typer.Argument(
        metavar="[RECIPE]",
        help=f"A recipe file, or a shipped name: see `galore recipes list`. With --model {BY_NAME}, if left out.",
        autocompletion=complete_recipe,
        show_default=False,
    ),
]
Network = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="A public network in place of the recipe's: llama-2-70b, qwen3-8b … Its dimensions are known here.",
        autocompletion=complete_architecture,
        show_default=False,
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="A method by name in place of the recipe's, as `galore compare --help` lists them.",
        show_default=False,
    ),
]
Gpu = Annotated[
    str | None,
    typer.Option(help="The card, such as rtx3090, rtx4070-laptop or 16GB.", show_default="the one here, or rtx4090"),
]
Gpus = Annotated[
    int,
    typer.Option(
        min=1, max=4096, help="Processes, one a card: memory of each, what it sends, and how long that takes."
    ),
]
Ram = Annotated[
    float | None,
    typer.Option(
        min=1, max=65536, metavar="GIB", help="Memory of the machine: whether it holds what waits on the host."
    ),
]
Parallel = Annotated[
    ParallelName | None,
    typer.Option(help="With --gpus: how they share a run.", show_default="as the recipe says"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Timeline = Annotated[
    Path | None,
    typer.Option(metavar="FILE", callback=at_home, help="Write memory over time: an .html page or a .png picture."),
]
Compare = Annotated[bool, typer.Option("--compare", help="AdamW, LoRA and GaLore side by side.")]
Picture = Annotated[
    Path | None, typer.Option(metavar="FILE.png", callback=at_home, help="With --compare: draw the comparison.")
]
Measure = Annotated[
    bool, typer.Option("--measure", help="Carry out real steps here, and compare them with the prediction.")
]
Advise = Annotated[
    bool | None,
    typer.Option("--advise/--no-advise", help="Try what to change.", show_default="where it does not surely fit"),
]
Fit = Annotated[
    Path | None,
    typer.Option(metavar="FILE.yaml", callback=at_home, help="Write the recipe with the changes that make it fit."),
]
Longest = Annotated[
    bool, typer.Option("--longest", help="The longest sequences that fit the card, and --ram, and how: minutes.")
]
Force = Annotated[bool, typer.Option("--force", help="Let --fit replace a file that exists.")]
Fastest = Annotated[
    bool,
    typer.Option(
        "--fastest", help="Find the setting with the shortest step that fits; with --fit, write it as a recipe."
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(metavar="FILE", callback=at_home, help="With --fastest: draw time and memory of all that was tried."),
]
