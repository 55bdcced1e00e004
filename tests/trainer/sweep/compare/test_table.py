"""A comparison as Markdown and JSON: the best rate of every method, every rate, and nothing that is not done as a number."""

from __future__ import annotations

from galore.trainer.recipe.load import load_recipe
from galore.trainer.sweep.compare.standing import standings
from galore.trainer.sweep.compare.table import HEAD, as_object, markdown, row
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
    full, _, lora = standings(RUNS)
    assert row(full) == ["full", "0.01", "4.2500", "4.0000–4.5000", "70.11", "1,234", "1.00 MiB", "1m00s", "2 of 2"]
    assert row(lora)[2:-1] == ["–"] * (len(HEAD) - 3)


def test_the_page_has_the_best_of_each_then_every_rate_then_what_is_missing() -> None:
    text = markdown("A title", Sweep(RUNS, [], {"old": "unreadable"}))
    best, every = text.split("## Every learning rate")
    assert best.startswith("# A title\n")
    assert (best.count("| full |"), every.count("| full |")) == (1, 2)
    assert "- lora-0.01-1: not finished" in every
    assert "- old: unreadable" in every
    assert "## Every" not in markdown("A title", Sweep(RUNS[:2], [], {}))


def test_the_object_holds_every_run_and_the_best_rates() -> None:
    found = as_object(Sweep(RUNS, [], {}))
    assert [each["directory"] for each in found["runs"]] == [each.trial.folder for each in RUNS]
    assert found["runs"][-1]["held_out_loss_nats"] is None
    assert (found["best"][0]["method"], found["best"][0]["losses"]) == ("full", [4.0, 4.5])
