"""`galore prepare`: what is printed, in 80 columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from galore.cli.show.survey import CUT, histogram

RECIPE = """
data: {path: chat.jsonl, messages_field: messages, chat_template: zephyr, tokenizer_vocab_size: 300, max_length: 40,
       validation_fraction: 0, cache_dir: cache}
train: {max_steps: 1, global_batch_size: 4, micro_batch_size: 4}
"""


@pytest.fixture
def recipe(galore: Any) -> str:
    rows = [[{"role": "user", "content": "Say it"}, {"role": "assistant", "content": "yes " * n}] for n in range(1, 60)]
    Path("chat.jsonl").write_text("".join(json.dumps({"messages": each}) + "\n" for each in rows))
    Path("mine.yaml").write_text(RECIPE)
    return "mine.yaml"


def test_prepare_says_what_the_data_come_to(galore: Any, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    first, again = galore("prepare", recipe), galore("prepare", recipe)
    lines = [line for line in first.stdout.splitlines() if "/" not in line]  # a path stays whole
    assert max(map(len, lines)) <= 80
    words = " ".join(first.stdout.split())
    for part in ("59 examples in", "steps of 4", "of 59 examples", "exceed data.max_length 40", "made now", "longest"):
        assert part in words
    assert CUT * 3 in first.stdout
    assert words.replace("made now", "there already") == " ".join(again.stdout.split())


def test_prepare_json(galore: Any, recipe: str) -> None:
    facts = json.loads(galore("prepare", recipe, "--json", "data.max_length=64").stdout)
    assert facts["max_length"] == 64
    assert sum(each["documents"] for each in facts["lengths"]["histogram"]) == facts["data"]["documents"]["train"] == 59
    assert Path(facts["cache"]).is_dir()
    assert 0 < facts["packing_efficiency"] <= 1
    assert facts["made"]


def test_sequences_that_the_model_has_no_positions_for_are_not_prepared(
    galore: Any, recipe: str, tmp_path: Path
) -> None:
    config = {"model_type": "llama", "max_position_embeddings": 32, "num_hidden_layers": 1, "hidden_size": 16}
    Path("model").mkdir()
    Path("model/config.json").write_text(json.dumps(config | {"num_attention_heads": 2, "intermediate_size": 24}))
    refused = galore("prepare", recipe, "model.name_or_path=model", "data.tokenizer_vocab_size=300")
    assert (refused.exit_code, Path("cache").exists()) == (2, False)
    assert "set data.max_length to 32 or less" in refused.stderr


def test_a_bar_is_as_long_as_its_share_and_none_is_lost(galore: Any, recipe: str) -> None:
    from galore.trainer.data.survey import survey
    from galore.trainer.recipe.load import load_recipe

    loaded = load_recipe(recipe)
    found = survey(loaded.recipe, loaded.base_dir)
    head, *lines, legend = histogram(found, loaded.recipe)
    assert head.split() == ["tokens", "examples"]
    assert legend == "+ longer than data.max_length"
    assert all(line.endswith(("#", CUT)) for line in lines)
    assert max(line.count("#") + line.count(CUT) for line in lines) == 40


def test_a_stream_is_refused_in_one_sentence(galore: Any) -> None:
    refused = galore("prepare", "demo", "data.source=hub", "data.path=a/b")
    assert refused.exit_code == 2
    assert "nothing to prepare" in refused.stderr


def test_a_task_of_glue_says_that_nothing_is_kept(galore: Any, tiny_roberta: Path, glue_folder: Path) -> None:
    where = [f"model.name_or_path={tiny_roberta}", f"data.path={glue_folder}", "data.task=sst2", "data.max_length=9"]
    said = galore("prepare", "roberta-glue", *where).stdout
    assert "none: examples of a task are encoded at every start" in said
    assert "24 rows" in said
    assert "exceed data.max_length 9\n" in said
