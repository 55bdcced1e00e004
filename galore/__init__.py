"""Train large language models, all weights, on one GPU: the optimizer, the runs around it, and the command `galore`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from galore.trainer.optim import GaLoreAdamW

__version__ = "0.1.0"
__all__ = ["GaLoreAdamW", "__version__", "train"]

_HERE = Path(__file__).parent
if not (_HERE / "cli").exists() and (_HERE.parent / "cli" / "__init__.py").is_file():
    __path__.append(str(_HERE.parent))  # a checkout: what is `galore.cli` once installed lies beside this folder


def train(recipe: str | Path, *overrides: str, output_dir: str | Path | None = None, resume: bool = False) -> Path:
    """Carry out a recipe as `galore train` does; returns the directory of the run.

    Args:
        recipe: the name of a shipped recipe, or a YAML file.
        overrides: settings above it, each one string as on the command line: `"optim.rank=64"`.
        output_dir: where the run is kept; `runs/` and the recipe's name if it is left out, with a number from the
            second on.
        resume: go on with the run in there, or start it if there is none yet.

    Raises:
        UserError: (this and the others: galore.trainer.common.errors) bad input, and what to do; nothing was begun.
        RunFailed: the run could not go on; what was whole is saved.
        Interrupted: a signal came, and the state was saved after the current step.
    """
    from galore.cli.verbs.train import carry_out, own_folder
    from galore.trainer.recipe.load import load_recipe

    loaded = load_recipe(str(recipe), overrides)
    root = own_folder(str(recipe), loaded, resume) if output_dir is None else Path(output_dir)
    carry_out(loaded, root, resume)
    return root


def __getattr__(name: str) -> Any:
    if name != "GaLoreAdamW":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from galore.trainer.optim import GaLoreAdamW

    return GaLoreAdamW


def __dir__() -> list[str]:
    return __all__
