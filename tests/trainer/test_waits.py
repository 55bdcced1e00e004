"""What the host waits for the device for in a step of `trainer.step`: the step's losses and the gradient's norm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "tools" / "runs_on_a_toy_gpu.py"
NORM = {"_local_scalar_dense in optim/galore.py: clip_grad_norm_": 1}
TWO = NORM | {"_local_scalar_dense in trainer/step.py: _read": 1}
OF_SEVERAL = NORM | {"_to_copy in trainer/step.py: _read": 1}  # losses, at once
MATRICES = 7
FINITE = "_local_scalar_dense in kernels/decompose.py: holds"
ZERO = "_local_scalar_dense in subspace/base.py: _is_zero"


@pytest.fixture(scope="module")
def waits() -> dict[str, list[dict[str, int]]]:
    """Of each case the second step and the third, in which a refresh is due where there is one."""
    done = subprocess.run(
        [sys.executable, SCRIPT],
        env=os.environ | {"GALORE_BACKEND": "torch"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    return {row["name"]: row["waits"] for row in rows}


def test_a_step_waits_twice_however_many_micro_batches_and_losses_it_has(
    waits: dict[str, list[dict[str, int]]],
) -> None:
    for name, steps in waits.items():
        expected = OF_SEVERAL if "z-loss" in name else TWO
        assert steps[0] == expected, name
        if "refresh" not in name:
            assert steps[1] == expected, name


def test_a_refresh_waits_for_whether_each_decomposition_is_finite(waits: dict[str, list[dict[str, int]]]) -> None:
    assert waits["refresh"][1] == TWO | {FINITE: 2 * MATRICES, ZERO: 2 * MATRICES}
    of_sums = {"_local_scalar_dense in parts/refresh.py: _find": MATRICES, FINITE: 6 * MATRICES, ZERO: 2 * MATRICES}
    assert waits["summed refresh"][1] == TWO | of_sums
