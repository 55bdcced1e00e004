"""The table of published figures."""

from __future__ import annotations

from galore.trainer.machine.gpus import GPUS, gpu_called


def test_found_by_the_names_that_drivers_give() -> None:
    found = gpu_called("NVIDIA GeForce RTX 4090")
    assert found is not None
    assert (found.watts, found.bandwidth) == (450, 1008e9)
    assert gpu_called("NVIDIA H200") is GPUS["H200"]
    assert gpu_called("a GPU with 24 GB") is None


def test_figures_are_in_their_units() -> None:
    for name, gpu in GPUS.items():
        assert 1e13 < gpu.shader < gpu.tensor < 1e15, name
        assert 2e11 < gpu.bandwidth < 5e12, name
        assert 3 << 20 <= gpu.cache <= 128 << 20, name
        assert gpu.bus in (16e9, 32e9, 64e9), name
        assert 70 <= gpu.watts <= 700, name
