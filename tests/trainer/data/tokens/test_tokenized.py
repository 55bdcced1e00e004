from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from galore.trainer.data.tokens.tokenized import prefetched


def test_items_keep_their_order() -> None:
    assert list(prefetched(range(100))) == list(range(100))


def test_the_next_item_is_made_while_the_last_is_used() -> None:
    made = [threading.Event(), threading.Event()]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    iterator = prefetched(items())
    assert next(iterator) == 0
    assert made[1].wait(timeout=5)
    iterator.close()  # type: ignore[attr-defined]


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("broken")

    iterator = prefetched(items())
    assert next(iterator) == 1
    with pytest.raises(KeyError):
        next(iterator)
