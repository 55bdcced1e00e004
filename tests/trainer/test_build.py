"""What a run is put together from."""

from __future__ import annotations

import os

import pytest
import torch

from galore.trainer.common.errors import UserError
from galore.trainer.machine.device import THREADS_PER_CORE, choose_threads


def test_threads_are_chosen_within_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = list[int]()
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    choose_threads(None)
    choose_threads(2 * THREADS_PER_CORE)
    assert chosen == [32]
    with pytest.raises(UserError, match=r"train.num_threads: is 1000, on 2 cores\n  → lower it to 32"):
        choose_threads(1000)
    assert chosen == [32]
