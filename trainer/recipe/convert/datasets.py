"""The data sets that a file of another toolkit names, as section data has them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from galore.trainer.recipe.convert.draft import NOTHING, UNWRITTEN, Draft, Told, is_off
from galore.trainer.recipe.explain.unknown import advice_on
from galore.trainer.recipe.parse.syntax import dump_value
from galore.trainer.recipe.schema.source import SourceSection

ALPACA = {"prompt_field": "instruction", "input_field": "input", "response_field": "output"}

SYSTEM = "it is not written: a system message stands in the data, as the first of its messages"


def columns(draft: Draft, key: str, fields_of: Mapping[str, str], why: str) -> None:
    """The columns of a data set, by a format that is known."""
    for path, column in fields_of.items():
        draft.settings[f"data.{path}"] = column
    draft.told.append(Told(draft.line_of(key), key, draft.values.get(key), "changed", "", why))


def leave_unread(
    draft: Draft, place: str, entry: Mapping[str, Any], read: Collection[str], reasons: Mapping[str, str]
) -> None:
    """What an entry at `place` says of a data set beside the keys that are `read`, each left out with its reason."""
    for name, value in entry.items():
        if name not in read:
            why = UNWRITTEN if is_off(value) else reasons.get(name) or advice_on(name) or NOTHING
            draft.leave_part(f"{place}.{name}", value, why)


def paths_in(value: Any) -> list[str]:
    """The paths of a key that takes one or several. Raises TypeError for anything else."""
    paths = list(value) if isinstance(value, list) else [value]
    if not all(isinstance(path, str) for path in paths):
        raise TypeError
    return paths


@dataclass(frozen=True)
class DataSet:
    """One data set of a file: files (`paths`), or a name on the hub; and the columns that are read of it."""

    columns: Mapping[str, str]
    paths: Sequence[str] = ()
    hub: str = ""
    config: str | None = None
    split: str | None = None

    @property
    def part(self) -> str | None:
        """The part of a split that is trained on, such as `train[:10%]`, of files too."""
        return self.split if self.split is not None and "[" in self.split else None

    def source(self, weight: float | None) -> dict[str, Any]:
        """The data set as one of several."""
        own: dict[str, Any] = {"path": self.paths[0] if len(self.paths) == 1 else list(self.paths), "split": self.part}
        if self.hub:
            own = {"name": self.hub, "hub_config": self.config, "split": self.split}
        told = {**own, "weight": weight, **self.columns}
        return {key: value for key, value in told.items() if value is not None}


def streaming(draft: Draft, key: str, value: Any) -> None:
    """The rule of a switch that lets data of the hub come while a run goes on, which needs an end in steps."""
    if is_off(value) or _ends(draft):
        draft.take(key, f"data.streaming: {'false' if is_off(value) else 'true'}", value)
    else:
        draft.take(key, "data.streaming: false", value, "without max_steps all is read before the first step")


def _ends(draft: Draft) -> bool:
    steps = draft.values.get("max_steps")
    return isinstance(steps, int) and steps > 0


def data_sets(draft: Draft, key: str, sets: Sequence[DataSet], why: str, weights: Sequence[float] = ()) -> None:
    """One path or list of them, a data set of the hub, or sources where there are several that are not read alike."""
    if any(each.hub for each in sets):
        streams = key == "pretraining_dataset" and _ends(draft)
        draft.settings = {"data.streaming": streams} | draft.settings | {"data.validation_split": None}
    first = sets[0]
    if first.hub and len(sets) == 1:
        named = {"source": "hub", "path": first.hub, "hub_config": first.config, "split": first.split}
        draft.settings |= {f"data.{path}": value for path, value in named.items() if value}
        return columns(draft, key, first.columns, f"data.path: {first.hub}, {why}")
    draft.settings["data.source"] = "local"
    alike = all(not each.hub and each.columns == first.columns and each.part == first.part for each in sets)
    if not weights and alike:
        paths = [path for each in sets for path in each.paths]
        draft.settings["data.path"] = paths if len(paths) > 1 else paths[0]
        # the recipe refuses it, in its own words
        draft.settings |= {"data.split": first.part} if first.part else {}
        return columns(draft, key, first.columns, f"data.path: {dump_value(draft.settings['data.path'])}, {why}")
    shares = weights if len(weights) == len(sets) else [None] * len(sets)
    draft.settings["data.sources"] = _told_apart([each.source(share) for each, share in zip(sets, shares, strict=True)])
    ways = len({tuple(each.columns.items()) for each in sets})
    read = f"read in {ways} ways" if ways > 1 else "read in one way"
    mixed = "" if weights else "; all have the same share of the sequences: weight gives them others"
    return columns(draft, key, {}, f"data.sources, {why}, which is {read}{mixed}")


def _told_apart(sources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sources, those that would have the name of another numbered."""
    found = list[dict[str, Any]]()
    # what is wrong with one is for the recipe to say
    labels = [SourceSection.model_construct(**each).label for each in sources]
    for number, (each, label) in enumerate(zip(sources, labels, strict=True), start=1):
        if labels.count(label) > 1:
            hub = {} if "path" in each else {"source": "hub", "path": each["name"]}
            each = {**hub, **each, "name": f"{label}-{number}"}
        found.append(each)
    return found
