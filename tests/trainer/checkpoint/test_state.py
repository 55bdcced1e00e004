"""What is put back fits, to the type: a weight of other bits would be rounded without a word."""

import pytest
import torch
from torch import nn

from galore.trainer.checkpoint.state import load_model, model_tensors


def test_weights_of_another_type_are_refused() -> None:
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    with pytest.raises(ValueError, match=r"weight: torch.bfloat16 saved, torch.float32 here"):
        load_model(model, {name: tensor.bfloat16() for name, tensor in model_tensors(model).items()})
    assert torch.equal(model.weight, before)
