from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from galore.trainer.machine import hardware
from galore.trainer.machine.gpus import GPUS
from galore.trainer.machine.hardware import device_peak, gpu_peak, measure_gemm


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """Calls of the measurement, which here takes no time and finds 1, 2, 3 … FLOP/s."""
    calls: list[torch.dtype] = []

    def measure(dtype: torch.dtype) -> float:
        calls.append(dtype)
        return float(len(calls))

    monkeypatch.setattr(hardware, "measure_gemm", measure)
    monkeypatch.setenv("GALORE_CACHE", str(tmp_path / "cache"))
    return calls


def test_gpu_is_known_by_the_drivers_name() -> None:
    peak = gpu_peak("NVIDIA GeForce RTX 4090", torch.bfloat16)
    assert (peak.flops_per_second, peak.basis) == (165.2e12, "table")
    assert gpu_peak("NVIDIA GeForce RTX 3090", torch.float32).flops_per_second == 35.6e12
    assert gpu_peak("NVIDIA H100 80GB HBM3", torch.bfloat16).flops_per_second == 989.4e12


@pytest.mark.parametrize("name", ["NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D", "Radeon"])
def test_a_similar_name_is_another_gpu(name: str) -> None:
    peak = gpu_peak(name, torch.bfloat16)
    assert (peak.flops_per_second, peak.basis) == (None, "unknown")
    assert name in peak.note


def test_float32_with_tf32_is_not_the_tables_float32() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        assert gpu_peak("NVIDIA GeForce RTX 4090", torch.float32).flops_per_second is None
    finally:
        torch.set_float32_matmul_precision("highest")


def test_geforce_tensor_cores_accumulate_float32_at_twice_the_shader_rate() -> None:
    """512 against 256 FLOP per SM and clock since Ampere: a sparse or fp16-accumulate figure would be 4 or 8 times."""
    for name, gpu in GPUS.items():
        if name.startswith("RTX"):
            assert gpu.tensor / gpu.shader == pytest.approx(2, rel=0.01), name


def test_the_best_measurement_of_a_cpu_is_remembered(
    measured: list[torch.dtype], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = device_peak("cpu", torch.float32)
    assert (first.flops_per_second, first.basis) == (1.0, "measured")
    assert device_peak("cpu", torch.float32).flops_per_second == 2.0, "the first was taken on a busy machine"
    monkeypatch.setattr(hardware, "measure_gemm", lambda dtype: 0.5)
    assert device_peak("cpu", torch.float32).flops_per_second == 2.0
    assert measured == [torch.float32] * 2
    (key,) = json.loads((tmp_path / "cache" / "cpu_peaks.json").read_text())
    assert torch.__version__ in key


def test_cpu_is_measured_for_every_type_and_thread_count(
    measured: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    device_peak("cpu", torch.float32)
    assert device_peak("cpu", torch.bfloat16).flops_per_second == 2.0
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert device_peak("cpu", torch.float32).flops_per_second == 3.0
    monkeypatch.undo()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"x": "y"}', "null"])
def test_a_damaged_cache_is_measured_again(measured: list[torch.dtype], tmp_path: Path, content: str) -> None:
    file = tmp_path / "cache" / "cpu_peaks.json"
    file.parent.mkdir()
    file.write_text(content)
    assert device_peak("cpu", torch.float32).flops_per_second == 1.0
    assert list(json.loads(file.read_text()).values()) == [1.0]


def test_a_cache_that_cannot_be_written_is_no_error(
    measured: list[torch.dtype], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GALORE_CACHE", str(tmp_path / "file"))
    assert device_peak("cpu", torch.float32).basis == "measured"


def test_measurement_is_plausible_and_leaves_the_random_state() -> None:
    before = torch.get_rng_state()
    assert 1e8 < measure_gemm(torch.float32, size=256, repeats=2) < 1e14
    assert torch.equal(torch.get_rng_state(), before)
