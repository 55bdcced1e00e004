"""Train large language models, all weights, on one GPU: the optimizer, the runs around it, and the command `galore`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from galore.trainer.optim import GaLoreAdamW
    from galore.trainer.record.callbacks import Callback, StopTraining
    from galore.trainer.trained.result import TrainedRun

__version__ = "0.1.0"
__all__ = ["Callback", "GaLoreAdamW", "StopTraining", "__version__", "train"]

_HERE = Path(__file__).parent
if not (_HERE / "cli").exists() and (_HERE.parent / "cli" / "__init__.py").is_file():
    __path__.append(str(_HERE.parent))  # a checkout: what is `galore.cli` once installed lies beside this folder

_ELSEWHERE = {
    "Callback": "galore.trainer.record.callbacks",
    "GaLoreAdamW": "galore.trainer.optim",
    "StopTraining": "galore.trainer.record.callbacks",
}


def train(
    recipe: str | Path,
    *overrides: str,
    output_dir: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Any] = (),
    extra_losses: Mapping[str, Any] | None = None,
    **settings: Any,
) -> TrainedRun:
    """Carry out a recipe as `galore train` does; returns the run, with its rows, what it came to, and the model.

        run = galore.train("my.yaml", optim={"rank": 64}, callbacks=[Mine()])
        run.final, run.load_model().model

    Args:
        recipe: the name of a shipped recipe, or a YAML file.
        overrides: settings above it, each one string as on the command line: `"optim.rank=64"`.
        output_dir: where the run is kept; `runs/` and the recipe's name if it is left out, with a number from the
            second on.
        resume: go on with the run in there, or start it if there is none yet.
        extra_losses: losses that the recipe may name in `extra_loss.name` beside ours, each a class made of
            `galore.trainer.losses.extra.ExtraLoss`.
        callbacks: objects with methods of `galore.Callback`, told of the run while it goes on.
        settings: the same as overrides, by section: `optim={"rank": 64}`.

    Raises:
        UserError: (this and the others: galore.trainer.common.errors) bad input, and what to do; nothing was begun.
        RunFailed: the run could not go on; what was whole is saved.
        Interrupted: a signal came, and the state was saved after the current step.
    """
    from galore.cli.verbs.train import carry_out, in_own_folder
    from galore.integrations.notebook import notebook_console
    from galore.trainer.common.errors import Interrupted, UserError, in_python
    from galore.trainer.common.reading import user_path
    from galore.trainer.recipe.load import load_recipe
    from galore.trainer.record.callbacks import Callbacks

    listening, stopped, lasting = Callbacks(callbacks), "", Path()

    def begin(root: Path) -> None:
        nonlocal lasting
        lasting = root.absolute()  # whatever the working directory will be
        with _with_gradients():
            carry_out(loaded, lasting, resume, console=notebook_console(), callbacks=listening)

    try:
        loaded = load_recipe(str(recipe), [*overrides, *_as_overrides(settings)])
        with _known(extra_losses):
            if output_dir is None:
                in_own_folder(str(recipe), loaded, resume, begin)
            else:
                begin(user_path(str(output_dir)))
    except Interrupted:
        stopped = listening.asked
        if not stopped:
            raise
    except UserError as error:
        raise in_python(error)  # noqa: B904 - the same one, whose words are other
    from galore.trainer.trained.result import TrainedRun

    return TrainedRun(lasting, stopped)


@contextmanager
def _with_gradients() -> Iterator[None]:
    """A context in which backwards work, whatever the caller has switched off; nothing where torch is not imported."""
    if "torch" not in sys.modules:
        yield
        return
    torch = import_module("torch")
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _known(extra_losses: Mapping[str, Any] | None) -> AbstractContextManager[None]:
    """A context in which recipes may name these losses."""
    if not extra_losses:
        return nullcontext()
    from galore.trainer.losses.build import also

    return also(extra_losses)


def _as_overrides(settings: Mapping[str, Any]) -> Iterator[str]:
    """`optim={"rank": 64}` and `**{"optim.rank": 64}` as the command line has them."""
    for section, values in settings.items():
        is_section = isinstance(values, Mapping) and "." not in section
        named = {f"{section}.{key}": value for key, value in values.items()} if is_section else {section: values}
        for key, value in named.items():
            yield f"{key}={_written(key, value)}"


def _written(key: str, value: Any) -> str:
    """A value of a recipe in YAML. Raises UserError for what has no place in one."""
    from galore.trainer.common.errors import UserError

    try:
        return json.dumps(value, ensure_ascii=False, default=_plain)
    except (TypeError, ValueError) as error:
        fix = "give a number, a string, a path, or a list or a mapping of them"
        raise UserError(f"is no value of a recipe: {error}", where=key, fix=fix) from error


def _plain(value: Any) -> Any:
    """A path, a number or an array of NumPy or torch, or a type of their numbers, as JSON has it."""
    if isinstance(value, PathLike):
        return fspath(value)
    if type(value).__name__ == "dtype" or "numpy.dtypes" in type(value).__module__:
        return str(value).rpartition(".")[2]
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"it is of type {type(value).__name__}")


def __getattr__(name: str) -> Any:
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ELSEWHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
