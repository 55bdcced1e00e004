"""A comparison as Markdown and JSON: the best rate of every method, every rate, and nothing that is not done as a number."""

from __future__ import annotations

import csv
from dataclasses import replace

from galore.trainer.recipe.load import load_recipe
from galore.trainer.sweep.compare.standing import best_of_each, standings, without_result
from galore.trainer.sweep.compare.table import COLUMNS, HEAD, as_object, markdown, row, to_publish
from galore.trainer.sweep.options import Trial
from galore.trainer.sweep.outcome import Outcome, Sweep


def run(label: str, rate: float, seed: int, loss: float | None, status: str = "done") -> Outcome:
    loaded = load_recipe("demo", [f"optim.learning_rate={rate}", f"train.seed={seed}"])
    held_out = () if loss is None else ((9, loss),)
    return Outcome(Trial(f"{label}-{rate}-{seed}", label, label, loaded), status, 1234, 2**20, 0, 60.0, (), held_out)


RUNS = [
    run("full", 0.01, 1, 4.0),
    run("full", 0.01, 2, 4.5),
    run("full", 0.1, 1, 7.0),
    run("lora", 0.01, 1, None, "not finished"),
]


def test_a_row_is_the_mean_over_seeds_with_their_spread() -> None:
    full, _, lora = every = standings(RUNS)
    costs = ["1,234", "1.00 MiB", "1m00s", "2 of 2"]
    assert row(full, every) == ["full", "0.01", "lowest", "4.2500 ± 0.2500", "4.0000–4.5000", "70.11", *costs]
    assert row(lora, every)[3:-1] == ["–"] * (len(HEAD) - 4)
    assert row(standings(RUNS[:1])[0], [])[3:5] == ["4.0000", ""]


def test_a_rate_at_which_a_seed_failed_is_best_only_where_all_are() -> None:
    whole = [run("full", 0.01, seed, 3.0) for seed in (1, 2)]
    broken = [run("full", 0.1, 1, 2.9), run("full", 0.1, 2, None, "failed: the loss is nan")]
    half = [run("full", 0.1, 1, 2.9), run("full", 0.1, 2, None, "not finished")]
    assert [each.learning_rate for each in best_of_each(standings([*whole, *broken]))] == [0.01]
    assert [each.learning_rate for each in best_of_each(standings(broken))] == [0.1]
    assert [each.learning_rate for each in best_of_each(standings([*whole, *half]))] == [0.1]


def test_the_page_has_the_best_of_each_then_every_rate_then_what_is_missing() -> None:
    text = markdown("A title", Sweep(RUNS, [], {"old": "unreadable"}))
    best, every = text.split("## Every learning rate")
    assert best.startswith("# A title\n")
    assert (best.count("| full |"), every.count("| full |")) == (1, 2)
    assert "- lora-0.01-1: not finished" in every
    assert "- old: unreadable" in every
    assert "At an edge of the rates tried, so that another may be better: full (0.01, the lowest)." in best
    alone = markdown("A title", Sweep(RUNS[:2], [], {}))
    assert "## Every" not in alone
    assert "At an edge" not in alone


def test_where_nothing_has_a_result_there_is_no_table_of_the_best() -> None:
    text = markdown("A title", Sweep([run("full", 0.01, 1, None, "failed: nan")], [], {}))
    assert text.startswith("# A title\n\nNo method has a result.\n\n## Every learning rate\n\n| method |")


def test_rates_of_head_and_embeddings_are_told() -> None:
    loaded = load_recipe("demo", ["optim.embedding_learning_rate=5x", "optim.head_learning_rate=0.002"])
    split = [replace(each, trial=replace(each.trial, loaded=loaded)) for each in [run("normuon", 0.01, 1, 4.0)]]
    text = markdown("A title", Sweep([*RUNS, *split], [], {}))
    told = "Rates of their own: normuon head_learning_rate 0.002, embedding_learning_rate 5x.\n"
    assert f"\n{told}" in text
    assert "of their own" not in markdown("A title", Sweep(RUNS, [], {}))


def test_methods_without_a_result_are_those_of_which_a_run_failed_and_none_that_was_asked_for_is_done() -> None:
    lost = [run("full", 0.01, 1, None, "failed: nan"), run("full", 0.1, 1, None, "pruned after step 2")]
    assert without_result([*lost, run("lora", 0.01, 1, None, "not finished"), run("muon", 0.01, 1, None)]) == ["full"]
    assert without_result([*lost, run("full", 0.001, 1, 4.0)]) == []
    assert without_result([*lost, replace(run("full", 0.001, 1, 4.0), earlier=True)]) == ["full"]
    assert without_result([replace(each, earlier=True) for each in lost]) == []


def test_what_is_published_has_every_rate_in_numbers_and_the_best_of_each_in_latex() -> None:
    files = to_publish(Sweep([*RUNS, run("galore:optim.rank=4_", 0.01, 1, 5.0)], [], {}))
    rows = list(csv.DictReader(files["csv"].splitlines()))
    assert [tuple(each) for each in rows] == [COLUMNS] * 4
    full = rows[0]
    assert (full["is_best"], full["held_out_loss_nats"], full["standard_error_nats"]) == ("True", "4.25", "0.25")
    assert (full["runs_done"], full["optimizer_bytes"], rows[-1]["held_out_loss_nats"]) == ("2", str(2**20), "")
    lines = files["tex"].splitlines()
    assert lines[0] == r"\begin{tabular}{lrlrrrrrrr}"
    assert lines[4].startswith(r"full & 0.01 & lowest & 4.2500 $\pm$ 0.2500 & 4.0000--4.5000 & 70.11 & ")
    assert lines[5].startswith(r"galore:optim.rank=4\_ & ")
    assert all(line.count(" & ") == len(HEAD) - 1 for line in (lines[2], *lines[4:6]))
    assert lines[-1] == r"\end{tabular}"


def test_the_object_holds_every_run_and_the_best_rates() -> None:
    found = as_object(Sweep(RUNS, [], {}))
    assert [each["directory"] for each in found["runs"]] == [each.trial.folder for each in RUNS]
    assert found["runs"][-1]["held_out_loss_nats"] is None
    best = found["best"][0]
    assert (best["method"], best["losses"], best["in_its_grid"]) == ("full", [4.0, 4.5], "lowest")
    assert best["standard_error_nats"] == 0.25
