"""What a toolkit is handed, and what of a recipe it does not take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from galore.trainer.recipe.explain.fields import fields
from galore.trainer.recipe.parse.syntax import dump_value
from galore.trainer.recipe.schema.data import DataSection
from galore.trainer.recipe.schema.optim import OptimSection
from galore.trainer.recipe.schema.recipe import Recipe


@dataclass(frozen=True)
class Trained:
    """What goes on: the recipe, the model's configuration, and the optimizer steps that the recipe came to."""

    recipe: Recipe
    config: PretrainedConfig
    steps: int


@dataclass
class Handover:
    """What a toolkit gets. `says`: keys of the recipe that its files carry; `told`: what became of others, by line."""

    files: dict[str, str] = field(default_factory=dict)
    says: set[str] = field(default_factory=set)
    told: list[str] = field(default_factory=list)

    def tell(self, path: str, fate: str) -> None:
        """`path` has another meaning there, or none."""
        self.says.add(path)
        self.told.append(f"{path}: {fate}")


@dataclass(frozen=True)
class Target:
    """A toolkit. `version`: whose schema its files were checked against; `command`: what starts it, in the folder."""

    name: str
    version: str
    command: str
    hand_over: Callable[[Trained], Handover]


def untold(recipe: Recipe, says: set[str]) -> Iterator[str]:
    """A line for each key that the recipe sets, that bears on what is learned, and that nobody has spoken of."""
    values: dict[str, Any] = recipe.model_dump(mode="json")
    idle = {f"model.{name}" for name in recipe.model.without_effect}
    idle |= {f"optim.{name}" for name in _of_other_methods(recipe.optim)}
    for path, each in fields().items():
        value = values[each.section][each.name]
        differs = value != each.schema.get("default") and not each.schema.get("execution")
        if differs and path not in says | idle and each.section != "model":
            yield f"{path}: {dump_value(value)} has no equivalent"


OF_SUBSPACES = (
    "rank_pattern", "update_proj_gap", "proj_type", "side", "refresh", "refresh_overlap", "stagger", "switch", "projector_dtype",
    "transport", "convention",
)  # fmt: skip
OF_ADAPTERS = ("lora_alpha", "lora_dropout", "train_modules")


def _of_other_methods(optim: OptimSection) -> tuple[str, ...]:
    """Settings that say nothing with this method."""
    if optim.method == "galore":
        return OF_ADAPTERS
    if optim.method == "lora":
        return OF_SUBSPACES if optim.adapter == "factors" else ("scale", *OF_SUBSPACES)
    targets = ("target_modules",) if optim.inner == "adamw" and optim.effective_scale == 1 else ()
    return ("rank", *targets, *OF_SUBSPACES, *OF_ADAPTERS)


def tell_scale(optim: OptimSection, handover: Handover) -> None:
    """The factor on the target matrices, where nothing that is written has it."""
    scales = optim.method != "lora" or optim.adapter == "factors"
    if scales and optim.effective_scale != 1:
        handover.tell("optim.scale", f"{optim.effective_scale:g} has no equivalent")
    else:
        handover.says.add("optim.scale")


def of_data(recipe: Recipe, handover: Handover) -> str:
    """Where the texts lie: a name on the hub, or one in the folder, as no path of this machine holds elsewhere."""
    data = recipe.data
    handover.says |= {"data.source", "data.path", "data.text_field", "data.tokenizer_vocab_size"}
    if data.source == "packaged":
        handover.tell("data.source", "packaged texts are not there: put a text file at corpus.txt")
        return "corpus.txt"
    if data.sources is not None:
        others = f", the other {len(data.sources) - 1} and all weights are left out" if len(data.sources) > 1 else ""
        handover.tell("data.sources", f"the first one is taken{others}")
    part = data.parts[0]
    first, more = (part.path[0], len(part.path) - 1) if isinstance(part.path, list) else (str(part.path), 0)
    if part.source == "hub":
        return first
    name = Path(first).name
    handover.tell("data.path", f"put {name} into the folder" + (f"; the other {more} are left out" if more else ""))
    return name


def only_column(path: str, columns: str | list[str], handover: Handover) -> str:
    """The column that `path` names, or the first of several, of which a toolkit takes one."""
    handover.says.add(path)
    if isinstance(columns, str):
        return columns
    if more := columns[1:]:
        handover.tell(path, f"{columns[0]} alone is taken there; {', '.join(more)} left out")
    return columns[0]


def tell_documents(kind: str, data: DataSection, handover: Handover) -> None:
    """What becomes of the documents of a text file, of which each line is one elsewhere."""
    if kind == "text":
        handover.says.add("data.txt_document")
        if data.txt_document != "line":
            handover.tell("data.txt_document", f"each line is a text of its own there, here each {data.txt_document}")


FORMATS = {
    "txt": "text",
    "jsonl": "json",
    "json": "json",
    "csv": "csv",
    "tsv": "csv",
    "parquet": "parquet",
    "arrow": "arrow",
}


def kind_of_file(path: str, format: str | None = None) -> str:
    """The name that `datasets` has for a file's format: that which the recipe says, or that of its name."""
    named = (kind for name, kind in FORMATS.items() if f".{name}" in path)
    return FORMATS.get(format or "") or next(named, "json")


def delimiter_of(path: str, data: DataSection) -> str:
    """What stands between the columns of a file of them."""
    tabs = data.format == "tsv" or (data.format not in FORMATS and ".tsv" in path)
    return data.delimiter or ("\t" if tabs else ",")
