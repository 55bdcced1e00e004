"""The loss by position adds up to the loss of the whole, and ranges double."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.trained.evaluation import evaluate_stored
from galore.trainer.trained.longcontext.evaluation import Asked, evaluate_long
from galore.trainer.trained.longcontext.positions import loss_by_position


def test_ranges_add_up_to_the_whole(trained: tuple[Path, Path], longer: LoadedRecipe) -> None:
    from galore.trainer.recipe.load import load_recipe

    yarn = ["data.max_length=160", "model.max_position_embeddings=160", "model.rope={type: yarn, factor: 10}"]
    loaded = load_recipe(str(trained[1]), yarn)
    scored = evaluate_long(str(trained[0]), loaded, Asked())
    assert [(row["from"], row["to"]) for row in scored.by_position] == [(1, 63), (64, 127), (128, 159)]
    whole = evaluate_stored(str(trained[0]), loaded).result.row()
    tokens = sum(row["tokens"] for row in scored.by_position)
    assert tokens == whole["tokens"]
    mean = sum(row["loss_nats"] * row["tokens"] for row in scored.by_position) / tokens
    assert mean == pytest.approx(whole["loss_nats"], rel=1e-5)


def test_a_position_is_how_many_tokens_stand_before() -> None:
    from galore.trainer.data.rows.tokenbatch import TokenBatch

    class Sure(torch.nn.Module):
        """Knows the token at position 5, and nothing of the others."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, input_ids: torch.Tensor, **_: object) -> object:
            assert len(input_ids) == 1, "the logits of several rows exist together"
            logits = torch.zeros(*input_ids.shape, 10)
            logits[:, 4] = 100 * torch.nn.functional.one_hot(input_ids[:, 5], 10)
            return type("Output", (), {"logits": logits})

        def get_output_embeddings(self) -> None:
            return None

    from galore.trainer.trained.longcontext import positions

    ids = torch.randint(0, 10, (2, 70))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(positions, "split_head", lambda model: None)
        rows = loss_by_position(Sure(), [TokenBatch(ids, ids, (0, 1))])
    assert [row["tokens"] for row in rows] == [2 * 63, 2 * 6]
    full = torch.tensor(10.0).log().item()
    assert rows[0]["loss_nats"] == pytest.approx(full * 62 / 63, rel=1e-5)
    assert rows[1]["loss_nats"] == pytest.approx(full, rel=1e-5)
