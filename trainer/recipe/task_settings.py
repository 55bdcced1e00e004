"""`tasks:` of a recipe file: settings that hold for one GLUE task only. Like `extends`, it is no field of a recipe.

    tasks:
      cola: {optim.learning_rate: 3.0e-5, train.global_batch_size: 32}

They lie above the rest of their file, below a file that extends it, and below the command line. A resolved recipe has
one task, and its settings in place.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from galore.trainer.common.suggest import nearest
from galore.trainer.recipe.explain.unknown import take_unknown
from galore.trainer.recipe.parse.source import Layer
from galore.trainer.recipe.schema.data import TaskName

TASKS = "tasks"
NAMES: tuple[str, ...] = get_args(TaskName)


def with_task_settings(files: Sequence[Layer], above: Layer | None = None) -> list[Layer]:
    """All layers of a recipe in order; what is wrong with a `tasks:` is noted in the problems of its file's layer."""
    settings = [_take(layer) for layer in files]
    rest = [] if above is None else [above]
    task = _task([*files, *rest])
    own = ([file, *filter(None, [each.get(task)])] for file, each in zip(files, settings, strict=True))
    return [*itertools.chain.from_iterable(own), *rest]


def _task(layers: Sequence[Layer]) -> str:
    """The one that the last layer with a word on it names."""
    sections = [data for layer in layers if isinstance(data := layer.values.get("data"), Mapping)]
    return str(next((data["task"] for data in reversed(sections) if "task" in data), ""))


def _take(layer: Layer) -> dict[str, Layer]:
    """Moves `tasks:` out of `layer`; {task: its settings as a layer}."""
    tasks = layer.values.pop(TASKS, None)
    if tasks is None:
        return {}
    if not isinstance(tasks, Mapping):
        layer.report(
            (TASKS,), "is a mapping from a task to its settings", "write {cola: {optim.learning_rate: 3.0e-5}}"
        )
        return {}
    found = {}
    for name, settings in tasks.items():
        if name not in NAMES:
            close = nearest(name, NAMES) if layer.is_told else []
            fix = f"did you mean {close[0]}?" if close else f"there are {', '.join(NAMES)}"
            layer.report((TASKS, name), "is no task of GLUE", fix)
        elif not isinstance(settings, Mapping):
            layer.report((TASKS, name), "is a mapping of settings", "write {optim.learning_rate: 3.0e-5}")
        else:
            found[name] = _layer(layer, name, settings)
    return found


def _layer(file: Layer, task: str, settings: Mapping[str, Any]) -> Layer:
    """Dotted keys as the sections they stand for; every place is that in the file."""
    layer = Layer(file.origin, file.directory)
    for path, value in settings.items():
        section, dot, name = path.partition(".")
        place = file.place((TASKS, task, path))
        if not dot or (section, name) == ("data", "task"):
            file.report(
                (TASKS, task, path), "is no setting of a task", "write section.key, such as optim.learning_rate"
            )
            continue
        layer.places |= {(section,): place, (section, name): place}
        layer.values.setdefault(section, {})[name] = value
    take_unknown(layer)
    file.problems += layer.problems
    layer.problems = []
    return layer
