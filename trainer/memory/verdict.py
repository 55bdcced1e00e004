"""Whether a run fits on a card, in words: what it needs, what there is, and where it would run out."""

from __future__ import annotations

from galore.trainer.common.format import GIB, size
from galore.trainer.memory.allocator.allocator import replay
from galore.trainer.memory.peak import Peak
from galore.trainer.memory.profile import Bounds, Profile

VERDICTS = {True: "Fits", False: "Does not fit", None: "May fit"}


def reason(profile: Profile) -> str:
    """What it needs, what there is, and what that comes to."""
    needs, spare = profile.total, profile.limit.low - profile.total.high
    told = f"Its total is {span(needs)} of {span(profile.limit)}"
    if profile.fits and spare > 0:
        return f"{told}, {size(spare)} to spare."
    if profile.fits:
        return f"{told}: the allocator gives cached memory back in time."
    if profile.fits is None:
        return f"{told}: some workspaces and the context are only known on the card."
    return f"{told}."


def span(bounds: Bounds) -> str:
    """`22.95 GiB` or `22.95–23.40 GiB`."""
    low, high = (f"{each / GIB:.2f}" for each in (bounds.low, bounds.high))
    return f"{low} GiB" if low == high else f"{low}–{high} GiB"


def place(peak: Peak) -> str:
    """`refresh step: backward, in model.layers.3.mlp`: in which step and module the peak is."""
    if peak.module:
        return f"{peak.phase}, in {peak.module}"
    return f"{peak.phase}, in the loss" if peak.phase.endswith((": forward", ": backward")) else peak.phase


def runs_out(profile: Profile) -> int | None:
    """The event that finds no room, at upper bounds of needs, lower ones of room; None where the run surely fits."""
    if profile.fits:
        return None
    room = profile.card.usable_low - profile.card.context_high
    sizes = profile.trace.sizes(high=True)
    return replay(sizes, profile.trace.events, limit=room, expandable=profile.expandable).oom_event


def out_of_memory(profile: Profile) -> str:
    """What is said of the event where it runs out."""
    return "memory runs out here" if profile.fits is False else "memory may run out here"


def unit_of(profile: Profile) -> tuple[int, str]:
    """The unit in which all of a profile can be told with two decimals."""
    return (GIB, "GiB") if profile.total.high >= GIB else (2**20, "MiB")
