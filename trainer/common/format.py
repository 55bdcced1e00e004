"""Numbers as people read them: GiB, k tok/s, 1h02m."""

from __future__ import annotations

import math

GIB = 2**30


def size(count: float) -> str:
    """Bytes with a binary unit: `512 B`, `3.4 MiB`, `13.5 GiB`."""
    if abs(count) < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if abs(count) < 999.5 or unit == "GiB":
            break
    return f"{significant(count)} {unit}"


def count(number: float) -> str:
    """A large count with a decimal suffix: `417`, `58.1k`, `1.34B`."""
    if abs(number) < 10_000:
        return f"{number:,.0f}"
    for suffix in ("k", "M", "B", "T"):
        number /= 1000
        if abs(number) < 999.5 or suffix == "T":
            break
    return f"{significant(number)}{suffix}"


def counted(number: int, one: str, many: str = "") -> str:
    """A number of things: `1 document`, `1,171 documents`."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def rate(tokens_per_second: float) -> str:
    """Throughput: `842 tok/s`, `12.3k tok/s`."""
    if tokens_per_second < 999.5:
        return f"{significant(tokens_per_second)} tok/s"
    return f"{significant(tokens_per_second / 1000)}k tok/s"


def duration(seconds: float) -> str:
    """A time span in its two largest units: `8.3s`, `4m10s`, `1h02m`, `3d04h`."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 59.95:
        return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"
    minutes, secs = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{secs:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02d}h"


def age(seconds: float) -> str:
    """How long ago, in the largest unit of which there is one: `now`, `5m`, `3h`, `12d`."""
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= unit:
            return f"{seconds / unit:.0f}{name}"
    return "now"


def percent(fraction: float) -> str:
    """A fraction of one: `43.2 %`."""
    return f"{100 * fraction:.1f} %"


def perplexity(value: float) -> str:
    """Perplexity with as many digits as mean something: `75.31`, `1,234`, `3.2e+09`."""
    if not math.isfinite(value):
        return "inf" if value > 0 else "nan"
    return f"{value:.2f}" if value < 1000 else f"{value:,.0f}" if value < 1e7 else f"{value:.1e}"


def loss(value: float) -> str:
    """A loss: `3.2500`."""
    return f"{value:.4f}"


def learning_rate(value: float) -> str:
    """`9.80e-3`: the exponent without padding."""
    digits, exponent = f"{value:.2e}".split("e")
    return f"{digits}e{int(exponent)}" if value else "0"


def thousands(number: int) -> str:
    """Every digit of a count: `40,000`."""
    return f"{number:,}"


def significant(number: float) -> str:
    """Three significant digits without an exponent: `1.34`, `58.1`, `417`."""
    digits = 2 if abs(number) < 9.995 else 1 if abs(number) < 99.95 else 0
    return f"{number:.{digits}f}"


def exponential(loss_nats: float) -> float:
    """exp(loss), infinite where it does not fit a float."""
    try:
        return math.exp(loss_nats)
    except OverflowError:
        return math.inf
