"""Before kernels are trusted on a card they are compared with torch; a wrong one is named, a crash is a reason."""

import pytest
import torch
from kernel_machines import Interpreter

from galore.kernels.triton import direct, selftest


@pytest.fixture
def interpreted():
    machine = Interpreter()
    with machine.ready():
        yield machine.kernels.selftest


def test_right_kernels_pass(interpreted):
    assert interpreted.check(torch.device("cpu")) == ""


def test_right_kernels_pass_whatever_the_default_device(interpreted):
    with torch.device("meta"):
        assert interpreted.check(torch.device("cpu")) == ""


@pytest.mark.parametrize(
    ("plan", "message"), [("lift_plan", "lift_update"), ("adam_plan", "adam"), ("softmax_plan", "softmax")]
)
def test_a_kernel_that_does_nothing_is_named(interpreted, monkeypatch, plan, message):
    monkeypatch.setattr(interpreted, plan, lambda *args, **kwargs: [])
    assert f"its {message} disagrees with torch" in interpreted.check(torch.device("cpu"))


def test_a_crash_is_a_reason_and_no_crash(monkeypatch):
    monkeypatch.setattr(selftest, "check", lambda device: 1 / 0)
    assert "ZeroDivisionError" in selftest.failure.__wrapped__(0)


@pytest.mark.parametrize(
    ("found", "reason", "refusal"),
    [
        (["", ""], "", ""),
        (["its adam disagrees with torch"], "its adam disagrees with torch", ""),
        (["", "its adam disagrees with torch"], "", "launched without Triton's way its adam disagrees with torch"),
    ],
)
def test_what_is_wrong_the_second_time_only_is_how_it_was_launched(found, reason, refusal, monkeypatch):
    answers = iter(found)
    monkeypatch.setattr(direct, "_distrusted", [])
    monkeypatch.setattr(selftest, "check", lambda device: next(answers))
    assert selftest.failure.__wrapped__(0) == reason
    assert direct.refusal() == refusal
    assert next(answers, None) is None
