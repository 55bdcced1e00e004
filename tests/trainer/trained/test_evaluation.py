from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from galore.trainer.build import build_model
from galore.trainer.checkpoint import checkpoint
from galore.trainer.checkpoint.state import model_tensors
from galore.trainer.common.errors import UserError
from galore.trainer.data.batch import Scoring
from galore.trainer.data.prepare import prepare_data
from galore.trainer.data.score import evaluate
from galore.trainer.models.decoder import build_decoder
from galore.trainer.models.head import split_head
from galore.trainer.recipe.dump import dump_recipe
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.recipe.schema.train import EvalSection
from galore.trainer.record.rundir import RunDir
from galore.trainer.trained.evaluation import evaluate_stored
from galore.trainer.trained.export import export
from galore.trainer.trained.runmodel import load_run_model, save_model_files


def recipe(folder: Path, seed: int = 0) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
                      "dtype": "bfloat16", "initializer_range": 0.3},
            "data": {"path": str(folder / "corpus.txt"), "max_length": 16, "tokenizer_vocab_size": 300, "validation_fraction": 0.2},
            "train": {"max_steps": 1, "global_batch_size": 4, "micro_batch_size": 4, "seed": seed},
            "eval": {"micro_batch_size": 64},
        }
    )  # fmt: skip


def write_corpus(folder: Path, seed: int) -> None:
    generator = random.Random(seed)
    letters = "abcdefghij" if seed == 0 else "klmnopqrst"
    words = ["".join(generator.choices(letters, k=4)) for _ in range(40)]
    text = "\n\n".join(" ".join(generator.choices(words, k=40)) for _ in range(30))
    (folder / "corpus.txt").write_text(text)


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedRecipe:
    """A recipe beside its corpus."""
    monkeypatch.setenv("GALORE_CACHE", str(tmp_path / "cache"))
    write_corpus(tmp_path, 0)
    return LoadedRecipe(recipe(tmp_path), "here.yaml", tmp_path, dump_recipe(recipe(tmp_path)))


@pytest.fixture
def run(loaded: LoadedRecipe, tmp_path: Path) -> RunDir:
    data = prepare_data(loaded.recipe, loaded.base_dir)
    directory = RunDir.create(tmp_path / "run", resume=False)
    directory.recipe.write_text(loaded.text)
    model = build_decoder(
        loaded.recipe.model, len(data.tokenizer), device="cpu", seed=0, max_length=16, base_dir=tmp_path
    )
    save_model_files(model, data.tokenizer, directory)
    checkpoint.save(directory.checkpoints, 7, {"model": model_tensors(model)}, {}, keep=2)
    return directory


def expected(loaded: LoadedRecipe, mode: str = "token") -> float:
    """Straight from the parts."""
    data = prepare_data(loaded.recipe, loaded.base_dir)
    model, _ = build_model(loaded.recipe, len(data.tokenizer), "cpu", loaded.base_dir)  # on the CPU paths of a run
    how = Scoring(split_head, settings=EvalSection(mode=mode))  # type: ignore[arg-type]
    return evaluate(model, data.validation_batches(64, None), how).loss_nats


def test_a_run_is_scored_on_its_own_held_out_text(run: RunDir, loaded: LoadedRecipe) -> None:
    scored = evaluate_stored(str(run.root))
    assert scored.result.loss_nats == expected(loaded)
    assert scored.step == 7
    assert scored.origin.endswith("step-00000007")
    assert evaluate_stored(str(run.root), mode="paper").result.loss_nats == expected(loaded, "paper")


@pytest.mark.parametrize("changed", [False, True])
def test_held_out_text_that_is_not_the_runs_own_is_told(run: RunDir, loaded: LoadedRecipe, changed: bool) -> None:
    position = {"fingerprint": "another"} if changed else prepare_data(loaded.recipe, loaded.base_dir).position()
    tensors = load_run_model(str(run.root)).model.state_dict()
    checkpoint.save(run.checkpoints, 8, {"model": tensors}, {"position": position}, keep=2)
    notes = evaluate_stored(str(run.root)).notes
    assert any("not the run's own" in note for note in notes) == changed
    other = LoadedRecipe(recipe(loaded.base_dir, seed=1), loaded.origin, loaded.base_dir, loaded.text)
    assert not any("not the run's own" in note for note in evaluate_stored(str(run.root), other).notes)


def test_max_tokens_bounds_what_is_scored(run: RunDir) -> None:
    assert evaluate_stored(str(run.root), max_tokens=64).result.tokens == 60  # 4 rows of 16, 15 targets each


def test_the_threads_are_the_recipes(run: RunDir, loaded: LoadedRecipe) -> None:
    threads = torch.get_num_threads()
    train = loaded.recipe.train.model_copy(update={"num_threads": threads + 1})
    try:
        evaluate_stored(str(run.root), replace(loaded, recipe=loaded.recipe.model_copy(update={"train": train})))
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)


def test_a_model_is_scored_on_a_recipes_text_with_its_own_tokenizer(
    run: RunDir, loaded: LoadedRecipe, tmp_path: Path
) -> None:
    folder = export(str(run.root), tmp_path / "out").folder
    scored = evaluate_stored(str(folder), loaded)
    assert scored.step is None
    assert scored.result.loss_nats == pytest.approx(expected(loaded), rel=1e-6)


def test_a_model_needs_a_recipe(run: RunDir, tmp_path: Path) -> None:
    folder = export(str(run.root), tmp_path / "out").folder
    with pytest.raises(UserError, match="is a model, not a run") as refused:
        evaluate_stored(str(folder))
    assert "--recipe" in refused.value.fix


def test_a_run_can_be_scored_on_the_text_of_another_recipe(run: RunDir, loaded: LoadedRecipe, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_corpus(other, 1)
    scored = evaluate_stored(str(run.root), replace(loaded, base_dir=other, recipe=recipe(other, seed=1)))
    assert scored.result.loss_nats != pytest.approx(expected(loaded), rel=1e-3)


def test_a_corpus_that_changed_under_a_run_is_noticed(run: RunDir, tmp_path: Path) -> None:
    write_corpus(tmp_path, 1)
    with pytest.raises(UserError, match="the corpus has changed"):
        evaluate_stored(str(run.root))


def test_sequences_beyond_the_models_positions_are_refused(run: RunDir, loaded: LoadedRecipe, tmp_path: Path) -> None:
    folder = export(str(run.root), tmp_path / "out").folder
    longer = loaded.recipe.model_copy(update={"data": loaded.recipe.data.model_copy(update={"max_length": 4096})})
    digits = random.Random(0).choices("0123456789", k=60_000)
    (tmp_path / "corpus.txt").write_text("\n\n".join("".join(digits[i : i + 6000]) for i in range(0, 60_000, 6000)))
    with pytest.raises(UserError, match=r"4096 tokens do not fit the model's 2048"):
        evaluate_stored(str(folder), replace(loaded, recipe=longer))
