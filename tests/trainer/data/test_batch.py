from __future__ import annotations

from galore.trainer.data.batch import throttled


def test_progress_is_told_seldom_but_always_of_the_end() -> None:
    told = list[tuple[int, int, str]]()
    report = throttled(lambda *fact: told.append(fact))
    for done in range(1001):
        report(done, 1000, "reading")
    report(0, 1000, "tokenizing")
    assert told[0] == (0, 1000, "reading")
    assert told[-2:] == [(1000, 1000, "reading"), (0, 1000, "tokenizing")]
    assert len(told) < 20
