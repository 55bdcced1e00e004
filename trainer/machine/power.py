"""Energy, power and temperature of a GPU, which a thread reads from the driver twice a second: no step waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypedDict

import torch

from galore.trainer.common.format import significant

SECONDS = 0.5
MILLI = 1e-3


class Draw(TypedDict):
    """What a row of metrics tells: energy since the row before, the rest as it was last read."""

    energy_joules: float
    power_watts: float
    temperature_celsius: int


class Sample(NamedTuple):
    """The card's counter of energy, and what it draws at the moment; the whole card, whoever uses it."""

    joules: float
    watts: float
    celsius: int


class PowerMeter:
    """Reads a card as long as it is `running`. What `read` raises ends the readings, and nothing else."""

    def __init__(self, read: Callable[[], Sample], seconds: float = SECONDS) -> None:
        self._read, self._seconds = read, seconds
        self._last: Sample | None = None
        self._taken = 0.0
        self._stop = threading.Event()

    @classmethod
    def of(cls, device: torch.device) -> PowerMeter | None:
        """The meter of a CUDA device; None without NVML, or where it does not know the device."""
        if device.type != "cuda":
            return None
        try:
            import pynvml

            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
            reader = _Reader(pynvml, handle)
            reader()
        except (ImportError, AttributeError):
            return None
        except pynvml.NVMLError:
            return None
        return cls(reader)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Meanwhile the card is read. A thread that hangs in the driver is left behind: it holds nothing up."""
        thread = threading.Thread(target=self._watch, name="power", daemon=True)
        self._sample()
        self._taken = self._last.joules if self._last is not None else 0.0
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(timeout=2 * self._seconds)

    def take(self) -> Draw | None:
        """The energy since it was last taken, and the last readings; None where there is none."""
        last = self._last
        if last is None:
            return None
        spent, self._taken = last.joules - self._taken, last.joules
        return {"energy_joules": spent, "power_watts": last.watts, "temperature_celsius": last.celsius}

    def _watch(self) -> None:
        while not self._stop.wait(self._seconds) and self._sample():
            pass

    def _sample(self) -> bool:
        try:
            self._last = self._read()
        except Exception:  # the driver's, whose types are the package's
            self._last = None
        return self._last is not None


class _Reader:
    """Asks NVML. Where a card has no counter of energy, its power is summed over the time between two readings."""

    def __init__(self, pynvml: Any, handle: Any) -> None:
        self._nvml, self._handle = pynvml, handle
        self._summed, self._before = 0.0, time.monotonic()

    def __call__(self) -> Sample:
        nvml, handle = self._nvml, self._handle
        watts = nvml.nvmlDeviceGetPowerUsage(handle) * MILLI
        celsius = nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
        now = time.monotonic()
        self._summed, self._before = self._summed + watts * (now - self._before), now
        try:
            joules = nvml.nvmlDeviceGetTotalEnergyConsumption(handle) * MILLI
        except nvml.NVMLError_NotSupported:
            joules = self._summed
        return Sample(joules, watts, celsius)


def energy_in_words(joules: float, tokens: float, watts: float, celsius: float) -> str:
    """Energy of the steps in words, with the power and the highest temperature beside it."""
    per_token = f", {joules / tokens:.3g} J per token" if tokens else ""
    return f"{significant(joules / 1000)} kJ{per_token}; {watts:,.0f} W (median), {celsius:.0f} °C at most"
