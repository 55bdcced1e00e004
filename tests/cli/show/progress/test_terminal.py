"""A run on a real terminal: beginning, course and numbers are on one screen of 24 lines, and nothing is cut."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

ROWS = 24
PROGRAM = """
from galore.cli.show.progress.console import make_console
from galore.trainer.recipe.schema.train import LogSection
console = make_console(LogSection(), verbose={verbose})
console.start({{
    "model": "LlamaForCausalLM, 9,626,880 parameters, 9,626,880 trained, bfloat16",
    "method": "GaLore r=64, α=0.25, T=50, randomized, refresh delayed, staggered, update accumulate, moments rotate",
    "data": "packaged: 1,171 documents, 1,134,514 tokens; held out 18 documents, 17,649 tokens",
    "batch": "32 × 256 tokens, 2 micro-batches of 16", "steps": "200", "device": "CPU, AMD EPYC, 2 of 2 threads",
    "output": "runs/demo", "projected": "28 matrices", "kernels": "torch (CPU)", "peak": "0.21 TFLOP/s, measured",
    "note": "; ".join("left out: 4 of 9 rows, a reason that is long enough for a line" for _ in range(9)),
}}, 200)
parts = {{name: 2**20 * 123 for name in ("weights", "optimizer_states", "projectors", "accumulators", "activations")}}
for step in range(1, 151):
    console.step({{
        "kind": "train", "step": step, "loss_nats": 7 - step / 50, "perplexity": 1234.5, "learning_rate": 0.0098,
        "tokens_per_second": 12345.0, "mfu_fraction": 0.432, "memory_current_bytes": 2**29,
        "memory_peak_bytes": 2**30, "memory_by_category_bytes": parts,
    }})
console.close()
"""


def screen(columns: int, encoding: str = "utf-8", verbose: bool = False) -> list[str]:
    """What stands on a terminal of so many columns when the run ends."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "PYTHONIOENCODING": encoding}
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        environment.pop(name, None)
    program = [sys.executable, "-P", "-c", PROGRAM.format(verbose=verbose)]
    running = subprocess.Popen(program, stdin=side, stdout=side, stderr=side, env=environment)
    os.close(side)
    written = b""
    try:
        while chunk := os.read(main, 65536):
            written += chunk
    except OSError:  # the other side has closed it
        pass
    finally:
        os.close(main)
    assert running.wait(timeout=60) == 0
    return shown(written.decode(encoding), columns)


def shown(text: str, columns: int) -> list[str]:
    """The screen after `text`: letters, line ends, wrapping, scrolling, moves up and cleared lines."""
    lines, row, column = [""], 0, 0
    for letter, up, rest in re.findall(r"([^\x1b])|\x1b\[(\d*)A|(\x1b\[[0-9;?]*[a-zA-Z])", text):
        if up:
            row = max(row - int(up), len(lines) - ROWS, 0)
        elif rest.endswith("K"):
            lines[row] = ""
        elif letter == "\r":
            column = 0
        elif letter == "\n" or (letter and column == columns):
            row, column = row + 1, 0 if letter != "\n" else column
            lines += [""] * (row + 1 - len(lines))
        if letter and letter not in "\r\n":
            lines[row] = f"{lines[row]:<{column}}"[:column] + letter + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines[-ROWS:]]


@pytest.mark.parametrize("columns", [80, 60])
def test_beginning_and_course_are_on_one_screen(columns: int) -> None:
    lines = screen(columns)
    text = "\n".join(lines)
    for piece in ("model", "GaLore r=64", "1,171 documents", "200", "output", "runs/demo", "left out: 4 of 9 rows"):
        assert piece in text, text
    for piece in ("step 150/200", "75 %", "loss 4.0000", "lr 9.80e-3", "12.3k tok/s", "peak 1.00 GiB", "activations"):
        assert piece in text, text
    course = next(line for line in lines if "█" in line)
    assert re.fullmatch(r"loss █[▁▂▃▄▅▆▇█]+▁ 6\.9800 → 4\.0000", course), course
    assert columns - 8 <= len(course) <= columns
    assert not any(name in text for name in ("projected", "kernels", "TFLOP/s"))


def test_a_terminal_without_blocks_gets_letters() -> None:
    course = next(line for line in screen(60, "ascii") if "->" in line)
    assert re.fullmatch(r"loss #[#%*+=.\-_]+_ 6\.9800 -> 4\.0000", course), course


def test_all_that_is_known_is_told_on_demand() -> None:
    text = "\n".join(screen(200, verbose=True))
    assert all(piece in text for piece in ("28 matrices", "torch (CPU)", "0.21 TFLOP/s, measured"))
