"""The console script. Ctrl-C while the verbs are still being imported is a word, not a traceback."""

from __future__ import annotations

import io
import os
import re
import sys

from galore.trainer.common.legible import LEGIBLE

STREAMS = ("stdin", "stdout", "stderr")
LEAST = {"COLUMNS": 20, "LINES": 1}  # of a screen on which something can be read
MOST = 9999  # rich pads its panels to the width of the screen


def main() -> None:
    """Import the verbs and run the one that was asked for."""
    open_streams()
    write_any_letter()
    forget_impossible_screens()
    try:
        from galore.trainer.machine.agent import watch_agent

        watch_agent()  # before seconds of imports, in which the agent may be gone
        from galore.cli.main import main as run

        run()
    except KeyboardInterrupt:  # once a verb runs it is told there
        os.write(2, b"stopped: interrupted\n")
        raise SystemExit(130) from None


def open_streams() -> None:
    """Open what the caller closed of the standard streams on nothing: a file of a run would take the number of one."""
    for number, name in enumerate(STREAMS):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number is this one
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def write_any_letter() -> None:
    """Let no letter that the encoding of an output lacks, as that of a legacy locale does, end what was nearly done."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors=LEGIBLE)


def forget_impossible_screens() -> None:
    """Take COLUMNS and LINES of no screen from the environment: rich prints nothing in 0 columns."""
    for name, least in LEAST.items():
        told = os.environ.get(name, "")
        if not re.fullmatch("[0-9]{1,9}", told) or not least <= int(told) <= MOST:
            os.environ.pop(name, None)


if __name__ == "__main__":
    main()
