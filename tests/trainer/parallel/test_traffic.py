"""What is sent, by hand; that it is what goes into the collectives is in tests/trainer/optim/test_ranks.py."""

import pytest
from torch import nn

from galore.trainer.optim import GaLoreAdamW, galore_groups
from galore.trainer.parallel.traffic import seconds, traffic

M, N, RANK = 96, 40, 8


def sent(clock=None, **settings):
    net = nn.Sequential(nn.Linear(N, M, bias=False), nn.Linear(M, 7))
    optimizer = GaLoreAdamW(galore_groups(net, RANK, targets=("0",)), update_proj_gap=5, lr=1e-2, **settings)
    found = traffic(optimizer, clock)
    flags = found.pop("flags")
    assert found.pop("full-rank sums") == 4 * (7 * M + 7)
    with_pass = settings.get("refresh") == "first-micro-batch" and clock == 5
    assert flags == 4 * (3 + with_pass)
    return dict(found)


SUMS, SKETCH, WHOLE = 4 * RANK * M, 4 * N * RANK, 4 * M * N


def test_an_ordinary_step_sends_r_by_the_longer_side_and_not_m_by_n():
    assert sent() == {"projected sums": SUMS} == sent(clock=3)
    assert SUMS < WHOLE


@pytest.mark.parametrize(
    ("settings", "refresh"),
    [
        ({}, {"projected sums": SUMS, "sketches": SKETCH}),
        ({"refresh": "summed"}, {"whole gradients": WHOLE}),
        ({"refresh": "first-micro-batch"}, {"projected sums": SUMS, "bases": 4 * N * RANK}),
        ({"proj_type": "random"}, {"projected sums": SUMS}),
        ({"residual": "fira"}, {"whole gradients": WHOLE}),
    ],
)
def test_a_refresh_sends_what_its_basis_is_found_in(settings, refresh):
    assert sent(5, **settings) == refresh


def test_a_ring_sends_twice_what_it_sums_but_for_ones_own_share():
    assert seconds(1000, 2, 100.0) == 10.0
    assert seconds(1000, 4, 100.0) == 15.0
    assert seconds(1000, 1, 100.0) == 0.0
