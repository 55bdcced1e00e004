"""Why torch finds no GPU: what of build, driver and environment it is, and that a card is left idle."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from galore.trainer.machine import nogpu
from galore.trainer.machine.nogpu import VISIBLE, idle_card, why_no_gpu

SAYS = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}.129.03  Thu Oct 19 18:56:32 UTC 2023\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a card, its driver and a CUDA build of torch; the folder of its devices."""
    monkeypatch.setattr(nogpu, "DRIVER", tmp_path / "version")
    monkeypatch.setattr(nogpu, "DEVICES", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.delenv(VISIBLE, raising=False)
    (tmp_path / "nvidia0").touch()
    (tmp_path / "nvidiactl").touch()
    (tmp_path / "version").write_text(SAYS.format(535))
    return tmp_path


@pytest.mark.parametrize("value", ["", "-1", "1", "none", "3,0"])
def test_the_environment_hides_the_card(machine: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(VISIBLE, value)
    why, fix = why_no_gpu()
    assert why == f"CUDA_VISIBLE_DEVICES={value!r} names no card that is here"
    assert fix.startswith("unset CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize("value", ["0", "0,1", "GPU-8932f937"])
def test_the_environment_names_the_card(machine: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(VISIBLE, value)
    assert why_no_gpu()[0] == "the driver gives CUDA 12.8 no device"


def test_a_driver_is_too_old(machine: Path) -> None:
    assert why_no_gpu()[0] == "the driver gives CUDA 12.8 no device"
    (machine / "version").write_text(SAYS.format(470))
    why, fix = why_no_gpu()
    assert why == "the driver 470.129 is too old for this torch's CUDA 12.8, which needs 525.60"
    assert fix.startswith("update the driver")


def test_no_driver_and_no_cuda_in_torch(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "version").unlink()
    assert idle_card("auto").startswith("an NVIDIA card is in this machine and not used: the driver gives CUDA 12.8 no")
    (machine / "nvidia0").unlink()
    assert why_no_gpu()[0] == "no NVIDIA driver is loaded"
    monkeypatch.setattr(torch.version, "cuda", None)
    assert why_no_gpu()[0] == "this torch is built for CPUs only"


def test_a_card_is_idle_where_any_device_was_asked_for(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    told = "an NVIDIA card is in this machine and not used: this torch is built for CPUs only; install its CUDA build"
    assert idle_card("auto").startswith(told)
    assert idle_card("cpu") == ""
    (machine / "version").unlink()
    (machine / "nvidia0").unlink()
    assert idle_card("auto") == ""
