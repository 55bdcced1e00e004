"""Layers of a recipe on top of each other: the upper one wins, key by key and over alternatives to its keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from galore.trainer.recipe.explain.fields import fields
from galore.trainer.recipe.parse.source import Key, Layer
from galore.trainer.recipe.schema.model import DIMENSIONS
from galore.trainer.recipe.schema.source import FIELDS

Values = Mapping[str, Mapping[str, Any]]

# Of each line one alternative is meant: what one layer sets, overrules the others in the layers below.
ALTERNATIVES = (
    ("model.name_or_path", "model.architecture_of"),
    ("data.path", "data.sources"),
    ("train.max_steps", "train.num_train_epochs"),
    ("eval.eval_steps", "eval.eval_epochs"),
    ("optim.warmup_steps", "optim.warmup_ratio"),
    ("optim.lr_decay_steps", "optim.lr_decay_ratio"),
    ("data.validation_path", "data.validation_fraction"),
    ("data.tokenizer", "data.tokenizer_vocab_size"),
    (
        "data.text_field",
        "data.prompt_field data.input_field data.response_field",
        "data.messages_field",
        "data.tokens_field data.labels_field data.extra_field",
    ),
)
OF_ONE_SOURCE = [
    "path",
    "sources",
    "validation_path",
    "hub_config",
    "split",
    "validation_split",
    "task",
    "max_train_samples",
]


def merge(layers: list[Layer], main: Layer) -> Layer:
    """Later layers win, key by key within a section; lists are replaced, never joined.

    Args:
        main: the layer that the result is named after; what has no place of its own is reported there.
    """
    merged = Layer(main.origin, main.directory)
    for layer in layers:
        for cause, path in _overruled(merged.values, layer.values):
            _leave_out(merged, path, f"{cause} at {layer.place(_key(cause))}")
        merged.values = _merged(merged.values, layer.values)
        merged.places |= layer.places
        merged.problems += layer.problems
    return merged


def _leave_out(merged: Layer, path: str, cause: str) -> None:
    section, name = _key(path)
    if merged.values.get(section, {}).pop(name, None) is not None:
        merged.left_out.append(f"{path} at {merged.place((section, name))} is left out: {cause} takes its place")
    merged.places.pop((section, name), None)


def _merged(below: Values, above: Values) -> dict[str, Any]:
    merged = {section: dict(values) for section, values in below.items()}
    for section, values in above.items():
        merged[section] = {**merged.get(section, {}), **values}
    return merged


def _overruled(below: Values, above: Values) -> Iterator[tuple[str, str]]:
    """(the setting of `above`, the setting of the layers below that it leaves no room for)."""
    for line in ALTERNATIVES:
        chosen = [path for path in line if _first_set(path, above)]
        for path in (each for other in line if other not in chosen for each in other.split()):
            if chosen:
                yield _first_set(chosen[0], above), path
    own = {f"{section}.{name}" for section, values in above.items() for name in values}
    for cause, paths in _of_another_kind(below, above):
        yield from ((cause, path) for path in paths if path not in own)


def _of_another_kind(below: Values, above: Values) -> Iterator[tuple[str, list[str]]]:
    """What belongs to another source of data, or to a model that is built, where the layer above changes that."""
    source = above.get("data", {}).get("source")
    if source is not None and source != below.get("data", {}).get("source", "local"):
        columns = [*FIELDS, "chat_template"] if source in ("packaged", "glue") else []
        yield "data.source", [f"data.{name}" for name in [*OF_ONE_SOURCE, *columns]]
    elif above.get("data", {}).get("sources"):  # each says itself where it is
        yield "data.sources", [f"data.{name}" for name in ("source", *OF_ONE_SOURCE) if name != "sources"]
    before, after = (each.get("model", {}) for each in (below, _merged(below, above)))
    if before.get("name_or_path") is None and after.get("name_or_path") is not None and not after.get("random_init"):
        yield "model.name_or_path", [*(f"model.{name}" for name in [*DIMENSIONS, "vocab_size"]), "data.tokenizer"]
    if above.get("model", {}).get("architecture_of") is not None:
        yield "model.architecture_of", [f"model.{name}" for name in [*DIMENSIONS, "vocab_size"]]


def _first_set(paths: str, values: Values) -> str:
    """The first of `paths` that `values` set, or "". A null that is the default says that nothing is chosen."""
    for path in paths.split():
        section, name = _key(path)
        inner = values.get(section, {})
        if name in inner and (inner[name] is not None or fields()[path].schema.get("default") is not None):
            return path
    return ""


def _key(path: str) -> Key:
    section, name = path.split(".")
    return section, name
