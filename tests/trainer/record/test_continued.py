"""What a run goes on with, of its own recipe and of the one it is given."""

from pathlib import Path

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.recipe.load import load_recipe
from galore.trainer.record.continued import going_on, refuse_other_mathematics, trained_schedule
from galore.trainer.record.rundir import RunDir

CHAT = ("data.source=local", "data.path=x.jsonl", "data.messages_field=messages")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run that was started with isolated documents left out, and saved nothing."""
    run = RunDir(tmp_path)
    run.recipe.write_text(load_recipe("demo", [*CHAT, "data.isolate_documents=false", "train.max_steps=7"]).text)
    return run


def test_a_recipe_takes_over_what_it_leaves_to_the_run(run: RunDir) -> None:
    given = load_recipe("demo", [*CHAT, "train.max_steps=9"])
    assert given.recipe.data.isolates
    taken = going_on(given, run).recipe
    assert not taken.data.isolates
    assert taken.train.max_steps == 9


def test_another_mathematics_is_refused_and_another_length_is_not(run: RunDir) -> None:
    refuse_other_mathematics(run, load_recipe("demo", [*CHAT, "train.max_steps=9"]).recipe)
    with pytest.raises(UserError, match=r"optim\.rank: \d+ → 3"):
        refuse_other_mathematics(run, load_recipe("demo", [*CHAT, "optim.rank=3"]).recipe)


def test_the_schedule_of_a_run_is_that_of_its_recipe_where_the_checkpoint_knows_none(run: RunDir) -> None:
    given = load_recipe("demo", [*CHAT, "train.max_steps=9"]).recipe
    assert trained_schedule(run, {}, given).train.max_steps == 7
