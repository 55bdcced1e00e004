"""The toolkits that an export may be handed to, and their files in its folder."""

from __future__ import annotations

from pathlib import Path

from transformers import PretrainedConfig

from galore.trainer.common.durable import write_file
from galore.trainer.common.errors import UserError
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.trained.onward.axolotl import AXOLOTL
from galore.trainer.trained.onward.target import Target, Trained, untold
from galore.trainer.trained.onward.torchtitan import TORCHTITAN

TARGETS = {target.name: target for target in (AXOLOTL, TORCHTITAN)}


def target_of(name: str) -> Target:
    """The toolkit of that name.

    Raises:
        UserError: there is none.
    """
    if name not in TARGETS:
        raise UserError(f"{name} is no toolkit that is known", where="--recipe", fix=f"take {' or '.join(TARGETS)}")
    return TARGETS[name]


def hand_over(target: Target, recipe: Recipe | None, config: PretrainedConfig, steps: int, folder: Path) -> list[str]:
    """Write what `target` needs into the folder of an export; returns what of the recipe it does not say, line by line.

    Raises:
        UserError: there is no recipe, or the toolkit cannot train this model or on these data.
    """
    if recipe is None:
        raise UserError("a model that is no run has no recipe", where="--recipe", fix="name the directory of a run")
    if recipe.data.task is not None:
        raise UserError(f"{target.name} trains language models, and this one classifies", where="--recipe")
    found = target.hand_over(Trained(recipe, config, steps))
    for name, text in found.files.items():
        write_file(folder / name, [text.encode()])
    return [*found.told, *untold(recipe, found.says)]
