from __future__ import annotations

import torch

from galore.kernels.span import span, spans_are_seen


def names(seen: bool) -> set[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        if seen:
            with spans_are_seen(), span("forward"):
                torch.ones(3).sum()
        with span("update"):
            torch.ones(3).sum()
    return {event.name for event in profile.events() if event.name.startswith("galore.")}


def test_parts_are_seen_while_they_are_to_be_and_are_nothing_otherwise() -> None:
    assert names(seen=True) == {"galore.forward"}
    assert span("forward") is span("update")
