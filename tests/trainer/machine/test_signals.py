"""The first signal asks, the second leaves."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from galore.trainer.machine.signals import HANDLED, StopOnSignal


@pytest.fixture(autouse=True)
def _under_no_nohup() -> Iterator[None]:
    """As from a terminal, whatever these tests were started by."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", HANDLED)
def test_the_first_signal_only_sets_the_request(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(each) for each in HANDLED]
    with StopOnSignal() as stop:
        assert stop.installed
        assert stop.requested is None
        os.kill(os.getpid(), number)
        assert stop.requested is number
    assert [signal.getsignal(each) for each in HANDLED] == before
    assert f"{number.name}: saving after this step" in capfd.readouterr().err


@pytest.mark.parametrize(("first", "second"), [(a, b) for a in HANDLED for b in HANDLED if b != signal.SIGHUP])
def test_the_second_signal_leaves_at_once(first: signal.Signals, second: signal.Signals) -> None:
    child = os.fork()
    if child == 0:
        try:
            with StopOnSignal():
                os.kill(os.getpid(), first)
                os.kill(os.getpid(), second)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + second


def test_below_torchrun_an_echo_does_not_cut_the_saving_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm signals all processes of a step, and torchrun passes on what it gets."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")
    with StopOnSignal(lambda text: None) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested is signal.SIGTERM
    monkeypatch.setattr("galore.trainer.machine.signals.ECHO", 0.0)
    test_the_second_signal_leaves_at_once(signal.SIGTERM, signal.SIGTERM)


@pytest.mark.parametrize("first", HANDLED)
def test_a_terminal_that_hangs_up_twice_does_not_cut_the_saving_short(first: signal.Signals) -> None:
    said: list[str] = []
    with StopOnSignal(said.append) as stop:
        for number in (first, signal.SIGHUP, signal.SIGHUP):
            os.kill(os.getpid(), number)
        assert stop.requested is first
    assert len(said) == 1


def test_what_nohup_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopOnSignal() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.requested is None
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_who_is_told_is_told_once() -> None:
    said: list[str] = []
    with StopOnSignal(said.append):
        os.kill(os.getpid(), signal.SIGTERM)
    assert len(said) == 1
    assert said[0].startswith("SIGTERM: saving after this step; once more leaves at once")


def test_handlers_come_back_after_an_error() -> None:
    before = [signal.getsignal(each) for each in HANDLED]
    with pytest.raises(ZeroDivisionError), StopOnSignal():
        raise ZeroDivisionError
    assert [signal.getsignal(each) for each in HANDLED] == before


def test_elsewhere_than_in_the_main_thread_nothing_is_installed() -> None:
    before = [signal.getsignal(each) for each in HANDLED]
    seen: list[tuple[bool, bool]] = []

    def work() -> None:
        with StopOnSignal() as stop:
            seen.append((stop.installed, stop.requested is None))
            assert [signal.getsignal(each) for each in HANDLED] == before

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, True)]


def test_a_wish_is_a_request_by_name_and_a_signal_after_it_does_not_leave_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    with StopOnSignal(lambda text: None) as stop:
        stop.ask("a callback")
        assert stop.requested is not None
        assert stop.requested.name == "a callback"
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested.name == "SIGTERM"
        stop.ask("another")
        assert stop.requested.name == "SIGTERM"
    assert left == []
