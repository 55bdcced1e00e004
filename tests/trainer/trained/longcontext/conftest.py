from __future__ import annotations

import random
from pathlib import Path

import pytest
from consoles import Quiet

from galore.trainer.recipe.load import LoadedRecipe, load_recipe
from galore.trainer.run import run_training
from galore.trainer.trained.export import export

RECIPE = """
model: {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1, num_attention_heads: 2, dtype: float32,
        max_position_embeddings: 16, initializer_range: 0.3}
data: {path: corpus.txt, txt_document: line, max_length: 16, tokenizer_vocab_size: 300, validation_fraction: 0.3}
optim: {method: full, learning_rate: 1.0e-2}
train: {max_steps: 2, global_batch_size: 4, micro_batch_size: 4, device: cpu}
eval: {eval_steps: null, max_tokens: 1000}
"""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny model, trained at 16 tokens for two steps and exported, and the recipe of it."""
    folder = tmp_path_factory.mktemp("long")
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=4)) for _ in range(40)]
    (folder / "corpus.txt").write_text("\n".join(" ".join(draw.choices(words, k=40)) for _ in range(60)))
    file = folder / "here.yaml"
    file.write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        from galore.trainer.record.shown import report

        patch.setattr(report, "draw", lambda history: {})
        patch.setenv("GALORE_CACHE", str(folder / "cache"))
        run_training(load_recipe(str(file)), folder / "run", False, Quiet())
        export(str(folder / "run"), folder / "model")
    return folder / "model", file


@pytest.fixture
def longer(trained: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> LoadedRecipe:
    """Its recipe with rows of 64 tokens."""
    monkeypatch.setenv("GALORE_CACHE", str(trained[1].parent / "cache"))
    return load_recipe(str(trained[1]), ["data.max_length=64", "model.max_position_embeddings=64"])
