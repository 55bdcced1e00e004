"""A chat template as a program in a process of its own, with limits on time and memory: does it come to an end?

Templates come with models and are programs: loops in loops, strings that double. Run as a script it reads one rendering
to do, as JSON, from standard input; its exit status is the answer. What it renders is thrown away: everything but a
limit that was reached is told by the real rendering.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import signal
import subprocess
import sys
from typing import Any

CPU_SECONDS = 5
MEMORY_BYTES = 1 << 30
WALL_SECONDS = 120  # for a machine that is busy with something else
MOST_LETTERS = 1 << 26  # of one conversation, which is held several times; data.max_document_bytes is less
OUT_OF_MEMORY, TOO_LONG = 3, 4


def beyond_limits(template: str, variables: dict[str, Any], cpu_seconds: int = CPU_SECONDS) -> str | None:
    """What becomes of a rendering that does not end well, in words; None where it keeps to the limits."""
    command = [sys.executable, "-P", __file__, str(cpu_seconds)]
    given = json.dumps({"template": template, "variables": variables}, default=str).encode()
    try:
        done = subprocess.run(command, input=given, capture_output=True, check=False, timeout=WALL_SECONDS)
    except subprocess.TimeoutExpired:
        return f"takes more than {WALL_SECONDS} seconds"
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"takes more than {cpu_seconds} seconds of computing"
    if done.returncode < 0:
        return f"ends the process with {signal.Signals(-done.returncode).name}"
    return {
        OUT_OF_MEMORY: f"takes more than {MEMORY_BYTES >> 30} GiB of memory",
        TOO_LONG: f"writes more than {MOST_LETTERS:,} letters",
    }.get(done.returncode)


def _limit(cpu_seconds: int) -> None:
    for kind, soft in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # not every system has every limit
            resource.setrlimit(kind, (soft, soft + (kind == resource.RLIMIT_CPU)))


class TooLong(Exception):  # noqa: N818 - it says what a rendering is, and never leaves this file
    pass


def rendered(template: str, variables: dict[str, Any]) -> str:
    """What the template writes. Raises TooLong as soon as that is known."""
    text = io.StringIO()
    for part in environment().from_string(template).generate(**variables):
        text.write(part)
        if text.tell() > MOST_LETTERS:
            raise TooLong
    return text.getvalue()


def environment() -> Any:
    """An environment for templates as transformers makes it, whose import takes longer than the rest."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 - as the library declares it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def raise_exception(message: str) -> None:
        raise ValueError(message)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = lambda value, **options: json.dumps(value, **options)
    made.globals |= {"raise_exception": raise_exception, "strftime_now": lambda pattern: pattern}
    return made


if __name__ == "__main__":
    _limit(int(sys.argv[1]))
    try:
        rendered(**json.load(sys.stdin))
    except MemoryError:
        sys.exit(OUT_OF_MEMORY)
    except TooLong:
        sys.exit(TOO_LONG)
    except Exception:  # the template's own, told when it is rendered in earnest
        sys.exit(0)
