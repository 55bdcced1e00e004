"""What a person sees of a run: on a terminal, in a log file, and when there is nobody to see it."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console as Terminal

from galore.cli.show.progress.cells import Cell, Eta, lines, progress_cells
from galore.cli.show.progress.console import make_console
from galore.cli.show.progress.live import LiveConsole, Status
from galore.cli.show.progress.plain import PlainConsole
from galore.cli.show.progress.stream import Unbreakable
from galore.trainer.recipe.schema.train import LogSection

HEADER = {"model": "LLaMA [/x], 3,456,789 parameters", "method": "GaLore r=64, α=0.25, " + "a long description " * 5}
EVALUATION = {"kind": "eval", "step": 2, "loss_nats": 3.25, "perplexity": 25.79, "tokens": 40_000, "seconds": 1.0}


def _row(step: int, **changes: Any) -> dict[str, Any]:
    row = {
        "kind": "train",
        "step": step,
        "loss_nats": 4.3210,
        "perplexity": 75.26,
        "learning_rate": 0.0098,
        "tokens_per_second": 12_345.0,
        "mfu_fraction": 0.432,
        "memory_current_bytes": 600 * 2**20,
        "memory_peak_bytes": 2 * 2**30,
        "memory_by_category_bytes": {"weights": 100 * 2**20, "gradients": 0, "optimizer_states": 50 * 2**20},
        "skipped": False,
    }
    return row | changes


class _Output(io.StringIO):
    """A stream that may be a terminal, and may break."""

    def __init__(self, terminal: bool = False) -> None:
        super().__init__()
        self.terminal, self.broken = terminal, False

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        if self.broken:
            raise BrokenPipeError
        return super().write(text)


# --- plain ------------------------------------------------------------------------------------------------------


def _plain(logging_steps: int = 10) -> tuple[PlainConsole, _Output]:
    output = _Output()
    console = make_console(LogSection(logging_steps=logging_steps), output)
    assert isinstance(console, PlainConsole)
    return console, output


def test_plain_lines_follow_logging_steps() -> None:
    console, output = _plain(logging_steps=10)
    console.start(HEADER, total_steps=25)
    for step in range(1, 26):
        console.step(_row(step, skipped=step == 13))
    console.close()
    shown = [line.split()[1] for line in output.getvalue().splitlines() if line.startswith("step")]
    assert shown == ["1/25", "10/25", "13/25", "20/25", "25/25"]


def test_plain_lines_hold_the_numbers_and_never_wrap() -> None:
    console, output = _plain()
    console.message("resuming from step-00000001")
    console.start(HEADER, total_steps=2)
    console.step(_row(1))
    console.evaluation(EVALUATION | {"sample": "two\nlines \x1b[2J"})
    text = output.getvalue().splitlines()
    assert text[0] == "resuming from step-00000001"
    assert text[2].startswith("method:     GaLore r=64, α=0.25, a long")
    assert text[3].startswith(
        "step 1/2  loss 4.3210  ppl 75.26  lr 9.80e-3  12.3k tok/s  MFU 43.2 %  memory 600 MiB  peak 2.00 GiB  ETA"
    )
    assert text[4] == "step 2/2  held-out loss 3.2500  ppl 25.79  40,000 tokens"
    assert text[5] == "  sample: 'two\\nlines \N{REPLACEMENT CHARACTER}[2J'"
    assert len(text) == 6


def test_a_row_with_almost_nothing() -> None:
    console, output = _plain()
    console.start({}, 10)
    console.step({"kind": "train", "step": 1, "loss_nats": None, "loss_nats_is": "nan", "skipped": True})
    console.evaluation(
        {"kind": "eval", "step": 1, "loss_nats": None, "loss_nats_is": "nan", "perplexity": float("inf")}
    )
    text = output.getvalue().splitlines()
    assert text[0].startswith("step 1/10  skipped: gradient not finite")
    assert text[1] == "step 1/10  held-out loss nan  ppl inf"


# --- live -------------------------------------------------------------------------------------------------------


def _screen(width: int, row: dict[str, Any], total: int = 10) -> list[str]:
    status = Status(total)
    status.update(row)
    terminal = Terminal(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with terminal.capture() as captured:
        terminal.print(status)
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [30, 44, 80, 120, 200])
def test_live_lines_fit_and_no_number_is_torn(width: int) -> None:
    screen = _screen(width, _row(5))
    assert all(len(line) <= width for line in screen)
    text = "\n".join(screen)
    for piece in (
        "loss 4.3210",
        "ppl 75.26",
        "lr 9.80e-3",
        "12.3k tok/s",
        "MFU 43.2 %",
        "memory 600 MiB",
        "weights 100 MiB",
    ):
        assert piece in text, piece
    assert "gradients" not in text
    if width >= 44:
        assert "step 5/10" in text
        assert "50 %" in text
        assert "ETA" in text


def test_a_warning_stands_out_in_the_header_of_a_terminal() -> None:
    terminal = Terminal(file=io.StringIO(), width=60, force_terminal=True, color_system="standard")
    console = LiveConsole(terminal)
    console.start({"data": "local", "warning": "left out: 9 of 10"}, total_steps=2)
    console.close()
    shown = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[1;33mleft out: 9 of 10" in shown
    assert "33mlocal" not in shown


def test_live_console_shows_header_evaluations_and_messages() -> None:
    terminal = Terminal(file=io.StringIO(), width=60, force_terminal=True, color_system=None)
    console = LiveConsole(terminal)
    console.message("before the start")
    console.start(HEADER, total_steps=2)
    console.step(_row(1))
    console.evaluation(EVALUATION | {"sample": "In the [bold]beginning[/bold] \x1b[31m"})
    console.notice("SIGINT: saving")
    console.message("an [event] with brackets")
    console.close()
    console.close()
    console.message("after the end")
    text = terminal.file.getvalue()  # type: ignore[attr-defined]
    for piece in (
        "before the start",
        "LLaMA [/x], 3,456,789 parameters",
        "step 2  held-out loss 3.2500  ppl 25.79",
        "In the [bold]beginning[/bold] \N{REPLACEMENT CHARACTER}[31m",
        "an [event] with brackets",
        "SIGINT: saving",
        "after the end",
    ):
        assert piece in text, piece


def test_the_live_console_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(make_console(LogSection(), _Output(terminal=True)), LiveConsole)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_console(LogSection(), _Output(terminal=True)), PlainConsole)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(make_console(LogSection(), _Output(terminal=False)), PlainConsole)


# --- pieces -----------------------------------------------------------------------------------------------------


def test_eta_counts_from_where_this_process_began() -> None:
    now = 100.0
    eta = Eta(1000, clock=lambda: now)
    now = 120.0
    eta.update(901)  # resumed after 900: one step took 20 s
    assert (eta.elapsed, eta.remaining) == (20.0, 99 * 20.0)
    now = 130.0
    assert eta.remaining == 99 * 20.0 - 10
    eta.update(1000)
    assert eta.remaining == 0.0


def test_lines_break_between_cells() -> None:
    cells = [Cell("a", "1"), Cell("bb", "22"), Cell("", "a wide one"), Cell("c", "3")]
    assert [[str(cell) for cell in line] for line in lines(cells, 10)] == [["a 1", "bb 22"], ["a wide one"], ["c 3"]]
    assert lines([], 10) == []


def test_nothing_is_shown_of_an_empty_row() -> None:
    assert progress_cells({}) == []


def test_a_broken_output_does_not_stop_a_run() -> None:
    console, output = _plain()
    console.start(HEADER, 10)
    output.broken = True
    console.step(_row(1))
    console.message("unheard")
    output.broken = False
    console.message("and from then on silent")
    console.close()
    assert "silent" not in output.getvalue()
    output.close()
    console.close()


def test_a_full_disk_does_not_stop_a_run() -> None:
    full = Path("/dev/full").open("w")  # noqa: SIM115 - closing it fails, too
    console = make_console(LogSection(), full)
    console.start(HEADER, 1)
    console.step(_row(1))
    console.close()
    with pytest.raises(OSError, match="No space"):
        full.close()


def test_characters_that_the_encoding_lacks() -> None:
    raw = io.BytesIO()
    stream = Unbreakable(io.TextIOWrapper(raw, encoding="ascii"))
    stream.write("α 中 a")
    stream.flush()
    assert raw.getvalue() == b"alpha ? a"


def test_torch_is_not_imported() -> None:
    program = (
        "import sys, galore.cli.show.progress.console, galore.cli.show.progress.live; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-P", "-c", program], check=True)
