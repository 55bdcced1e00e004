"""Two processes against one with more accumulation, every method: the same steps, and r×n sent instead of m×n."""

import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optim.parts.storage import GradientSum
from galore.trainer.optim.ranks import Part, share

SCRIPT = Path(__file__).with_name("two_ranks.py")
TWO_RANKS = runpy.run_path(str(SCRIPT))
CASES = [*TWO_RANKS["METHODS"], *(f"{method}, in the backward" for method in TWO_RANKS["IN_BACKWARD"])]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What the ranks came to, and one process."""
    out = tmp_path_factory.mktemp("ranks") / "out"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen([sys.executable, SCRIPT, out], env=os.environ | where | {"RANK": rank, "LOCAL_RANK": rank})
        for rank in "01"
    ]
    try:
        alone = TWO_RANKS["every_method"](None)
        assert [rank.wait(120) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    return [torch.load(f"{out}.{rank}", weights_only=True) for rank in "01"], alone


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_take_the_steps_of_one_process(trained, case):
    (first, second), alone = (rank[case] for rank in trained[0]), trained[1][case]
    close = 1e-3 if "bfloat16" in case else 1e-6
    assert repr(first["norms"]) == repr(second["norms"])
    assert first["norms"] == pytest.approx(alone["norms"], rel=close, nan_ok=True)
    for name, weight in alone["weights"].items():
        assert torch.equal(first["weights"][name], second["weights"][name])
        if "bfloat16" not in case:
            torch.testing.assert_close(first["weights"][name], weight, atol=close, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_nan_on_one_rank_skips_the_step_on_all(trained, case):
    expected = [step == TWO_RANKS["POISONED"] for step in range(TWO_RANKS["STEPS"])]
    assert [each[case]["skipped"] for each in (*trained[0], trained[1])] == [expected] * 3


@pytest.mark.parametrize("case", CASES)
def test_what_is_sent_is_what_is_predicted(trained, case):
    for rank in trained[0]:
        assert rank[case]["sent"] == rank[case]["predicted"]


def test_what_is_sent_is_r_by_n_and_not_m_by_n(trained):
    lowrank, full = trained[0][0]["delayed"]["sent"], trained[0][0]["full"]["sent"]
    others = 4 * (2 * 50 * 64 + 2 * 64)
    assert min(lowrank) == others + 4 * (2 * 4 * 80) + 4 * (2 * 3 + 4)
    assert full[0] == others + 4 * (2 * 64 * 80) + 4 * 6


class Doubling:
    rank, size = 0, 2

    def sum_(self, tensors):
        for each in tensors:
            each.mul_(2)


def test_what_nobody_has_stays_absent_and_what_one_has_is_zeros_on_the_others():
    held, absent, elsewhere = (GradientSum(torch.float32) for _ in range(3))
    held.add(torch.ones(2, dtype=torch.bfloat16))
    parts = [Part(held, (2,)), Part(absent, (3,))]
    share(Doubling(), parts, torch.device("cpu"))
    assert held.value.tolist() == [2.0, 2.0]
    assert held.value.dtype == torch.float32
    assert absent.value is None
    other = Doubling()
    other.sum_ = lambda tensors: [each.add_(1) for each in tensors]
    share(other, [Part(elsewhere, (3,))], torch.device("cpu"))
    assert elsewhere.value.tolist() == [1.0, 1.0, 1.0]


def test_immediate_updates_and_what_is_no_group_are_refused():
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="not with ranks"):
        GaLoreAdamW([weight], update="immediate", max_grad_norm=None, ranks=Doubling())
    with pytest.raises(ValueError, match="group of processes"):
        GaLoreAdamW([weight], ranks=3)
