"""The first signal asks, the second leaves."""

import os
import signal
import threading

import pytest

from galore.trainer.signals import HANDLED, StopOnSignal


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


@pytest.mark.parametrize(("first", "second"), [(a, b) for a in HANDLED for b in HANDLED])
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
