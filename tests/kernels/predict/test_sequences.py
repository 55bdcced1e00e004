"""Sequences beside our kernels: their bytes are those of their steps, and each is as slow as it should be."""

import pytest

pytest.importorskip("triton", reason="the kernels need the optional package triton")

from galore.kernels.predict.card import RTX4090
from galore.kernels.predict.predicted import Predictor
from galore.kernels.predict.sequences import (
    LLAMA_7B,
    RANKS,
    floor,
    ours,
    reference,
    rows,
    total,
    unfused,
    unfused_nearest,
)


def test_sequences_count_the_bytes_that_their_steps_move():
    """At r = 128 the fp32 product costs what the table says: 12 bytes of traffic per weight against 4."""
    a, b, r = 4096, 11008, 128
    lift = sum(step.bytes for step in unfused(a, b, r)[2:])
    assert lift / unfused_nearest(a, b, r)[-1].bytes == pytest.approx(3, rel=0.02)
    times = [total(steps(a, b, r), RTX4090) for steps in (unfused_nearest, unfused, reference)]
    assert floor(a, b, r, RTX4090) < times[0] < times[1] < times[2]


def test_ours_is_the_projection_of_cublas_and_two_kernels(monkeypatch):
    monkeypatch.setattr(Predictor, "seconds", lambda self, plan: 1e-6 * len(plan))
    assert [launch.name for launch in ours(4096, 11008, 128)] == ["adam_kernel", "lift_kernel"]
    found = rows(Predictor())
    assert [(row.a, row.b, row.r) for row in found] == [(a, b, r) for a, b in LLAMA_7B for r in RANKS]
    for row in found:
        project = unfused(row.a, row.b, row.r)[0].seconds(RTX4090)
        assert row.ours == pytest.approx(1e6 * project + 2)
        assert row.roofline == row.floor / row.ours
