"""`import galore`, `python -m galore` and `from galore import …` work wherever the package lies, and without torch."""

from __future__ import annotations

import json
import os
import re
import site
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import galore
from galore.trainer.common.errors import UserError

ROOT = Path(__file__).parents[2]
BUILD = "from setuptools.build_meta import build_editable as build; import sys; build(sys.argv[1])"
PROGRAM = """
import importlib.util, runpy, sys
import galore
from galore import __version__, train
import galore.trainer.machine.process, galore.recipes, galore.trainer.recipe.load
assert importlib.util.find_spec("galore.trainer.optim")
assert "torch" not in sys.modules
print(galore.__file__)
sys.argv = ["galore", "--version"]
runpy.run_module("galore", run_name="__main__", alter_sys=True)
"""


class Place(NamedTuple):
    """Where Python is started, what is on its path beside what it starts in, and what is installed."""

    cwd: Path
    path: tuple[Path, ...] = ()
    safe: bool = False
    installed: Path | None = None

    def run(self, *arguments: str, program: str = PROGRAM) -> str:
        """In a Python that has all but galore, whose own installation -S leaves out."""
        first = f"import site; site.addsitedir({str(self.installed)!r})\n" if self.installed else ""
        own = [self.installed] if self.installed else []  # before an installation's finder of the same name
        paths = os.pathsep.join(map(str, [*own, *self.path, *site.getsitepackages()]))
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1" if self.safe else ""}
        command = [sys.executable, "-S", *(arguments or ["-c", first + program])]
        done = subprocess.run(
            command, cwd=self.cwd, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as links, with the link tree that the Makefile makes, and beside it an editable installation."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("README.md", "LICENSE", "pyproject.toml", "galore", "cli", "trainer", "kernels", "recipes"):
        (folder / name).symlink_to(ROOT / name)
    (links,) = re.findall(r"^\t(mkdir -p build/dev/galore .*)$", (ROOT / "Makefile").read_text(), re.M)
    subprocess.run(["sh", "-ec", links], cwd=folder, check=True)
    wheels = folder / "wheels"
    wheels.mkdir()
    subprocess.run([sys.executable, "-c", BUILD, wheels], cwd=folder, check=True, capture_output=True)
    (wheel,) = wheels.iterdir()
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder


PLACES = {
    "checkout": lambda root: Place(root),
    "on the path": lambda root: Place(root / "wheels", (root,), safe=True),
    "link tree": lambda root: Place(root, (root / "build/dev",), safe=True),
    "link tree, from the root": lambda root: Place(root, (root / "build/dev",)),
    "editable": lambda root: Place(root / "wheels", installed=root / "site"),
    "editable, from the root": lambda root: Place(root, installed=root / "site"),
    "editable, from the root, safe": lambda root: Place(root, safe=True, installed=root / "site"),
}


@pytest.mark.parametrize("place", PLACES)
def test_it_is_found(checkout: Path, place: str) -> None:
    file, version = PLACES[place](checkout).run().splitlines()
    assert Path(file).resolve() == ROOT / "galore/__init__.py"
    assert version == f"galore {galore.__version__}"


def test_python_m_in_a_checkout_where_nothing_is_installed(checkout: Path) -> None:
    assert Place(checkout).run("-m", "galore", "--version") == f"galore {galore.__version__}\n"
    assert "llama-60m" in Place(checkout).run("-m", "galore", "recipes", "list")


def test_the_version_stands_in_one_place(checkout: Path) -> None:
    (metadata,) = checkout.glob("site/*.dist-info/METADATA")
    assert f"\nVersion: {galore.__version__}\n" in metadata.read_text()
    assert "version" not in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_names() -> None:
    from galore.trainer.optim import GaLoreAdamW

    assert galore.GaLoreAdamW is GaLoreAdamW
    assert issubclass(galore.GaLoreAdamW, torch.optim.Optimizer)
    with pytest.raises(AttributeError, match="'galore' has no attribute 'GaLore'"):
        _ = galore.GaLore


TINY = """
extends: llama-60m-galore
model: {hidden_size: 16, intermediate_size: 24, num_hidden_layers: 1, num_attention_heads: 2, vocab_size: 300}
data: {source: local, path: corpus.txt, tokenizer_vocab_size: 300, max_length: 16, validation_fraction: 0.2}
optim: {rank: 4, update_proj_gap: 2}
train: {max_steps: 2, global_batch_size: 4, micro_batch_size: 2, device: cpu}
eval: {eval_steps: 1, sample_prompt: null}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GALORE_CACHE", str(tmp_path / "cache"))
    Path("corpus.txt").write_text("\n\n".join(f"On day {number} there was a word." for number in range(99)))
    Path("my.yaml").write_text(TINY)
    return tmp_path


def test_train_carries_out_a_recipe_and_goes_on(folder: Path) -> None:
    run = galore.train(folder / "my.yaml", "optim.rank=2")
    assert run.dir == Path(run) == folder / "runs/my"
    assert "rank: 2" in (run.dir / "recipe.yaml").read_text()
    assert run.report.is_file()
    run.report.unlink()  # something is left to do
    assert galore.train("my.yaml", "optim.rank=2", output_dir="runs/my", resume=True) == run
    assert json.loads((run.dir / "run.json").read_text())["resumes"][0]["step"] == 2
    assert run.facts["versions"]["galore"] == galore.__version__


def test_train_gives_the_run(folder: Path) -> None:
    run = galore.train("my.yaml", optim={"rank": 2}, **{"data.path": Path("corpus.txt")})
    assert "rank: 2" in (run.dir / "recipe.yaml").read_text()
    losses = {kind: [row["loss_nats"] for row in run.rows if row["kind"] == kind] for kind in ("train", "eval")}
    assert len(losses["train"]) == 2
    assert (run.train_loss, run.final["loss_nats"]) == (losses["train"][-1], losses["eval"][-1])
    assert run.checkpoint == folder / "runs/my/checkpoints/step-00000002"
    assert run.stopped == ""
    stored = run.load_model()
    assert stored.step == 2
    assert stored.model(torch.tensor([[1, 2]])).logits.shape == (1, 2, 300)


def test_the_page_about_python_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/runs.md").read_text(), re.M | re.S)
    given: dict[str, Any] = {"__name__": "block"}
    exec(block.replace("< 2", "< 9"), given)
    assert "Patience.on_evaluate: low enough" in capsys.readouterr().out
    assert len(given["losses"]) == 2
    assert given["model"].num_parameters() > 0


class Watching(galore.Callback):
    """Writes down what it hears; breaks at every evaluation and asks to stop after step 1."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, object]] = []

    def on_start(self, header: dict[str, str], total_steps: int) -> None:
        self.heard.append(("start", total_steps))

    def on_step(self, row: dict[str, Any]) -> None:
        self.heard.append(("step", row["step"]))
        raise galore.StopTraining("seen enough")

    def on_evaluate(self, row: dict[str, Any]) -> None:
        raise ZeroDivisionError("by a callback")

    def on_save(self, step: int, folder: Path) -> None:
        assert folder.is_dir()
        self.heard.append(("save", step))

    def on_end(self, facts: dict[str, Any]) -> None:
        self.heard.append(("end", facts.get("ended", {}).get("as", "finished")))


def test_a_callback_is_told_may_stop_and_breaks_nothing(folder: Path) -> None:
    watching = Watching()
    run = galore.train("my.yaml", callbacks=[watching])
    assert watching.heard == [("start", 2), ("step", 1), ("save", 1), ("end", "interrupted")]
    assert run.stopped == "Watching.on_step: seen enough"
    assert run.checkpoint == folder / "runs/my/checkpoints/step-00000001"
    again = galore.train("my.yaml", resume=True, callbacks=[watching])
    assert watching.heard[4:] == [("start", 2), ("step", 2), ("save", 2), ("end", "finished")]
    assert again.stopped == ""
    assert again.final["step"] == 2
    messages = [row["message"] for row in again.rows if row["kind"] == "event"]
    assert messages[0] == "asked to stop by Watching.on_step: seen enough"
    assert sum("ZeroDivisionError: by a callback" in message for message in messages) == 1


def test_a_run_is_where_it_began_wherever_the_caller_goes(folder: Path) -> None:
    (folder / "elsewhere").mkdir()

    class Leaving(galore.Callback):
        def on_step(self, row: dict[str, Any]) -> None:
            os.chdir(folder / "elsewhere")

    run = galore.train("my.yaml", "train.max_steps=3", output_dir="near", callbacks=[Leaving()])
    assert run.checkpoint == folder / "near/checkpoints/step-00000003"
    assert not [*Path().iterdir()]


@pytest.mark.parametrize("switched_off", [torch.no_grad, torch.inference_mode])
def test_what_the_caller_has_switched_off_is_on_in_a_run(folder: Path, switched_off: Callable[[], Any]) -> None:
    plain = galore.train("my.yaml", output_dir="plain")
    with switched_off():
        assert galore.train("my.yaml", output_dir="off").train_loss == plain.train_loss
        assert not torch.is_grad_enabled()


def test_a_run_that_is_prolonged_has_no_final_scores_until_it_is_over(folder: Path) -> None:
    lengthened = ("optim.lr_scheduler_type=constant", "optim.warmup_steps=0")
    assert galore.train("my.yaml", *lengthened).final["step"] == 2
    again = galore.train("my.yaml", *lengthened, "train.max_steps=4", resume=True, callbacks=[Watching()])
    assert (again.facts["ended"]["as"], again.final) == ("interrupted", {})
    assert "final" not in again.facts


def test_a_run_at_home_is_read_from_anywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder / "home"))
    run = galore.train("my.yaml", output_dir="~/run")
    assert run.dir == folder / "home/run"
    assert not Path("~").exists()
    near = galore.train("my.yaml", output_dir="near")
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert near.final == run.final != {}


@pytest.mark.parametrize(
    ("settings", "written"),
    [
        ({"data": {"path": [Path("a.txt"), "b.txt"]}}, ['data.path=["a.txt", "b.txt"]']),
        ({"optim": {"rank": np.int64(8), "scale": np.float32(0.5)}}, ["optim.rank=8", "optim.scale=0.5"]),
        ({"optim": {"betas": np.array([0.5, 0.75])}}, ["optim.betas=[0.5, 0.75]"]),
        ({"optim": {"rank": torch.tensor(4)}}, ["optim.rank=4"]),
        ({"model": {"dtype": torch.float32}}, ['model.dtype="float32"']),
        ({"model": {"dtype": np.dtype("float32")}}, ['model.dtype="float32"']),
        ({"optim": {}}, []),
        ({"model.rope": {"type": "yarn"}}, ['model.rope={"type": "yarn"}']),
    ],
)
def test_plain_values_are_written_as_on_the_command_line(settings: dict[str, Any], written: list[str]) -> None:
    assert list(galore._as_overrides(settings)) == written


def test_what_is_no_value_is_refused_by_its_key(folder: Path) -> None:
    with pytest.raises(UserError, match=r"optim\.rank: is no value of a recipe: it is of type object"):
        galore.train("my.yaml", optim={"rank": object()})


def test_train_refuses_what_the_command_refuses(folder: Path) -> None:
    with pytest.raises(UserError, match=r"optim\.rnak"):
        galore.train("my.yaml", "optim.rnak=2")
    assert not Path("runs").exists()


def test_train_says_what_to_do_in_the_words_of_a_call(folder: Path) -> None:
    Path("runs").write_text("a file")
    with pytest.raises(UserError) as refused:
        galore.train("my.yaml", output_dir="runs")
    assert "choose another output_dir" in refused.value.fix
