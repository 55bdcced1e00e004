"""What training with positions that skip ahead asks of a model."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from galore.trainer.common.errors import UserError
from galore.trainer.models.capacity import require_positions
from galore.trainer.models.head import knows_bounds, rows_are_known
from galore.trainer.models.rope.scaling import own_parameters
from galore.trainer.recipe.schema.train import PositionSkips

WHERE = "train.position_skips"


def let_positions_skip(model: PreTrainedModel, skips: PositionSkips | None, length: int, isolates: bool) -> list[str]:
    """What rows of `length` tokens are then, in a line; none without `skips`.

    Raises:
        UserError: the model has no rotary positions, fewer than are asked for, or tells documents apart by positions.
    """
    if skips is None:
        return []
    own_parameters(model.config, WHERE)
    require_positions(model.config, skips.target_length, f"{WHERE}.target_length")
    if isolates and not knows_bounds(model):
        what = f"the documents of a row are told apart by their positions in {model.config.model_type}, and skips would cut them"
        raise UserError(what, where=WHERE, fix="set data.isolate_documents: false, or leave position_skips out")
    if not next(model.parameters()).is_meta and _pays_no_heed(model):
        what = f"{model.config.model_type} pays no heed to positions that skip"
        raise UserError(what, where=WHERE, fix="leave position_skips out, or choose a model such as LLaMA or Qwen")
    chunks = f"{skips.chunks} chunks" if skips.chunks < length else "single tokens"
    return [f"positions: rows of {length:,} tokens in {chunks}, spread over {skips.target_length:,} positions"]


@torch.no_grad()
def _pays_no_heed(model: PreTrainedModel) -> bool:
    """Whether two tokens give the same logits however far apart they are."""
    was_training = model.training
    model.eval()
    try:
        ids = torch.tensor([[0, 1]], device=model.device)
        with rows_are_known():
            near, far = (
                model(input_ids=ids, position_ids=ids * distance, use_cache=False).logits for distance in (1, 9)
            )
        return torch.equal(near, far)
    finally:
        model.train(was_training)
