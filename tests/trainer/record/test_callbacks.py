"""Callbacks are told, in order; one that raises is reported once and the rest hear all the same."""

from __future__ import annotations

from typing import Any

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.record.callbacks import HOOKS, Callback, Callbacks, StopTraining


class Broken:
    def on_step(self, row: Any) -> None:
        raise ValueError("no\nway")


class Listening:
    def __init__(self) -> None:
        self.rows: list[Any] = []

    def on_step(self, row: Any) -> None:
        self.rows.append(row)


class Stopping(Callback):
    def on_step(self, row: Any) -> None:
        raise StopTraining("enough")


def test_one_that_raises_is_reported_once_and_hinders_nobody() -> None:
    listening = Listening()
    callbacks = Callbacks([Broken(), listening])
    assert callbacks.tell("on_step", 1) == [
        "Broken.on_step raised ValueError: no way; the run goes on, and this is told once"
    ]
    assert callbacks.tell("on_step", 2) == []
    assert callbacks.tell("on_save", 2, "folder") == []
    assert listening.rows == [1, 2]


def test_a_wish_to_stop_is_passed_on_whenever_it_came() -> None:
    for late in (False, True):
        callbacks, asked = Callbacks([Stopping()]), list[str]()
        if not late:
            callbacks.stop_by(asked.append)
        assert callbacks.tell("on_step", 1) == ["asked to stop by Stopping.on_step: enough"]
        if late:
            callbacks.stop_by(asked.append)
        assert asked == ["Stopping.on_step: enough"] == [callbacks.asked]


class Misspelled(Callback):
    def on_stpe(self, row: Any) -> None: ...


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (Misspelled(), "did you mean on_step"),
        (print, "no callback"),
        (Listening, "a class"),
    ],
)
def test_what_would_never_be_called_is_refused(member: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Callbacks([Listening(), member])


def test_one_that_is_in_no_list_is_refused() -> None:
    one: Any = Callback()
    with pytest.raises(UserError, match=r"no list\n  → write callbacks=\[…\]"):
        Callbacks(one)


def test_the_base_class_has_every_method_and_does_nothing() -> None:
    assert set(HOOKS) == {"on_start", "on_step", "on_evaluate", "on_event", "on_save", "on_end"}
    callbacks = Callbacks([Callback()])
    assert [callbacks.tell(hook, *([None] * (2 if hook in ("on_start", "on_save") else 1))) for hook in HOOKS] == [
        []
    ] * 6
