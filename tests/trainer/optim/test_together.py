"""Where several ranks would drift apart, and what one that is alone asks of nobody."""

import pytest
import torch
from torch import nn

from galore.trainer.optim import GaLoreAdamW, galore_groups
from galore.trainer.optim.ranks import Rehearsed
from galore.trainer.optim.together import Together


class Apart(Rehearsed):
    """Ranks of which the others have other numbers than `agreed`, and as much of a sum."""

    agreed = 0.0

    def are_equal(self, number):
        return number == self.agreed

    def total(self, number):
        return self.size * number


def slots():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16))
    optimizer = GaLoreAdamW(galore_groups(net, 4, targets=("0",)), lr=1e-2)
    net(torch.randn(3, 8)).square().sum().backward()
    optimizer.clip_grad_norm_(1.0)
    optimizer.step()
    return optimizer.slots


def test_one_alone_asks_nobody():
    alone = Together(None, slots())
    alone.expect_last()
    alone.sum_gradients()
    alone.share_pass([])
    alone.require_equal(1.0)
    assert alone.total(2.0) == 2.0


def test_ranks_whose_norms_differ_have_drifted_apart():
    ranks = Together(Apart(2), slots())
    ranks.require_equal(0.0)
    assert ranks.total(2.0) == 2.0, "each has all of it"
    with pytest.raises(RuntimeError, match=r"drifted apart: the gradient's norm is 1\.5 on rank 0"):
        ranks.require_equal(1.5)


def test_where_weights_lie_in_parts_the_norm_is_a_sum_and_bases_are_compared():
    ranks = Together(Apart(2), slots())
    ranks.sharded = True
    ranks.require_equal(1.5)
    assert ranks.total(2.0) == 4.0
    slot = next(each for each in ranks.slots.values() if any("projector" in name for name in each.state))
    ranks.note_basis(slot)
    with pytest.raises(RuntimeError, match="drifted apart"):
        ranks.require_equal(1.5)
