"""What a row tells of a step that nobody can see any more when it is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from consoles import Quiet
from torch import nn

from galore.trainer import recorder as module
from galore.trainer.data.rows.tokenbatch import TokenBatch
from galore.trainer.data.score import EvalResult
from galore.trainer.facts import _peak, _share_of
from galore.trainer.machine.hardware import Peak
from galore.trainer.machine.power import PowerMeter, Sample
from galore.trainer.models.matmul.install import ATTRIBUTE
from galore.trainer.optim.report import StepReport
from galore.trainer.record.metrics import Metrics, read_rows
from galore.trainer.record.row import TRAIN
from galore.trainer.recorder import Meter, Recorder
from galore.trainer.step import StepResult

CPU = torch.device("cpu")
IDS = torch.zeros(2, 4, dtype=torch.int64)
RESULT = StepResult(1.0, 6, 8, StepReport(1.0, 1.0, 0, 0, False))


@pytest.mark.parametrize("eight", [False, True])
def test_the_peak_that_products_in_eight_bits_may_pass_says_whose_it_is(
    eight: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "device_peak", lambda device, dtype: Peak(1e12, "table", "a card"))
    monkeypatch.setattr(module, "flops_per_token", lambda model, length: 1)
    model = nn.Linear(4, 4)
    if eight:
        vars(model)[ATTRIBUTE] = object()
    meter = Meter.of(model, CPU, torch.bfloat16, devices=2)
    assert (meter.peak.flops_per_second, meter.peak.of) == (2e12, "bf16" if eight else "")
    assert _peak(meter.peak) == f"2.00 TFLOP/s{' of bf16' if eight else ''}, table"
    assert _share_of(meter.peak) == ("; MFU is the share of the bf16 peak, which they may pass" if eight else "")


def test_gradients_are_counted_although_the_update_takes_them_and_no_column_is_missing(tmp_path: Path) -> None:
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    metrics = Metrics.open(tmp_path / "metrics.jsonl", None)
    recorder = Recorder(metrics, Quiet(), Meter.unknown(CPU), CPU, 0)
    with recorder.watching(model, optimizer):
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        recorder.step(1, TokenBatch(IDS, IDS, (0, 1)), RESULT, {"learning_rate": 0.1}, 1.0)
    metrics.close()
    (row,) = read_rows(tmp_path / "metrics.jsonl")
    assert list(row) == ["kind", *(name for name in TRAIN if name in row)]
    assert set(TRAIN) - set(row) == {
        "squared_error",
        "loss_nats_by_modality",
        "perplexity_by_modality",
        "extra_loss",
        "router_loss",
        "head_learning_rate",
        "embedding_learning_rate",
        "z_loss",
        "refused_parameters",
        "energy_joules",
        "power_watts",
        "temperature_celsius",
    }
    parts = row["memory_by_category_bytes"]
    assert (parts["weights"], parts["gradients"]) == (80, 80)
    assert not optimizer._optimizer_step_pre_hooks


def test_a_row_tells_the_energy_since_the_one_before_and_an_evaluation_is_no_steps(tmp_path: Path) -> None:
    joules = iter(range(0, 10_000, 100))
    power = PowerMeter(lambda: Sample(float(next(joules)), 250.0, 60), seconds=60)
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    metrics = Metrics.open(tmp_path / "metrics.jsonl", None)
    recorder = Recorder(metrics, Quiet(), Meter.unknown(CPU), CPU, 0, power=power)
    with recorder.watching(model, optimizer):
        for step in (1, 2, 3):
            power._sample()
            recorder.step(step, TokenBatch(IDS, IDS, (0, 1)), RESULT, {"learning_rate": 0.1}, 1.0)
            if step == 2:
                power._sample()
                recorder.evaluation(2, EvalResult(1.0, 2.7, 8, 1, "token"), 0.0, None, None)
    metrics.close()
    rows = [row for row in read_rows(tmp_path / "metrics.jsonl") if row["kind"] == "train"]
    assert [row["energy_joules"] for row in rows] == [100.0, 100.0, 100.0]
    assert (rows[0]["power_watts"], rows[0]["temperature_celsius"]) == (250.0, 60)


def test_an_event_tells_no_secret(tmp_path: Path) -> None:
    metrics = Metrics.open(tmp_path / "metrics.jsonl", None)
    Recorder(metrics, Quiet(), Meter.unknown(CPU), CPU, 0).event(1, "lost: https://me:pw@host/x")
    metrics.close()
    assert [row["message"] for row in read_rows(tmp_path / "metrics.jsonl")] == ["lost: https://***@host/x"]


def test_mfu_is_of_rows_as_long_as_they_are() -> None:
    meter = Meter(lambda length: 10 * length, Peak(1e3, "table", "a card"))
    assert meter.mfu(24, 3, 2.0) == pytest.approx(80 * 12 / 1e3)
    assert Meter.unknown(CPU).mfu(24, 3, 2.0) is None
