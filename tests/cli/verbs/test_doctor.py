"""`galore doctor` on any machine: it never fails, and says what to do about what is missing."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from galore import __version__
from galore.cli.show import machine
from galore.cli.verbs.doctor import _ranks, sections
from galore.trainer.machine import nogpu


def test_json(galore: Any) -> None:
    result = galore("doctor", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["versions"]["torch"]["installed"] == importlib.metadata.version("torch")
    assert found["versions"]["galore"] == {"installed": __version__, "fix": None, "distribution": "galore-llm"}
    for name, each in found["versions"].items():
        assert (each["installed"] is None) == ("not installed" in (each["fix"] or "")), name
    assert found["cpu"]["cores"] >= 1
    assert found["cpu"]["memory_bytes"] > 2**28
    assert {each["name"] for each in found["attention"]} == {"sdpa", "eager", "flash_attention_2"}
    assert all(each["reason"] for each in found["attention"])
    assert all(each["free_bytes"] > 0 for each in found["disk"])
    assert all(each["op"] and each["path"] and each["why"] for each in found["kernels"])
    assert bool(found["gpus"]) != bool(found["no_gpu"])


def test_text(galore: Any) -> None:
    lines = galore("doctor").stdout.splitlines()
    titles = [line for line in lines if not line.startswith(" ")]
    assert [title for title in titles if title != "Kernels"] == [
        "Versions",
        "Processor",
        "GPU",
        "Processes",
        "Attention",
        "Free disk",
    ]
    assert "  one; torchrun --nproc-per-node=N -m galore train RECIPE starts N that train together" in lines
    assert any(line.startswith("  working directory  ") for line in lines)
    named = [line for line in lines if "distribution" in line]
    assert [" ".join(line.split()) for line in named] == [f"galore {__version__}, distribution galore-llm"]


def test_missing_packages_name_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    versions = machine.versions()
    assert versions["peft"] == {"installed": None, "fix": "not installed: pip install 'galore-llm[lora]'"}
    assert versions["bitsandbytes"]["fix"] == "not installed: pip install 'galore-llm[8bit]'"
    assert versions["triton"]["fix"] == machine.TRITON


def test_the_version_is_known_where_nothing_is_installed(galore: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert galore("--version").stdout == f"galore {__version__}\n"
    assert machine.versions()["galore"]["installed"] == __version__


@pytest.mark.parametrize("module", [None, SimpleNamespace()])
def test_without_the_package_that_asks_the_driver(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    if module is not None:
        module.NVMLError, module.nvmlInit = ValueError, lambda: None
        module.nvmlSystemGetDriverVersion = lambda: "570.1"
    assert machine.driver() == (None if module is None else "570.1")


def test_a_gpu_is_described() -> None:
    gpu = {"name": "NVIDIA RTX 4090", "free_bytes": 23 * 2**30, "memory_bytes": 24 * 2**30}
    more = {"compute_capability": "8.9", "driver": "570.1", "cuda": "12.8"}
    cpu = {"name": "x", "cores": 2, "memory_bytes": 2**30, "bfloat16": "no"}
    nothing: dict[str, Any] = {"versions": {}, "attention": [], "disk": [], "no_gpu": "", "ranks": {"size": 1}}
    kernels = [{"op": "project", "path": "triton", "why": "CUDA"}]
    shown = dict(sections({**nothing, "cpu": cpu, "gpus": [gpu | more], "kernels": kernels}))
    assert shown["GPU"] == [
        "NVIDIA RTX 4090, 23.0 GiB of 24.0 GiB free, compute capability 8.9, driver 570.1, CUDA 12.8"
    ]
    assert shown["Kernels"] == [("project", "triton: CUDA")]


@pytest.mark.parametrize(("here", "whose"), [(False, "with an NVIDIA card"), (True, "to use the card")])
def test_why_no_gpu_and_what_to_do(here: bool, whose: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nogpu, "is_card_here", lambda: here)
    monkeypatch.setattr(nogpu, "why_no_gpu", lambda: ("so it is", "do that"))
    assert machine.no_gpu() == f"no GPU, runs on the CPU: so it is; {whose}: do that"


def test_disk_of_a_folder_that_is_not_there_yet(tmp_path: Any) -> None:
    assert machine.disk("cache", tmp_path / "a" / "b")["free_bytes"] > 0


def test_processes_that_torchrun_started(monkeypatch: pytest.MonkeyPatch) -> None:
    from galore.trainer.parallel import group as parallel

    answers = [machine.zlib.crc32(name).to_bytes(8, "little") for name in (b"one", b"one", b"two")]
    met = SimpleNamespace(size=3, backend="gloo", gathered=lambda own: answers)
    monkeypatch.setattr(parallel, "join", lambda device: met)
    found = machine.ranks(gpus=False)
    assert found == {"size": 3, "backend": "gloo", "machines": 2}
    assert _ranks(found) == "3 by torchrun on 2 machines, gloo: all have met"
