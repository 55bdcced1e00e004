"""Which modules of an encoder are projected or adapted: those of the recipe, or the same kinds in a model of other names."""

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
from galore.trainer.recipe.change import changed
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.methods import GLUE
from galore.trainer.sweep.glue.grid import task_of
from galore.trainer.sweep.options import Trial
from galore.trainer.tasks.glue import TASKS

KEY = "optim.target_modules"
FEW = 4  # rows of a table that is no matrix to project: token types


def fitted(trials: Sequence[Trial], tell: Callable[[str], None]) -> list[Trial]:
    """`trials`, each with modules that its model has: the layers are known by RoBERTa's names to the shipped recipes.

    Before any data is read, model and optimizer of each kind are built without allocating them.

    Raises:
        UserError: a model cannot be read; a pattern that somebody chose matches nothing in it.
    """
    shipped = load_recipe(GLUE).recipe.optim.target_modules
    targets: dict[str, Sequence[str] | None] = {}
    for trial in trials:
        if _kind(trial) not in targets:
            targets[_kind(trial)] = found = _targets(trial, shipped)
            if found:
                tell(
                    f"{trial.recipe.model.name_or_path}: {KEY}=[{','.join(found)}], the recipe's kinds by their names there"
                )
    return [_with(trial, targets[_kind(trial)]) for trial in trials]


def _kind(trial: Trial) -> str:
    """What decides whether model and optimizer can be built."""
    return repr(
        (trial.loaded.base_dir, task_of(trial), trial.recipe.model, trial.method, trial.recipe.optim.target_modules)
    )


def _targets(trial: Trial, shipped: Sequence[str]) -> Sequence[str] | None:
    """Those of the model, where it has not the recipe's; None where it has."""
    try:
        dry_run(trial.loaded)
    except UserError as error:
        if not error.where.startswith(KEY) or trial.recipe.optim.target_modules != shipped:
            raise
        found = targets_of(_classifier(trial))
        dry_run(_with(trial, found).loaded)
        return found
    return None


def _with(trial: Trial, targets: Sequence[str] | None) -> Trial:
    if targets is None:
        return trial
    loaded = changed(trial.loaded, {KEY: tuple(targets)})
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
    last = [name for name in known if name in groups[2] or f"{name}.".startswith(head)][-1:]
    groups[2].difference_update(last)
    return list(dict.fromkeys(_shortest(name, group, known) for group in groups for name in known if name in group))


def _is_matrix(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and weight.ndim >= 2


def _shortest(name: str, group: set[str], known: Mapping[str, nn.Module]) -> str:
    """The shortest end of a path that matches modules of `group` only, and begins with a word."""
    parts = name.split(".")
    ends = [".".join(parts[at:]) for at in reversed(range(len(parts))) if not parts[at].isdigit()]
    return next((end for end in ends if all(other in group for other in known if is_under(other, [end]))), name)
