"""Which modules of an encoder are projected or adapted: the recipe's, or the same kinds under other names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from galore.trainer.common.errors import UserError
from galore.trainer.models.classifier import build_classifier, head_modules
from galore.trainer.optim.groups import is_under
from galore.trainer.parameters import dry_run
from galore.trainer.recipe.change import changed, spelled
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.methods import GLUE
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.sweep.glue.grid import task_of
from galore.trainer.sweep.options import Trial
from galore.trainer.tasks.glue import TASKS

TARGETS, ATTENTION = "optim.target_modules", "model.attn_implementation"
FEW = 4  # rows of what is no matrix to project: token types, and the labels of the last layer
Settings = Mapping[str, Any]  # {section.key: value}


def fitted(trials: Sequence[Trial], tell: Callable[[str], None]) -> list[Trial]:
    """`trials`, each with modules and attention that its model has: shipped recipes know RoBERTa's names.

    Before any data is read, model and optimizer of each kind are built without allocating them.

    Raises:
        UserError: a model cannot be read; it lacks what somebody chose.
    """
    shipped = load_recipe(GLUE).recipe
    known: dict[str, Settings] = {}
    for trial in trials:
        if _kind(trial) not in known:
            known[_kind(trial)] = settings = _settings(trial, shipped)
            for line in spelled(settings):
                tell(f"{trial.recipe.model.name_or_path}, {trial.label}: {line}, in place of what RoBERTa has")
    return [_with(trial, known[_kind(trial)]) for trial in trials]


def _kind(trial: Trial) -> str:
    """What decides whether model and optimizer can be built."""
    recipe = trial.recipe
    return repr((trial.loaded.base_dir, task_of(trial), recipe.model, trial.label, recipe.optim.target_modules))


def _settings(trial: Trial, shipped: Recipe) -> Settings:
    """What the model has other names for, or not at all, and nobody chose; nothing where it has the recipe's."""
    settings: dict[str, Any] = {}
    while True:
        now = _with(trial, settings)
        try:
            dry_run(now.loaded)
            return settings
        except UserError as error:
            mended = _mended(error.where, now, shipped)
            if not mended or mended.keys() <= settings.keys():
                raise
            settings |= mended


def _mended(where: str, trial: Trial, shipped: Recipe) -> Settings:
    recipe = trial.recipe
    if where.startswith(TARGETS) and recipe.optim.target_modules == shipped.optim.target_modules:
        return {TARGETS: tuple(targets_of(_classifier(trial)))}
    if where == ATTENTION and recipe.model.attn_implementation == shipped.model.attn_implementation:
        return {ATTENTION: "eager"}
    return {}


def _with(trial: Trial, settings: Settings) -> Trial:
    if not settings:
        return trial
    loaded = changed(trial.loaded, settings)
    assert loaded is not None
    return replace(trial, loaded=loaded)


def _classifier(trial: Trial) -> PreTrainedModel:
    task, recipe = TASKS[task_of(trial)], trial.recipe
    shape: dict[str, Any] = {"device": "meta", "seed": 0, "max_length": recipe.data.max_length}
    return build_classifier(recipe.model, task, 1, **shape, base_dir=trial.loaded.base_dir)


def targets_of(model: PreTrainedModel) -> list[str]:
    """Parts of paths that match every linear layer and embedding of the encoder, and the head but for its last layer.

    None matches a layer of the encoder and one of the head: LoRA trains the head in full.
    """
    head = tuple(f"{name}." for name in head_modules(model))
    known = {name: module for name, module in model.named_modules() if _is_matrix(module)}
    groups: tuple[set[str], set[str], set[str]] = (set(), set(), set())
    for name, module in known.items():
        on_top, table = f"{name}.".startswith(head), isinstance(module, nn.Embedding)
        if min(module.weight.shape) > FEW:
            groups[2 if on_top else int(table)].add(name)
    return list(dict.fromkeys(_shortest(name, group, known) for group in groups for name in known if name in group))


def _is_matrix(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and weight.ndim >= 2


def _shortest(name: str, group: set[str], known: Mapping[str, nn.Module]) -> str:
    """The shortest end of a path that matches modules of `group` only, and begins with a word."""
    parts = name.split(".")
    ends = [".".join(parts[at:]) for at in reversed(range(len(parts))) if not parts[at].isdigit()]
    return next((end for end in ends if all(other in group for other in known if is_under(other, [end]))), name)
