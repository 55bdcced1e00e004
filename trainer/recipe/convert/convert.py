"""From a file of another toolkit to a recipe that validates, and what became of each of its lines."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from galore.trainer.common.errors import UserError
from galore.trainer.common.printable import printable
from galore.trainer.common.reading import user_path
from galore.trainer.recipe.convert.axolotl import AXOLOTL
from galore.trainer.recipe.convert.draft import Draft, Told, Tool
from galore.trainer.recipe.convert.llama_factory import LLAMA_FACTORY
from galore.trainer.recipe.convert.torchtune import TORCHTUNE, resolved
from galore.trainer.recipe.load import recipe_from_resolved
from galore.trainer.recipe.parse.problems import Problem, RecipeError, indexed
from galore.trainer.recipe.parse.source import Layer, read_layer

TOOLS = {tool.name: tool for tool in (LLAMA_FACTORY, AXOLOTL, TORCHTUNE)}
MOST_ROUNDS = 20  # of leaving out what the recipe refuses
ARGUMENTS = re.compile(r"(\s*\w+\s*=[^,=]+)(,\s*\w+\s*=[^,=]+)*")
FATES = ("taken", "changed", "left out")
ROWS = ("data.path", "data.sources", "data.split", "data.hub_config")  # without one of them others are trained on
UNKNOWN_KIND = "its value is not of a kind that is known here"


@dataclass(frozen=True)
class Converted:
    """A recipe as YAML, `told` in its first lines."""

    text: str
    told: tuple[Told, ...]
    tool: str

    @property
    def counts(self) -> str:
        """`12 taken, 5 changed, 3 left out`."""
        return ", ".join(f"{sum(each.fate == fate for each in self.told)} {fate}" for fate in FATES)


def convert(file: str, tool_name: str | None = None) -> Converted:
    """The recipe that does what `file` does, as far as galore does it.

    Raises:
        UserError: it cannot be read, is of no toolkit that is known, or says too little to make a recipe of.
    """
    path = user_path(file)
    layer = read_layer(path, file, Path.cwd())
    if layer.problems:
        raise RecipeError(file, layer.problems)
    written = _flat(layer.values)
    tool = _tool(written, file, tool_name)
    together = {**tool.defaults(written), **written}
    values = resolved(together) if tool is TORCHTUNE else together
    draft = Draft(values, lambda key: _line(layer, key, written), file=file)
    for key in values:
        _one(draft, tool, key)
    _settle(draft)
    _keep_apart(draft, tool.packing)
    _leave_out_what_is_refused(draft, file)
    told = tuple(sorted(draft.told, key=lambda each: (each.line == 0, each.line)))
    return Converted(_text(draft, told, file, tool), told, tool.name)


def _one(draft: Draft, tool: Tool, key: str) -> None:
    rule, value, before = tool.table.get(key), draft.values[key], dict(draft.settings)
    if rule is None:
        draft.by_name(key)
    elif isinstance(rule, str):
        draft.take(key, rule, value)
    else:
        try:
            rule(draft, key, value)
        except (TypeError, ValueError, AttributeError, LookupError):
            draft.leave(key, UNKNOWN_KIND)
    draft.set_by |= {path: key for path, made in draft.settings.items() if path not in before or before[path] != made}


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """`{"optimizer": {"lr": 1}}` as `{"optimizer.lr": 1}`, two levels deep; `optim_args: lr=1` likewise."""
    found = dict[str, Any]()
    for key, given in values.items():
        value = _arguments(given) if key == "optim_args" else given
        if isinstance(value, Mapping) and value and not above:
            found |= _flat(value, f"{key}.")
        else:
            found[f"{above}{key}"] = value
    return found


def _arguments(value: Any) -> Any:
    """Arguments of an optimizer in one text, as Hugging Face's Trainer has them: `rank=64, update_proj_gap=100`."""
    if not isinstance(value, str) or not ARGUMENTS.fullmatch(value):
        return value
    pairs = (each.split("=") for each in value.split(","))
    return {name.strip(): yaml.safe_load(number) for name, number in pairs}


def _line(layer: Layer, key: str, written: Mapping[str, Any]) -> int:
    """The line of a key, or of what stands in its value, such as `datasets.0.split`; 0 for one that is not written."""
    place = tuple(key.split("."))
    inside = place in layer.places and any(".".join(place[:count]) in written for count in (1, 2))
    return layer.place(place).line if key in written or inside else 0


def _tool(values: Mapping[str, Any], file: str, name: str | None) -> Tool:
    if name is not None:
        return TOOLS[name]
    found = max(TOOLS.values(), key=lambda tool: len(values.keys() & set(tool.signs)))
    if len(values.keys() & set(found.signs)) < 2:
        raise UserError(
            f"is of no toolkit that is known here: {', '.join(TOOLS)}", where=file, fix="name it with --from"
        )
    return found


def _settle(draft: Draft) -> None:
    """What settings need of each other, and what a file may leave open; paths that exist lead there from anywhere."""
    settings = draft.settings
    local = settings.get("data.source") == "local"
    for path in ("model.name_or_path", *(["data.path"] if local else [])):
        if path in settings:
            settings[path] = _anchored(settings[path])
    for source in settings.get("data.sources", []):
        if "path" in source:
            source["path"] = _anchored(source["path"])
    if settings.get("optim.update") == "immediate" and settings.get("optim.method") == "galore":
        settings |= {"optim.refresh": "first-micro-batch", "optim.max_grad_norm": None}
    micro = settings.setdefault("train.micro_batch_size", 1)
    settings.setdefault("train.global_batch_size", micro)
    if not any(settings.get(path) for path in ("train.max_steps", "train.num_train_epochs")):
        settings["train.num_train_epochs"] = 1


def _keep_apart(draft: Draft, key: str) -> None:
    """Examples have a row each unless the file packs them by `key`, or steps would be of many more."""
    settings = draft.settings
    rows = [settings.keys(), *(each.keys() for each in settings.get("data.sources", []))]
    columns = {name.rpartition(".")[2] for each in rows for name in each}
    if "data.packing" not in settings and columns & {"prompt_field", "messages_field"}:
        note = (
            "a row for each, padded to others of like length; packed takes less time, in fewer steps of more examples"
        )
        draft.take(key, "data.packing: paper", None, note)


def _anchored(path: Any) -> Any:
    if isinstance(path, list):
        return [_anchored(each) for each in path]
    return str(Path(path).absolute()) if isinstance(path, str) and Path(path).exists() else path


def _leave_out_what_is_refused(draft: Draft, file: str) -> None:
    """Settings that the recipe is not right with are dropped until it is right, but none that says what is trained on.

    Raises:
        UserError: it is wrong, and not by one of those.
    """
    for _ in range(MOST_ROUNDS):
        try:
            recipe_from_resolved(draft.text(), file)
            return
        except RecipeError as error:
            of_rows = [each for each in error.problems if _rows(each)]
            refused = {path: each.what for each in error.problems if (path := _blamed(draft, each))}
            if of_rows or not refused:
                raise _no_recipe(draft, of_rows or error.problems) from error
        for path, what in refused.items():
            draft.drop(path, f"{path} does not take it: {what}")
    raise UserError("gives no recipe", where=file, fix="write one from `galore recipes copy demo FILE`")


def _no_recipe(draft: Draft, problems: Sequence[Problem]) -> UserError:
    """What is wrong, in which line, and with which values that could not be read."""
    unread = [f"{each.key}: {each.why}" for each in draft.told if each.why == UNKNOWN_KIND]
    found = [": ".join(filter(None, (indexed(each.key), each.what))) for each in problems]
    key = next((draft.set_by[path] for each in problems if (path := _rows(each)) in draft.set_by), "")
    return draft.refused(key, "; ".join(unread + found), "mend the file, or write these yourself")


def _rows(problem: Problem) -> str:
    """The setting of `ROWS` that a problem is about, or in one of whose entries it lies."""
    return next((path for path in ROWS if f"{problem.key}.".startswith(f"{path}.")), "")


def _blamed(draft: Draft, problem: Problem) -> str:
    """The setting that a problem is about: its key, or the first that is named where settings contradict each other."""
    if problem.key in draft.settings:
        return problem.key
    ours = [f"{problem.key}.{word}" for word in re.findall(r"\w+", problem.what)]
    told = {each.path for each in draft.told if each.fate != "left out"}
    return next((path for path in ours if path in told and path in draft.settings), "")


def _text(draft: Draft, told: tuple[Told, ...], file: str, tool: Tool) -> str:
    head = [f"Made from {file}, a file of {tool.name}. What became of its lines:", *map(str, told)]
    comment = "".join(f"# {line}\n" for each in head for line in printable(each).splitlines())
    return f"{comment}\n{draft.text()}"
