"""`galore export`: what was written is told, and what was refused."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from galore.trainer.common.errors import UserError


@pytest.fixture
def written(calls: Any) -> Any:
    made = SimpleNamespace(
        folder="/x/out",
        origin="runs/a/step-7",
        step=7,
        bytes=2**20,
        loads="AutoModelForCausalLM",
        skipped=(),
        note="",
        no_gguf="",
    )
    calls.replace("galore.trainer.trained.export", export=made, ExportOptions="options")
    calls.replace("galore.trainer.trained.hub", require_push=None, push="https://hub.example/me/mine")
    return calls


def test_export(galore: Any, written: Any) -> None:
    shown = galore("export", "runs/a", "out", "--checkpoint", "7")
    assert shown.stdout.startswith("/x/out: 1.00 MiB, from runs/a/step-7\n")
    assert "convert_hf_to_gguf.py /x/out" in shown.stdout
    assert written.made == [((None, False, "out", "", None), {}), (("runs/a", Path("out"), "options", "7"), {})]


def test_ollama_and_the_hub(galore: Any, written: Any) -> None:
    options = ("--push", "me/Mine", "--private", "--ollama", "--max-shard-size", "5GB", "--license", "mit")
    shown = galore("export", "runs/a", "out", *options)
    assert "ollama create mine -f /x/out/Modelfile" in shown.stdout
    assert shown.stdout.endswith("pushed to https://hub.example/me/mine\n")
    (asked, extras, made, pushed) = written.made
    assert asked == (("me/Mine",), {})  # before any work
    assert extras == (("5GB", True, "Mine", "mit", None), {})
    assert made[0] == ("runs/a", Path("out"), "options", None)
    assert pushed == (("/x/out", "me/Mine", True), {})


def test_a_toolkit_to_go_on_with(galore: Any, written: Any, calls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = SimpleNamespace(
        folder="/x/out",
        origin="m",
        step=7,
        bytes=1,
        loads="AutoModel",
        skipped=(),
        note="",
        left=("optim.rank: 8 has no equivalent",),
    )
    calls.replace("galore.trainer.trained.export", export=made, ExportOptions="options")
    shown = galore("export", "runs/a", "out", "--recipe", "axolotl").stdout
    assert "goes on with it, in /x/out: axolotl train axolotl.yaml\n  optim.rank: 8 has no equivalent\n" in shown
    refused = galore("export", "runs/a", "out", "--recipe", "deepspeed")
    assert refused.exit_code == 2
    assert "deepspeed is no toolkit that is known" in refused.stderr


def test_a_tokenizer_that_llama_cpp_cannot_know(galore: Any, calls: Any) -> None:
    made = SimpleNamespace(
        folder="/x/out",
        origin="m",
        step=7,
        bytes=1,
        loads="AutoModelForCausalLM",
        skipped=(),
        note="",
        no_gguf="it knows none such",
    )
    calls.replace("galore.trainer.trained.export", export=made, ExportOptions="options")
    assert "no GGUF: it knows none such\n" in galore("export", "runs/a", "out").stdout


def test_commands_are_fit_for_a_shell(galore: Any, calls: Any) -> None:
    told = {"folder": "/x/my out", "origin": "m", "step": 7, "bytes": 1, "loads": "AutoModelForCausalLM"}
    made = SimpleNamespace(**told, skipped=(), note="", no_gguf="")
    calls.replace("galore.trainer.trained.export", export=made, ExportOptions="options")
    shown = galore("export", "runs/a", "out", "--ollama").stdout
    assert "ollama create out -f '/x/my out/Modelfile'\n" in shown
    assert "python convert_hf_to_gguf.py '/x/my out' --outtype auto\n" in shown


@pytest.mark.parametrize("options", [("--max-shard-size", "5"), ("--private",)])
def test_options_that_say_nothing_are_refused(galore: Any, written: Any, options: tuple[str, ...]) -> None:
    refused = galore("export", "runs/a", "out", *options)
    assert refused.exit_code == 2
    assert options[0] in refused.stderr
    assert not written.made


def test_errors_below_reach_the_user(galore: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(*_: Any) -> None:
        raise UserError("is not empty", where="out")

    monkeypatch.setitem(
        sys.modules, "galore.trainer.trained.export", SimpleNamespace(export=export, ExportOptions=lambda *_: None)
    )
    refused = galore("export", "runs/a", "out")
    assert (refused.exit_code, refused.stderr) == (2, "error: out: is not empty\n")
