"""On a device that computes like the CPU and minds what CUDA minds: all operands on it, and the host waits once a step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "steps_on_a_toy_gpu.py"
NORM = {"_local_scalar_dense in optim/galore.py: clip_grad_norm_": 1}  # clipping and skipping need it
WAITS = {
    "sumo": NORM
    | {
        "_linalg_svd in rules/orthogonalize.py: _polar_by_svd": 3,
        "_local_scalar_dense in kernels/decompose.py: holds": 3,
    },  # one a matrix
    "immediate": {"_local_scalar_dense in optim/galore.py: _apply_now": 8},  # every parameter
}
# a GPU's bf16 products stay in fp32, and Newton-Schulz runs in bf16 there
ROUGH = {
    "bf16": 0.1,
    "compensated": 0.1,
    "int8 weights": 0.7,
    "orthogonal": 0.05,
    "joint": 0.05,
    "normed": 0.05,
    "in parts": 0.05,
    "4bit": 0.05,
    "sampled": 0.05,
}
SIXTEEN = {
    "row_sizes_kernel",
    "column_squares_kernel",
    "column_sizes_kernel",
    "to_sixteen_kernel",
    "from_sixteen_kernel",
}
LAUNCHED = {
    "4bit": SIXTEEN,
    "in parts": SIXTEEN,
    "8bit": {"adam_kernel"},
    "int4": {"adam_kernel", "product_kernel", "compress_kernel", "expand_kernel"},
    "compensated": {"adam_kernel", "lift_kernel"},
    "int8 weights": {"adam_kernel", "lift_int8_kernel", "dequantize_weight_kernel"},
}


def steps(backend: str, *names: str) -> dict[str, dict[str, Any]]:
    environment = os.environ | {"GALORE_BACKEND": backend}
    done = subprocess.run(
        [sys.executable, SCRIPT, *names], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}


def test_by_torch_a_step_is_the_cpus_and_waits_for_nothing_but_the_norm() -> None:
    pytest.importorskip("bitsandbytes", reason="8-bit states need the optional package bitsandbytes")
    for name, row in steps("torch").items():
        assert row["waits"] == WAITS.get(name, NORM), name
        assert row["distance"] < ROUGH.get(name, 1e-3), name


def test_kernels_are_launched_on_operands_of_the_device() -> None:
    pytest.importorskip("triton", reason="the kernels need the optional package triton")
    pytest.importorskip("bitsandbytes", reason="8-bit states need the optional package bitsandbytes")
    found = steps("auto", *LAUNCHED)
    for name, kernels in LAUNCHED.items():
        assert set(found[name]["launched"]) >= kernels, name
        assert found[name]["waits"] == NORM, name
