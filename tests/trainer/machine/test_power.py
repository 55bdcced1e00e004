"""Power and energy, with an NVML that stands in for a card's: who asks it, how often, and what it costs a run if it breaks."""

from __future__ import annotations

import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from galore.trainer.machine.power import PowerMeter, Sample, energy_in_words


class _Error(Exception):
    pass


class _NotSupportedError(_Error):
    pass


class _Nvml:
    """A card of 200 W whose counter goes up by 100 J a reading."""

    NVMLError, NVMLError_NotSupported, NVML_TEMPERATURE_GPU = _Error, _NotSupportedError, 0

    def __init__(self, counts: bool = True, knows: bool = True) -> None:
        self.counts, self.knows, self.readings, self.asked = counts, knows, 0, ""

    def nvmlInit(self) -> None: ...  # noqa: N802

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self.asked = uuid
        if not self.knows:
            raise _Error
        return "handle"

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        return 200_000

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:  # noqa: N802
        return 61

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        if not self.counts:
            raise _NotSupportedError
        self.readings += 1
        return 5_000_000 + 100_000 * self.readings


CUDA = torch.device("cuda", 0)


def _meter(monkeypatch: pytest.MonkeyPatch, nvml: Any) -> PowerMeter | None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1234-abcd"))
    return PowerMeter.of(CUDA)


def test_the_card_that_torch_uses_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = _Nvml()
    meter = _meter(monkeypatch, nvml)
    assert meter is not None
    assert nvml.asked == "GPU-1234-abcd"  # an index would be another's where CUDA_VISIBLE_DEVICES hides some
    with meter.running():
        assert meter.take() == {"energy_joules": 0.0, "power_watts": 200.0, "temperature_celsius": 61}
        meter._sample()
        meter._sample()
        drawn = meter.take()
        assert drawn is not None
        assert drawn["energy_joules"] == pytest.approx(200.0)
        again = meter.take()
        assert again is not None
        assert again["energy_joules"] == 0.0


def test_where_there_is_no_counter_power_is_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = _meter(monkeypatch, _Nvml(counts=False))
    assert meter is not None
    with meter.running():
        time.sleep(0.05)
        meter._sample()
        drawn = meter.take()
    assert drawn is not None
    assert 200.0 * 0.05 <= drawn["energy_joules"] < 200.0


def test_no_meter_without_a_card_without_nvml_or_where_it_knows_no_such_card(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _meter(monkeypatch, _Nvml(knows=False)) is None
    assert _meter(monkeypatch, None) is None
    assert PowerMeter.of(torch.device("cpu")) is None


def test_a_thread_reads_and_no_step_waits_for_a_slow_driver() -> None:
    gate, read = threading.Event(), list[int]()

    def slow() -> Sample:
        read.append(1)
        if len(read) > 1:
            gate.wait(5)
        return Sample(float(len(read)), 1.0, 50)

    meter = PowerMeter(slow, seconds=0.01)
    started = time.perf_counter()
    with meter.running():
        while len(read) < 2:
            time.sleep(0.001)
        for _ in range(100):
            meter.take()
    assert time.perf_counter() - started < 2.0
    gate.set()


def test_what_the_driver_raises_ends_the_readings_alone() -> None:
    answers = iter([Sample(1.0, 1.0, 50)])
    meter = PowerMeter(lambda: next(answers), seconds=0.001)
    with meter.running():
        while meter.take() is not None:
            time.sleep(0.001)
    assert meter.take() is None


def test_words() -> None:
    assert energy_in_words(12_345.0, 1e6, 312.4, 71.0) == "12.3 kJ, 0.0123 J per token; 312 W (median), 71 °C at most"
