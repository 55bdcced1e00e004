"""An encoder of any family is trained where RoBERTa is; a pattern that matches nothing is told before data is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from galore.trainer.common.errors import UserError
from galore.trainer.optim.groups import target_modules
from galore.trainer.parameters import dry_run
from galore.trainer.recipe.load import load_recipe
from galore.trainer.sweep.glue.grid import grid
from galore.trainer.sweep.glue.targets import _classifier, fitted, targets_of

SIZES = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
DISTILBERT = {"vocab_size": 40, "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2}
BERT = ["query", "key", "value", "dense", "word_embeddings", "position_embeddings"]
FAMILIES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "bert": (SIZES, BERT),
    "distilbert": (
        DISTILBERT,
        [
            "q_lin",
            "k_lin",
            "v_lin",
            "out_lin",
            "lin1",
            "lin2",
            "word_embeddings",
            "position_embeddings",
            "pre_classifier",
        ],
    ),
    "deberta-v2": (
        SIZES,
        [
            "query_proj",
            "key_proj",
            "value_proj",
            "output.dense",
            "intermediate.dense",
            *BERT[4:],
            "pooler.dense",
        ],
    ),
    "albert": ({**SIZES, "embedding_size": 8}, []),
    "mpnet": (SIZES, []),
    "modernbert": ({**SIZES, "pad_token_id": 0}, []),
}


METHODS = dict.fromkeys(FAMILIES, "galore,lora") | {"bert": "galore,frugal-rotate,lora,relora,full"}


def model(folder: Path, family: str, sizes: dict[str, Any]) -> list[str]:
    AutoConfig.for_model(family, **sizes).save_pretrained(folder)
    return [f"model.name_or_path={folder}", "data.path=nowhere/glue", "data.max_length=32"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_kinds_are_found_under_other_names(tmp_path: Path, family: str) -> None:
    sizes, targets = FAMILIES[family]
    said: list[str] = []
    for trial in fitted(grid(None, model(tmp_path, family, sizes), "stsb", METHODS[family]), said.append):
        found = trial.recipe.optim.target_modules
        assert not targets or sorted(found) == sorted(targets)
        assert f"optim.target_modules=[{','.join(found)}]" in said[-1]
        rows = dry_run(trial.loaded).parameters
        if trial.method == "galore":
            whole = [row.name for row in rows if len(row.shape) == 2 and not row.update.startswith("projected")]
            assert all(min(row.shape) < 5 for row in rows if row.name in whole), whole


def test_roberta_has_the_modules_of_the_recipe(tmp_path: Path) -> None:
    said: list[str] = []
    trials = grid(None, model(tmp_path, "roberta", SIZES), "sst2", "galore,lora")
    assert fitted(trials, said.append) == trials
    assert said == []


def test_what_the_model_gives_for_roberta_is_what_the_recipe_says(tmp_path: Path) -> None:
    shipped = load_recipe("roberta-glue").recipe.optim.target_modules
    (trial,) = grid(None, model(tmp_path, "roberta", SIZES), "sst2", "galore")
    network = _classifier(trial)
    assert {*target_modules(network, targets_of(network))} == {*target_modules(network, shipped)}


def test_a_pattern_that_somebody_chose_is_refused_with_what_there_is(tmp_path: Path) -> None:
    where = [*model(tmp_path, "bert", SIZES), "optim.target_modules=[query,q_proj]"]
    with pytest.raises(UserError, match=r"'q_proj' matches no weight matrix.*query"):
        fitted(grid(None, where, "sst2", "galore"), print)
