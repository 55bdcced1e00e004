"""A whole comparison on the embedded corpus: table, picture, what is done stays, what broke off goes on."""

from __future__ import annotations

import json
import random
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from consoles import Quiet

from galore.trainer import loop, run
from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.data.batch import silent
from galore.trainer.recipe.load import load_recipe
from galore.trainer.record.rundir import RunDir
from galore.trainer.sweep.compare.grid import grid
from galore.trainer.sweep.compare.run import compare
from galore.trainer.sweep.compare.standing import final_loss, standings
from galore.trainer.sweep.jobs import Show
from galore.trainer.sweep.outcome import Outcome, Sweep, outcome

pytestmark = pytest.mark.usefixtures("undrawn")
STEPS = 4


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    rng = random.Random(0)
    words = ["".join(rng.choices("aeiourstlnmkp", k=rng.randint(2, 7))) for _ in range(80)]
    (tmp_path / "text.txt").write_text("\n\n".join(" ".join(rng.choices(words, k=40)) for _ in range(200)))
    (tmp_path / "small.yaml").write_text(f"""
model: {{hidden_size: 32, intermediate_size: 80, num_hidden_layers: 1, num_attention_heads: 4}}
data: {{source: local, path: text.txt, tokenizer_vocab_size: 300, max_length: 32, validation_fraction: 0.1,
       cache_dir: {tmp_path / "cache"}}}
optim: {{rank: 8}}
train: {{max_steps: {STEPS}, global_batch_size: 4, micro_batch_size: 4, save_steps: 2, num_threads: 1, device: cpu}}
eval: {{eval_steps: 2, max_tokens: 200}}
""")
    return str(tmp_path / "small.yaml")


def _interrupted() -> None:
    raise KeyboardInterrupt


def compared(
    recipe: str, out: Path, methods: str, rates: str | None = None, *overrides: str
) -> tuple[list[Outcome], list[str]]:
    found, told = swept(recipe, out, methods, rates, *overrides)
    return found.compared, told


def swept(
    recipe: str,
    out: Path,
    methods: str,
    rates: str | None = None,
    *overrides: str,
    seeds: str | None = None,
    extend: int = 0,
    prune: bool = True,
) -> tuple[Sweep, list[str]]:
    told: list[str] = []
    show = Show(lambda loaded: Quiet(), silent, told.append)  # type: ignore[arg-type, return-value]
    trials = grid(recipe, overrides, methods, rates, seeds)
    return compare(load_recipe(recipe, overrides), trials, out, show, extend, prune), told


def test_table_json_and_plot_say_what_the_runs_came_to(recipe: str, tmp_path: Path, drawn: Callable[[], None]) -> None:
    pytest.importorskip("matplotlib")
    found, _ = compared(recipe, tmp_path / "out", "full,galore", "0.003,0.01")
    assert [each.status for each in found] == ["done"] * 4
    assert all(
        len(each.held_out) == 2 and len(each.training) == STEPS and each.tokens == STEPS * 4 * 32 for each in found
    )
    full, galore = found[0], found[2]
    assert galore.optimizer_bytes < full.optimizer_bytes
    table = (tmp_path / "out" / "compare.md").read_text()
    best = min((each for each in found if each.trial.label == "galore"), key=lambda each: final_loss(each) or 0)
    where = {0.003: "lowest", 0.01: "highest"}[best.trial.learning_rate]
    assert f"| galore | {best.trial.learning_rate:g} | {where} | {final_loss(best):.4f} |" in table
    assert table.count("| galore |") == 3  # the best, and each learning rate
    told = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert len(told["runs"]) == 4
    assert {each["method"] for each in told["best"]} == {"full", "galore"}
    drawn()
    compared(recipe, tmp_path / "out", "full,galore", "0.003,0.01")
    assert (tmp_path / "out" / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_done_is_passed_over_and_new_methods_join(recipe: str, tmp_path: Path, monkeypatch: Any) -> None:
    first, _ = compared(recipe, tmp_path / "out", "full")
    calls = []
    real = loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda *args: (calls.append(1), real(*args))[1])
    (report,) = (tmp_path / "out").glob("full*/report.md")
    text = report.read_text()
    report.unlink()
    again, told = compared(recipe, tmp_path / "out", "full,galore")
    assert report.read_text() == text  # one that the disk refused is written once the run is passed over
    assert told[:2] == ["full: optim.method: galore → full", "galore: small as it is"]
    assert "full is done" in told[2]
    assert len(calls) == STEPS
    assert again[0] == first[0]


def test_a_run_that_broke_off_goes_on_and_one_that_fails_does_not_lose_the_others(
    recipe: str, tmp_path: Path, monkeypatch: Any
) -> None:
    real, calls = loop.train_step, iter(range(100))

    def dies(*args: Any) -> Any:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", dies)
        with pytest.raises(KeyboardInterrupt):
            compared(recipe, tmp_path / "out", "full,galore")
    nan = "galore:train.max_skipped_steps=0:optim.learning_rate=1e30"
    found, _ = compared(recipe, tmp_path / "out", f"full,{nan},galore")
    assert [each.status.split(":")[0] for each in found] == ["done", "failed", "done"]
    assert "## Not done" in (tmp_path / "out" / "compare.md").read_text()


def test_what_failed_in_an_earlier_call_is_told_until_it_is_run_again(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls, out = loop.train_step, iter(range(99)), tmp_path / "out"

    def dies(*args: Any) -> Any:
        if next(calls) > 3 * STEPS:
            raise RunFailed("the loss is nan")
        return real(*args)

    monkeypatch.setattr(loop, "train_step", dies)
    first, _ = swept(recipe, out, "full", "0.003,0.01", seeds="1,2")
    assert {*first.undone} == {"full-lr0.01-seed2"}
    assert "the loss is nan" in first.undone["full-lr0.01-seed2"]
    monkeypatch.setattr(loop, "train_step", real)
    second, _ = swept(recipe, out, "galore", "0.003", seeds="1,2")
    assert second.undone == first.undone
    assert [each.broken for each in standings(second.compared) if each.learning_rate == 0.01] == [True]
    calls = iter(range(99))
    monkeypatch.setattr(loop, "train_step", lambda *args: _interrupted() if next(calls) else real(*args))
    with pytest.raises(KeyboardInterrupt):
        swept(recipe, out, "full", "0.01", seeds="2")
    monkeypatch.setattr(loop, "train_step", real)
    third, _ = swept(recipe, out, "galore", "0.003", seeds="1,2")
    assert third.undone == {"full-lr0.01-seed2": "not finished"}
    assert swept(recipe, out, "full", "0.01", seeds="2")[0].undone == {}


@pytest.mark.parametrize(
    ("facts", "events", "status"),
    [
        ({}, [], "not finished"),
        ({"ended": {"as": "interrupted", "why": "by SIGINT"}}, ["stopped"], "not finished"),
        ({"ended": {"as": "failed", "why": "the disk is full"}}, ["resumed"], "failed: the disk is full"),
        ({"ended": {"as": "failed"}}, ["resumed", "not saved"], "failed: not saved"),
        ({"ended": {"as": "failed"}}, [], "failed: it is not known why"),
        ({"ended": ["failed"]}, [], "not finished"),
        ({"ended": {"as": "failed"}, "pruned": "after step 2"}, [], "pruned after step 2"),
    ],
)
def test_how_a_run_broke_off_is_read_from_its_folder(
    facts: dict[str, Any], events: list[str], status: str, tmp_path: Path
) -> None:
    (trial,) = grid("demo", [], "full")
    run_dir = RunDir(tmp_path / trial.folder)
    run_dir.root.mkdir()
    run_dir.facts.write_text(json.dumps(facts))
    rows = [{"kind": "event", "step": 1, "message": message} for message in events]
    run_dir.metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert outcome(trial, tmp_path).status == status


@pytest.mark.parametrize(
    ("rows", "status", "loss"),
    [
        ([{"loss_nats": 9.0}, {"loss_nats": 2.8}], "done", 2.8),
        ([{"loss_nats": 2.8}, {"loss_nats": None, "loss_nats_is": "nan"}], "failed: the last held-out loss is nan", None),
        ([{"loss_nats": None, "loss_nats_is": "inf"}], "failed: the last held-out loss is inf", None),
        ([{"loss_nats": None, "loss_nats_is": "inf"}, {"loss_nats": 3.0}], "done", 3.0),
        ([{"squared_error": 1.0}, {"squared_error": None, "squared_error_is": "nan"}], "failed: the last held-out loss is nan", None),
        ([], "done", None),
    ],
)  # fmt: skip
def test_a_run_whose_last_loss_is_no_number_has_none(
    rows: list[dict[str, Any]], status: str, loss: float | None, tmp_path: Path
) -> None:
    (trial,) = grid("demo", [], "full")
    run_dir = RunDir(tmp_path / trial.folder)
    run_dir.root.mkdir()
    run_dir.facts.write_text(json.dumps({"finished": "2026"}))
    told = ({"kind": "eval", "step": step, **row} for step, row in enumerate(rows))
    run_dir.metrics.write_text("".join(f"{json.dumps(row)}\n" for row in told))
    found = outcome(trial, tmp_path)
    assert (found.status, final_loss(found)) == (status, loss)


def test_a_directory_of_another_recipe_is_refused_before_anything_runs(recipe: str, tmp_path: Path) -> None:
    compared(recipe, tmp_path / "out", "full")
    with pytest.raises(UserError, match=r"another recipe: train.max_steps: 4 → 5"):
        compared(recipe, tmp_path / "out", "galore,full", None, "train.max_steps=5")
    assert not (tmp_path / "out" / "galore").exists()


def test_a_smaller_call_keeps_what_lies_in_the_folder(recipe: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, _ = compared(recipe, out, "full,galore:optim.rank=4", "0.003,0.01")
    again, _ = compared(recipe, out, "galore:optim.rank=4", "0.01")
    assert {(each.trial.label, each.trial.folder, each.held_out) for each in again} == {
        (each.trial.label, each.trial.folder, each.held_out) for each in first
    }
    table = (out / "compare.md").read_text()
    assert table.count("| full |") == table.count("| galore:optim.rank=4 |") == 3
    (earlier,) = (line for line in table.splitlines() if line.startswith("Of earlier calls into this folder: "))
    assert all(each in earlier for each in ("full at 0.003", "full at 0.01", "galore:optim.rank=4 at 0.003"))
    assert "galore:optim.rank=4 at 0.01" not in earlier
    (out / "compare.json").unlink()  # of the folder alone
    compared(recipe, out, "lora")
    table = (out / "compare.md").read_text()
    assert table.count("| full |") == table.count("| galore_optim.rank_4 |") == 3


@pytest.mark.parametrize(
    ("first", "second", "folder"),
    [
        ((None, None), (None, "42,43"), "full"),
        ((None, "42"), (None, None), "full-seed42"),
        ((None, None), ("0.01,0.02", None), "full"),
        (("0.01", None), (None, "42,43"), "full-lr0.01"),
        (("0.01", "42"), ("0.01", None), "full-lr0.01-seed42"),
    ],
)
def test_a_run_is_found_whether_or_not_a_call_names_its_rate_and_seed(
    first: tuple[str | None, str | None],
    second: tuple[str | None, str | None],
    folder: str,
    recipe: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, steps = loop.train_step, list[int]()
    monkeypatch.setattr(loop, "train_step", lambda *args: (steps.append(1), real(*args))[1])
    (done,) = swept(recipe, tmp_path / "out", "full", first[0], seeds=first[1])[0].compared
    steps.clear()
    found, told = swept(recipe, tmp_path / "out", "full", second[0], seeds=second[1])
    again = found.compared[0]
    assert again.trial.folder == done.trial.folder == folder
    assert again.held_out == done.held_out
    assert found.other == []
    assert len({run.trial.key for run in found.compared}) == len(found.compared)
    assert len(steps) == STEPS * (len(found.compared) - 1)
    assert f"1 of {len(found.compared)}: {folder} is done" in told


def test_a_run_that_broke_off_goes_on_in_its_folder_and_a_method_with_settings_is_found(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, steps, out = loop.train_step, list[int](), tmp_path / "out"

    def dies(*args: Any) -> Any:
        steps.append(1)
        return _interrupted() if len(steps) == 2 * STEPS else real(*args)

    monkeypatch.setattr(loop, "train_step", dies)
    with pytest.raises(KeyboardInterrupt):
        swept(recipe, out, "full,galore:optim.rank=4", seeds="42")
    steps.clear()
    steps.extend(range(99))
    swept(recipe, out, "galore:optim.rank=4,full")
    assert len(steps) < 99 + STEPS
    assert sorted(file.parent.name for file in out.glob("*/recipe.yaml")) == [
        "full-seed42",
        "galore_optim.rank_4-seed42",
    ]


def test_a_grid_goes_on_beyond_an_edge_that_an_earlier_call_ran(recipe: str, tmp_path: Path) -> None:
    own = "optim.learning_rate=2e-5"
    swept(recipe, tmp_path / "out", "full", None, own)
    for _ in range(2):
        found, _ = swept(recipe, tmp_path / "out", "full", "1e-5,2e-5", own, extend=1)
        assert [run.trial.folder for run in found.compared] == ["full-lr1e-05", "full", "full-lr4e-05"]


def test_a_seed_that_lies_in_two_folders_counts_once(recipe: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    swept(recipe, out, "full", seeds="42,43")
    shutil.copytree(out / "full-seed42", out / "full")
    (out / "full/run.json").unlink()
    shutil.copytree(out / "full-seed43", out / "full-lr0.01-seed43")
    found, _ = swept(recipe, out, "full")
    assert [run.trial.folder for run in found.compared] == ["full-seed42", "full-lr0.01-seed43"]
    (standing,) = standings(found.compared)
    assert standing.count == "2 of 2"
    text, told = (out / "compare.md").read_text(), json.loads((out / "compare.json").read_text())
    lost = "not finished; its method, rate and seed are those of full-seed42"
    assert f"## Not compared\n\n- full: {lost}\n- full-seed43: done, held-out loss" in text
    assert len(told["runs"]) == 4
    assert len(told["best"][0]["losses"]) == 2


def test_runs_of_other_settings_are_told_apart(recipe: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    compared(recipe, out, "full", "0.003")
    (out / "torn").mkdir()
    (out / "torn/recipe.yaml").write_text("optim: {rank")
    found, _ = swept(recipe, out, "full,galore:train.max_steps=3", "0.01", "train.max_steps=2")
    assert [each.trial.folder for each in found.compared] == ["full-lr0.01", "galore_train.max_steps_3-lr0.01"]
    text = (out / "compare.md").read_text()
    (other,) = found.other
    loss = f"{other.held_out[-1][1]:.4f}"
    apart = f"- full-lr0.003: done, held-out loss {loss}; train.max_steps is 4, not 2\n"
    assert f"## Not compared\n\n{apart}" in text
    assert "- torn: its recipe cannot be read: " in text
    runs = json.loads((out / "compare.json").read_text())["runs"]
    assert [run.get("differs") for run in runs] == [None, None, ["train.max_steps is 4, not 2"]]
    again, _ = swept(recipe, out, "full", "0.01", "train.max_steps=2")
    assert {*again.apart} == {"full-lr0.003"}


def test_rates_that_a_grid_leaves_alone_are_told_with_their_method(recipe: str, tmp_path: Path) -> None:
    _, told = compared(recipe, tmp_path / "out", "full,galore", "0.003", "optim.embedding_learning_rate=0.02")
    beside = "; rates of their own: embedding_learning_rate 0.02"
    assert told[:2] == [f"full: optim.method: galore → full{beside}", f"galore: small as it is{beside}"]


def test_a_multiple_is_no_change_of_the_method(recipe: str, tmp_path: Path) -> None:
    _, told = compared(recipe, tmp_path / "out", "galore", "0.003", "optim.embedding_learning_rate=2x")
    assert told[0] == "galore: small as it is; rates of their own: embedding_learning_rate 2x"


def test_settings_that_a_method_carries_set_no_other_apart(recipe: str, tmp_path: Path) -> None:
    out, carried = tmp_path / "out", "galore:train.z_loss=0.0001"
    compared(recipe, out, "full")
    compared(recipe, out, "lora", None, "train.z_loss=0.5")
    found, _ = swept(recipe, out, carried)
    assert [run.trial.label for run in found.compared] == [carried, "full"]
    assert [(run.trial.label, run.differs) for run in found.other] == [("lora", ("train.z_loss is 0.5, not 0.0",))]


def test_a_run_without_a_rate_is_at_the_recipes(recipe: str, tmp_path: Path) -> None:
    compared(recipe, tmp_path / "out", "full")
    assert "| full | 0.01 | only one |" in (tmp_path / "out" / "compare.md").read_text()


def test_a_grid_goes_on_beyond_its_edge_and_a_second_call_runs_nothing(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, told = swept(recipe, tmp_path / "out", "full", "1e-5,2e-5", extend=1)
    assert [run.trial.folder for run in found.compared] == [f"full-lr{n}e-05" for n in (1, 2, 4)]
    assert "full: best at 2e-05, the highest rate tried; 4e-05 is tried, too" in told
    text = (tmp_path / "out/compare.md").read_text()
    assert "another may be better: full (4e-05, the highest)" in text
    assert (tmp_path / "out/compare.csv").read_text().count("\n") == 4
    assert r"\midrule" in (tmp_path / "out/compare.tex").read_text()
    monkeypatch.setattr(loop, "train_step", None)
    again, _ = swept(recipe, tmp_path / "out", "full", "1e-5,2e-5", extend=1)
    assert again == found
    assert (tmp_path / "out/compare.md").read_text() == text


def test_a_hopeless_rate_is_stopped_with_all_its_seeds_and_goes_on_where_nobody_prunes(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, steps = loop.train_step, list[int]()
    monkeypatch.setattr(loop, "train_step", lambda *args: (steps.append(1), real(*args))[1])
    call = (recipe, tmp_path / "out", "full", "0.001,0.003,1.0")
    found, told = swept(*call, seeds="1,2")
    assert [run.status.split(":")[0] for run in found.compared] == [
        *("done", "done", "pruned after step 2"),
        *("done", "done", "pruned with seed 1, after step 2"),
    ]
    assert len(steps) == 4 * STEPS + 3  # it is asked after step 2, and saved after the one that comes then
    assert not (tmp_path / "out/full-lr1-seed2").exists()
    assert any(line.startswith("full-lr1-seed1 is pruned after step 2: held-out loss") for line in told)
    text = (tmp_path / "out/compare.md").read_text()
    assert "| full | 1 | highest | – |" in text
    assert "- full-lr1-seed1: pruned after step 2: held-out loss" in text
    steps.clear()
    assert swept(*call, seeds="1,2")[0] == found
    assert not steps
    whole, _ = swept(*call, prune=False, seeds="1,2")
    assert [run.status for run in whole.compared] == ["done"] * 6
    assert len(steps) == 1 + STEPS


def test_nothing_of_a_run_is_kept_while_the_next_one_goes_on(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, models, alive = run.build, list[Any](), list[int]()

    def build(*args: Any) -> Any:
        alive.append(sum(each() is not None for each in models))
        made = real(*args)
        models.extend((weakref.ref(made.model), weakref.ref(made.optimizer)))
        return made

    monkeypatch.setattr(run, "build", build)
    compared(recipe, tmp_path / "out", "full,galore,fira,galore-8bit")
    assert alive == [0, 0, 0, 0]
