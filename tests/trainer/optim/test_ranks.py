"""Two processes against one with more accumulation, every method: the same steps, and r×n sent instead of m×n."""

import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from galore.trainer.optim import GaLoreAdamW, ranks
from galore.trainer.optim.parts.storage import GradientSum
from galore.trainer.optim.ranks import Part, Sums, buckets

SCRIPT = Path(__file__).with_name("two_ranks.py")
TWO_RANKS = runpy.run_path(str(SCRIPT))
CASES = [*TWO_RANKS["METHODS"], *(f"{method}, in the backward" for method in TWO_RANKS["IN_BACKWARD"])]
EXPERTS = [f"{method}, experts" for method in TWO_RANKS["WITH_EXPERTS"]]


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


@pytest.mark.parametrize("case", CASES + EXPERTS)
def test_two_ranks_take_the_steps_of_one_process(trained, case):
    (first, second), alone = (rank[case] for rank in trained[0]), trained[1][case]
    close = 1e-3 if "bfloat16" in case else 0.0 if case in TWO_RANKS["CODED"] else 1e-6
    assert repr(first["norms"]) == repr(second["norms"])
    assert first["norms"] == pytest.approx(alone["norms"], rel=close, nan_ok=True)
    for name, weight in alone["weights"].items():
        assert torch.equal(first["weights"][name], second["weights"][name])
        if "bfloat16" not in case:
            torch.testing.assert_close(first["weights"][name], weight, atol=close, rtol=0)


@pytest.mark.parametrize("case", CASES + EXPERTS)
def test_nan_on_one_rank_skips_the_step_on_all(trained, case):
    expected = [step == TWO_RANKS["POISONED"] for step in range(TWO_RANKS["STEPS"])]
    assert [each[case]["skipped"] for each in (*trained[0], trained[1])] == [expected] * 3


@pytest.mark.parametrize("case", CASES)
def test_what_is_sent_is_what_is_predicted(trained, case):
    for rank in trained[0]:
        assert rank[case]["sent"] == rank[case]["predicted"]


def test_what_is_sent_is_r_by_n_and_not_m_by_n(trained):
    lowrank, full = trained[0][0]["delayed"]["sent"], trained[0][0]["full"]["sent"]
    others, flags = 4 * (2 * 50 * 64 + 2 * 64), 4 * 6
    assert min(lowrank) == others + 4 * (2 * 4 * 80) + flags
    assert full[0] == others + 4 * (2 * 64 * 80) + flags


@pytest.mark.parametrize("case", CASES)
def test_sums_are_sent_while_the_backward_goes_on(trained, case):
    found = trained[0][0][case]
    passed = found["sent"][1]  # of step 1, which has no pass and no turn
    assert found["in the backward"][1] == passed - 4 * 6


def test_where_a_rank_has_no_gradient_of_something_the_rest_is_sent_after_the_backward(trained):
    first, second = (rank["full, experts"]["in the backward"][1] for rank in trained[0])
    assert first == second == 0


class Doubling:
    rank, size = 0, 2

    def __init__(self):
        self.sent = []

    def start_sum(self, tensor):
        self.sent.append(tensor)
        return lambda: tensor.mul_(2)

    def any_of(self, flags):
        return list(flags)


class Elsewhere(Doubling):
    """Whose other rank has whatever this one lacks, in ones."""

    def start_sum(self, tensor):
        return lambda: tensor.add_(1)

    def any_of(self, flags):
        return [True for _ in flags]


def part(*shape, dtype=torch.float32):
    return Part(GradientSum(dtype), shape)


def test_what_nobody_has_stays_absent_and_what_one_has_is_zeros_on_the_others():
    held, absent = part(2), part(3)
    held.total.add(torch.ones(2, dtype=torch.bfloat16))
    Sums(Doubling(), {"held": [held], "absent": [absent]}, torch.device("cpu")).finish()
    assert held.total.value.tolist() == [2.0, 2.0]
    assert held.total.value.dtype == torch.float32
    assert absent.total.value is None
    elsewhere = part(3)
    Sums(Elsewhere(), {0: [elsewhere]}, torch.device("cpu")).finish()
    assert elsewhere.total.value.tolist() == [1.0, 1.0, 1.0]


def test_buckets_keep_the_order_split_at_a_dtype_and_have_a_size(monkeypatch):
    monkeypatch.setattr(ranks, "BUCKET_BYTES", 40)
    parts = [part(4), part(2, 2), part(4), part(20), part(4), *[part(4, dtype=torch.bfloat16)] * 2]
    assert [len(each) for each in buckets(parts)] == [2, 1, 1, 1, 2]
    assert not list(buckets([]))


def test_a_bucket_goes_once_all_of_it_is_final_and_never_before_the_one_ahead(monkeypatch):
    monkeypatch.setattr(ranks, "BUCKET_BYTES", 16)
    group, parts = Doubling(), {name: [part(2)] for name in "abcd"}
    for (each,) in parts.values():
        each.total.add(torch.ones(2))
    sums = Sums(group, parts, torch.device("cpu"))
    counts = []
    for name in "bcd":
        sums.final(name)
        counts.append(len(group.sent))
    assert counts == [0, 0, 0]
    sums.final("a")
    assert [len(each) for each in group.sent] == [4, 4]
    assert parts["a"][0].total.value.data_ptr() == group.sent[0].data_ptr()
    with pytest.raises(RuntimeError, match="second gradient"):
        sums.final("a")
    sums.finish()
    assert [each.total.value.tolist() for (each,) in parts.values()] == [[2.0, 2.0]] * 4


def test_immediate_updates_and_what_is_no_group_are_refused():
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="not with ranks"):
        GaLoreAdamW([weight], update="immediate", max_grad_norm=None, ranks=Doubling())
    with pytest.raises(ValueError, match="group of processes"):
        GaLoreAdamW([weight], ranks=3)
