"""The page of runs: whole, closed to markup from elsewhere, with what a report says, or a comparison."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from galore.trainer.record.history import History
from galore.trainer.record.rundir import RunDir
from galore.trainer.record.shown import webpage
from galore.trainer.record.shown.webpage import html, page

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"


@pytest.fixture
def make_history(tmp_path: Path) -> Any:
    def make(name: str, *, steps: int = 3, recipe: str = "train: {seed: 1}", message: str = "said") -> History:
        run = RunDir(tmp_path / name)
        run.root.mkdir()
        run.recipe.write_text(recipe)
        run.facts.write_text(json.dumps({"name": name, "method": "GaLore", "total_steps": 3}))
        rows: list[dict[str, Any]] = [
            {"kind": "train", "step": step, "loss_nats": 3.0, "tokens": step, "step_seconds": 1.0}
            for step in range(1, steps + 1)
        ]
        rows += [
            {"kind": "eval", "step": steps, "loss_nats": 2.5, "perplexity": 12.2, "sample": message},
            {"kind": "event", "step": 1, "message": message},
        ]
        run.metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return History.read(run)

    return make


def data_of(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found
    return json.loads(found[1])


def test_one_run_shows_its_report_and_curves(make_history: Any) -> None:
    text = page({"runs/one": make_history("one")})
    assert "<title>one</title>" in text
    assert "{{" not in text
    for said in (
        "Held-out loss",
        "<h2>Evaluations</h2>",
        "<h2>Sample</h2>",
        "<details>\n<summary>resolved recipe</summary>",
    ):
        assert said in text
    assert data_of(text)["runs"][0]["y"]["loss"] == [3.0] * 3


def test_settings_have_no_secrets(make_history: Any) -> None:
    recipes = [f"data: {{path: 'https://me:pwpw@host/{name}'}}" for name in "ab"]
    text = page({name: make_history(name, recipe=recipe) for name, recipe in zip("ab", recipes, strict=True)})
    assert "https://***@host/a" in text
    assert "pwpw" not in text


def test_several_runs_are_compared(make_history: Any) -> None:
    found = {"a": make_history("a"), "b": make_history("b", steps=2, recipe="train: {seed: 2}\noptim: {rank: 4}")}
    text = page(found)
    assert "<title>2 runs</title>" in text
    assert re.search(r"<td>Steps</td>\s*<td>3 of 3</td>\s*<td>2 of 3</td>", text)
    differing = text.partition("Settings that differ")[2]
    assert re.search(r"<td>train.seed</td>\s*<td>1</td>\s*<td>2</td>", differing)
    assert re.search(r"<td>optim.rank</td>\s*<td></td>\s*<td>4</td>", differing)
    assert [run["name"] for run in data_of(text)["runs"]] == ["a", "b"]


def test_what_is_damaged_in_one_of_several_costs_its_column(make_history: Any) -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(24)
    )
    found = {"a": make_history("a", recipe=bomb), "b": make_history("b", recipe="[" * 100_000)}
    found["b"].facts.update({key: [] for key in ("model", "parameters", "finished", "total_steps", "energy")})
    assert "<td>3 of 3</td>" in page(found)


def test_markup_from_elsewhere_is_text(make_history: Any) -> None:
    text = page(
        {EVIL: make_history("one", message=EVIL, recipe=f"a: '{EVIL}'"), "b": make_history("two", message=EVIL)}
    )
    one = page(
        {"x": History(**{**vars(make_history("three", message=EVIL)), "facts": {"name": EVIL, "notes": [EVIL]}})}
    )
    for made in (text, one):
        assert made.count("<script") == 2
        assert made.count("</script>") == 2
        assert "<img" not in made
    assert data_of(text)["runs"][0]["name"] == EVIL


@pytest.mark.parametrize(
    "markdown",
    ["<details>\n<summary><b>x</b></summary>\n\ny\n</details>\n", "<b>x</b>", "a <i>b</i>", "[x](javascript:alert(1))"],
)
def test_no_markup_but_that_of_folded_parts(markdown: str) -> None:
    made = html(markdown)
    assert not re.search(r"<(b|i|a)\b", made)


def test_a_page_loads_nothing(make_history: Any) -> None:
    text = page({"runs/one": make_history("one")})
    assert "default-src 'none'" in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


NODE = shutil.which("node")
AXES = """
const axis = "step", HEIGHT = 200, MARGIN = { left: 50, right: 10, top: 10, bottom: 20 };
const known = (value) => value !== null && value !== undefined;
const runsOf = () => runs, runsShown = () => runs;
%s
const chart = { key: "loss", zero: false }, shown = [];
for (const loss of [0, 1e-300, 3, 2048, 5000.5, 16384, -4096, 1e9, 1e15, 1e300]) {
  runs = [{ x: { step: [1, 2] }, y: { loss: [loss, loss] }, held: { x: { step: [] }, y: [] } }];
  const scale = scales(chart, 800);
  shown.push([scale.low, scale.high, ticks(scale.low, scale.high, 5)]);
}
shown.push([0, 10, ticks(0, 10, 5)], [1, 2, ticks(1, 2, 5.5)]);
console.log(JSON.stringify(shown));
"""


@pytest.mark.skipif(NODE is None, reason="the page's script is run by node, which is not here")
def test_a_curve_that_stays_at_one_loss_has_a_few_marks() -> None:
    """Also where the loss is so large, or so small, that steps between marks come to nothing beside it."""
    charts = (Path(webpage.__file__).parent / "run-page" / "charts.js").read_text()
    source = charts[charts.index("// Round numbers") : charts.index("// A path through")]
    assert NODE is not None
    done = subprocess.run(
        [NODE, "-e", "let runs;" + AXES % source], capture_output=True, text=True, timeout=20, check=True
    )
    *constant, ten, half = json.loads(done.stdout)
    for low, high, marks in constant:
        assert low < high
        assert 1 <= len(marks) <= 7
        assert all(low - abs(low) * 1e-9 <= mark <= high + abs(high) * 1e-9 for mark in marks)
    assert ten[2] == [0, 2, 4, 6, 8, 10]
    assert half[2] == [1, 1.2, 1.4, 1.6, 1.8, 2]


def test_names_that_are_not_utf8_stay_apart(make_history: Any) -> None:
    text = page({name: make_history(f"run{n}") for n, name in enumerate(("r\udcf1", "r\udcf2"))})
    text.encode()
    assert [run["name"] for run in data_of(text)["runs"]] == ["r\\udcf1", "r\\udcf2"]
    page({"r\udcff": make_history("one")}).encode()
