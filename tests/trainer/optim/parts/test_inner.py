"""Inner rules on their stored state, as settings of a running optimizer change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from galore.trainer.optim import GaLoreAdamW


@pytest.mark.parametrize("options", [{}, {"rank": 4}, {"state_dtype": "8bit"}], ids=["full", "projected", "8 bits"])
def test_adafactors_first_moment_comes_and_goes_with_its_beta(options: dict[str, Any]) -> None:
    keywords = {"state_dtype": options["state_dtype"]} if "state_dtype" in options else {}
    group = {name: value for name, value in options.items() if name not in keywords}
    weight = nn.Parameter(torch.ones(64, 72))
    optimizer = GaLoreAdamW([{"params": [weight], "inner": "adafactor", "betas": (0.0, 0.99), **group}], **keywords)
    (slot,) = optimizer.slots.values()
    for beta in (0.0, 0.9, 0.9, 0.0, 0.5):
        optimizer.param_groups[0]["betas"] = (beta, 0.99)
        before = weight.detach().clone()
        weight.grad = torch.randn(64, 72)
        optimizer.step()
        assert ("exp_avg" in slot.state) == (beta > 0)
        assert slot.state.keys() == slot.planned_state().keys()
        assert not torch.equal(weight.detach(), before)
        optimizer.load_state_dict(optimizer.state_dict())
