"""One update on the card that is here, timed."""

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need the optional package triton")

from galore.kernels.predict import timed
from galore.kernels.predict.card import RTX4090


@pytest.mark.card
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="times kernels on a GPU; its twin above has a clock of its own"
)
def test_on_a_gpu_measured_times_are_positive():
    assert all(row["ours"] > 0 for row in timed.measured(torch.device("cuda"))[:1])


def test_a_row_adds_up_what_was_timed_and_runs_what_it_times(monkeypatch):
    """With a clock of its own, on shapes that the CPU can; kernels are counted in place of being launched."""
    launched, asked = [], []
    monkeypatch.setattr(timed, "run", lambda plan: launched.extend(each.name for each in plan))

    def clock(call):
        call()
        asked.append(call)
        return {1: 2e-6, 2: 3e-6, 3: 9e-6}[len(asked)]

    row = timed._row(64, 96, 8, torch.device("cpu"), clock, RTX4090)
    assert launched == ["adam_kernel", "lift_kernel"]
    assert (row["ours"], row["unfused"]) == (5.0, 9.0)
    assert row["share of the floor"] == round(timed.floor(64, 96, 8, RTX4090) / 5e-6, 2)
    assert "share of the floor" not in timed._row(64, 96, 8, torch.device("cpu"), lambda call: 1.0, None)
