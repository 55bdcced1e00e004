"""In a notebook a run is one display that follows it, in HTML and in plain text; anywhere else nothing changes."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from galore.integrations import notebook
from galore.integrations.notebook import NotebookConsole, notebook_console


class Shown:
    """What IPython's display was given: the first time, and at each update."""

    def __init__(self) -> None:
        self.drawn: list[dict[str, str]] = []

    def display(self, data: dict[str, str], *, raw: bool, display_id: bool) -> Shown:
        assert raw
        assert display_id
        self.drawn.append(data)
        return self

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.drawn.append(data)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """A process that is a notebook's kernel."""
    found = Shown()
    shell = types.SimpleNamespace(kernel=object())
    parts: dict[str, Any] = {
        "ipykernel": types.ModuleType("ipykernel"),
        "IPython": types.SimpleNamespace(get_ipython=lambda: shell),
        "IPython.display": types.SimpleNamespace(display=found.display),
    }
    for name, module in parts.items():
        monkeypatch.setitem(sys.modules, name, module)
    return found


def row(step: int) -> dict[str, Any]:
    return {"kind": "train", "step": step, "loss_nats": 2.5, "learning_rate": 1e-3, "tokens_per_second": 1000.0}


def test_there_is_one_in_a_kernel_only(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(notebook_console(), NotebookConsole)
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: None)
    assert notebook_console() is None
    monkeypatch.delitem(sys.modules, "ipykernel")
    assert notebook_console() is None


def test_one_display_follows_the_run(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "EVERY_SECONDS", 0)
    console: Any = NotebookConsole()
    console.message("before <b>all</b> \x1b[31mred")
    console.start({"model": "a <tiny> one", "kernels": "a detail"}, 2)
    console.step(row(1))
    console.evaluation({"kind": "eval", "step": 1, "loss_nats": 2.0, "perplexity": 7.4, "sample": "a <word>\x07"})
    console.step(row(2))
    console.close()
    html, plain = shown.drawn[-1]["text/html"], shown.drawn[-1]["text/plain"]
    assert len(shown.drawn) == 6
    for text in (
        "step 2/2",
        "loss 2.5",
        "held-out loss 2.0",
        "sample: a <word>",
        "model:      a <tiny> one",
        "before <b>",
    ):
        assert text in plain
    assert "a &lt;word&gt;" in html
    assert "<b>" not in html
    assert "a detail" not in html
    assert not set(map(ord, html + plain)) & (set(range(32)) - {10})


def test_many_steps_are_few_drawings(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "EVERY_SECONDS", 1e9)
    console: Any = NotebookConsole()
    console.start({}, 100)
    for step in range(1, 101):
        console.step(row(step))
    assert len(shown.drawn) == 2
    assert "100/100" in shown.drawn[-1]["text/plain"]


def test_a_frontend_that_is_gone_hinders_nothing(
    shown: Shown, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise OSError("closed")

    monkeypatch.setattr(shown, "update", gone)
    console: Any = NotebookConsole()
    console.start({}, 2)
    console.message("on")
    console.message("and on")
    assert "closed" in capfd.readouterr().err
