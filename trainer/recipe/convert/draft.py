"""A recipe in the making: its settings, and what is told of each line of the file that it is made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from galore.trainer.common.errors import UserError
from galore.trainer.recipe.explain.aliases import OPTIMIZERS, VALUES, inverse
from galore.trainer.recipe.explain.fields import fields, sections
from galore.trainer.recipe.explain.unknown import advice_on, setting_called
from galore.trainer.recipe.explain.values import shown
from galore.trainer.recipe.parse.problems import indexed
from galore.trainer.recipe.parse.syntax import dump_value

Fate = Literal["taken", "changed", "left out"]
OFF = "it is off, as it is here"
UNWRITTEN = "it is off, which needs no key here"
NOTHING = "nothing here takes its place"
# a section of another toolkit → the sections here that its keys may be found in by their names; none for any other
MEANT = {
    "model": ("model", "optim"),
    "tokenizer": ("data",),
    "dataset": ("data",),
    "checkpointer": ("model",),
    "optimizer": ("optim",),
    "optim_args": ("optim",),
    "lr_scheduler": ("optim",),
    "lr_scheduler_kwargs": ("optim",),
    "metric_logger": ("log",),
    "fsdp_config": ("train", "parallel"),
}
INDENT = len("line 1234 left out  ")  # of what is told of a line, where it goes on


def is_off(value: Any) -> bool:
    """Whether a value says that something is not wanted; 0 is a number."""
    return value is None or value is False or value in ("", "none", "null")


def off(target: str) -> str:
    """What is told of something that is off, and on in a recipe that has `target`: a path, or `path: value`."""
    path, _, fixed = target.partition(": ")
    default = fields()[path].schema.get("default")
    is_on = default == yaml.safe_load(fixed) if fixed else not (is_off(default) or default in ([], {}))
    return f"it is off there; {path} is {dump_value(default)} here unless it is set" if is_on else OFF


@dataclass
class Told:
    """What became of one key; `line` is 0 for a default of the toolkit, which the file does not write."""

    line: int
    key: str
    value: Any
    fate: Fate
    path: str = ""
    why: str = ""

    def __str__(self) -> str:
        where = f"line {self.line}" if self.line else "default"
        return f"{where:<9} {self.fate:<9} {self.key}: {shown(self.value)}" + (f" → {self.why}" if self.why else "")


@dataclass
class Draft:
    """`values` are those of `file` by dotted key, the toolkit's defaults included; `set_by`: whose a setting is."""

    values: Mapping[str, Any]
    line_of: Callable[[str], int]
    settings: dict[str, Any] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)
    set_by: dict[str, str] = field(default_factory=dict)
    file: str = ""

    def take(self, key: str, target: str, value: Any, note: str = "") -> None:
        """Set `target`, a path, or `path: value` where the name says both."""
        path, _, fixed = target.partition(": ")
        wanted = yaml.safe_load(fixed) if fixed else _here(path, value)
        self._set(path, wanted)
        why = f"{path}: {dump_value(wanted)}" + (f" ({note})" if note else "")
        self._tell(key, "taken" if wanted == self.values.get(key) and not note else "changed", path, why)

    def leave(self, key: str, why: str) -> None:
        self._tell(key, "left out", "", why)

    def leave_part(self, place: str, value: Any, why: str) -> None:
        """Leave out what stands inside a value, at a place such as `datasets.0.shards`."""
        line = self.line_of(place) or self.line_of(place.partition(".")[0])
        self.told.append(Told(line, indexed(place), value, "left out", "", why))

    def refused(self, key: str, what: str, fix: str) -> UserError:
        """The error of a file that would become another training."""
        line = self.line_of(key)
        where = f"{self.file}:{line}: {indexed(key)}" if line else self.file
        return UserError(f"gives no recipe: {what}", where=where, fix=fix)

    def by_name(self, key: str) -> None:
        """Take a key under the name that it has here, or say why there is none."""
        value, (above, _, name) = self.values[key], key.rpartition(".")
        target, fixed = setting_called(name)
        if above and target.partition(".")[0] not in MEANT.get(above, ()):
            target, fixed = "", ""
        if is_off(value) and not (target and not fixed and fields()[target].takes("boolean")):
            return self.leave(key, off(f"{target}: {fixed}" if fixed else target) if target else UNWRITTEN)
        first = next((each for each in self.told if each.line and each.path == target and each.path), None)
        if first is not None and not fixed:
            return self.leave(key, f"{target} is what {first.key} in line {first.line} says")
        if target:
            return self.take(key, f"{target}: {fixed}" if fixed else target, value)
        return self.leave(key, advice_on(name) or NOTHING)

    def optimizer(self, key: str, name: Any) -> None:
        """Settings of section optim for the name of an optimizer; adapters stay adapters."""
        known = OPTIMIZERS.get(str(name).lower())
        if known is None:
            return self.leave(key, "it is not offered: the recipe takes AdamW")
        lines = dict(line.split(": ") for line in known.replace(" and ", ", ").split(", "))
        if lines["method"] == "full":
            del lines["method"]
        for setting, value in lines.items():
            self._set(f"optim.{setting}", value)
        told = ", ".join(f"optim.{setting}: {value}" for setting, value in lines.items())
        return self._tell(key, "changed", "", told or "AdamW, as it is here")

    def drop(self, path: str, why: str) -> None:
        """Leave out a setting that the recipe refuses; of one that a rule made beside others it is told, too."""
        value, key = self.settings.pop(path), self.set_by.get(path)
        told = [each for each in self.told if each.path == path and each.fate != "left out"]
        for each in told:
            each.fate, each.why = "left out", why
        if not told and key is not None:
            self._tell(key, "left out", path, why)
        elif not told:
            self.told.append(Told(0, path, value, "left out", path, why))

    def text(self) -> str:
        """The settings as YAML."""
        by_section = {name: {p: v for p, v in self.settings.items() if p.startswith(f"{name}.")} for name in sections()}
        return "".join(
            f"{name}:\n"
            + "".join(f"  {path.partition('.')[2]}: {dump_value(value)}\n" for path, value in values.items())
            for name, values in by_section.items()
            if values
        )

    def _set(self, path: str, value: Any) -> None:
        """What the file says takes the place of a default, of which nothing is told then."""
        self.settings[path] = value
        self.told = [each for each in self.told if each.line or each.path != path]

    def _tell(self, key: str, fate: Fate, path: str, why: str) -> None:
        self.told.append(Told(self.line_of(key), key, self.values.get(key), fate, path, why))


Rule = Callable[[Draft, str, Any], None]


@dataclass(frozen=True)
class Tool:
    """A toolkit. `table`: what becomes of its keys where the names alone do not say it: a path, or a rule.

    Args:
        signs: keys that a file of it has; `defaults`: what it does where the file, whose values it is given, is silent,
            and galore does otherwise; `packing`: the key that puts several examples in a row.
    """

    name: str
    signs: tuple[str, ...]
    table: Mapping[str, str | Rule]
    defaults: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    packing: str


def absent(why: str) -> Rule:
    """The rule of a key that is left out."""
    return lambda draft, key, value: draft.leave(key, why)


def switch(on: str, otherwise: str = "") -> Rule:
    """The rule of a key that is on or off, each a `path: value`; an empty one is left out."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        target = otherwise if is_off(value) else on
        if target:
            draft.take(key, target, value)
        else:
            draft.leave(key, off(on))

    return rule


def accumulation(micro: str, default: int = 1) -> Rule:
    """The rule of the number of micro-batches per step, beside the key `micro` of their size."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        size = draft.values.get(micro, default)
        if not all(type(each) is int and each > 0 for each in (size, value)):
            return draft.leave(key, "it is no whole number")
        return draft.take(
            key, f"train.global_batch_size: {size * value}", value, f"{micro} × {key}, on one GPU; × the GPUs you had"
        )

    return rule


def interval(steps: str, epochs: str = "") -> Rule:
    """The rule of a strategy: no, steps, epoch."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        if value == "epoch" and epochs:
            draft.take(key, epochs, value)
        elif value in ("no", False):
            draft.take(key, f"{steps}: null", value)
        else:
            draft.leave(key, f"{steps} is in optimizer steps")

    return rule


def positive(path: str, otherwise: str) -> Rule:
    """The rule of a number that means nothing where it is not above 0."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and value > 0:
            draft.take(key, path, value)
        else:
            draft.leave(key, otherwise)

    return rule


def clipping(draft: Draft, key: str, value: Any) -> None:
    """The norm to clip to; 0 or nothing for none."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    draft.take(key, "optim.max_grad_norm" if number else "optim.max_grad_norm: null", value)


def whole_steps(path: str) -> Rule:
    """The rule of an interval, which Hugging Face takes as a share of the run where it is below 1."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        if isinstance(value, float) and value < 1:
            draft.leave(key, f"it is a share of the run: write {path} in steps")
        else:
            draft.take(key, path, value)

    return rule


def modules(draft: Draft, key: str, value: Any) -> None:
    """Target modules: all of them, one text with commas, or a list."""
    if str(value).lower() in ("all", "all-linear", "true"):
        draft.take(key, "optim.target_modules: [self_attn, mlp]", value)
    elif not is_off(value):
        names = [each.strip() for each in value.split(",")] if isinstance(value, str) else value
        draft.take(key, "optim.target_modules", names)
    else:
        draft.leave(key, off("optim.target_modules"))


def _here(path: str, value: Any) -> Any:
    """A value as it is written here."""
    known = inverse(VALUES.get(path, {})).get(str(value).lower())
    if known is not None and path in fields():
        return yaml.safe_load(known.partition(" (")[0])
    whole = isinstance(value, float) and value.is_integer()
    field = fields().get(path)
    return int(value) if whole and field is not None and not field.takes("number") else value
