"""report.md: what a run came to, readable by a person, with plots, from nothing but the run's directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from galore.trainer.common.errors import RunFailed, UserError, to_write
from galore.trainer.common.markdown import section
from galore.trainer.common.reading import read_bounded
from galore.trainer.recipe.extras import install, no_plots
from galore.trainer.record.history import History
from galore.trainer.record.rundir import RunDir
from galore.trainer.record.shown import sections
from galore.trainer.record.shown.plots import draw

WITHOUT_PLOTS = f"Plots need matplotlib: `{install('matplotlib')}`, then `--resume`, which writes this report anew.\n"


def write_report(run_dir: RunDir) -> Path:
    """Write report.md and plots/*.png, for a run at any stage. Facts that are missing are left out.

    Raises:
        UserError: metrics of a finished run were lost since, and the report that is there may still have them.
        RunFailed: the files cannot be written.
    """
    try:
        history = History.read(run_dir)
        if history.lost_after is not None and run_dir.report.is_file():
            raise UserError(
                f"tells of {history.lost_after:,} steps, and run.json of {history.facts['final']['step']:,}",
                where=str(run_dir.metrics),
                fix=f"restore it; {run_dir.report.name} may have the others and is left as it is: move it away for a new one",
            )
        run_dir.replace(run_dir.report, _compose(history, _plots(history, run_dir)))
    except OSError as error:
        raise RunFailed(
            f"the report was not written: {error.strerror or error}",
            where=str(run_dir.root),
            fix=f"{to_write(error)}; metrics and checkpoints do not hang on it, and --resume writes it anew",
        ) from error
    return run_dir.report


def is_reported(run_dir: RunDir, finished: str) -> bool:
    """Whether the report tells of the run that ended at the time `finished`, with the plots that can be drawn here."""
    try:
        text = read_bounded(run_dir.report).decode(errors="replace")
    except OSError:
        return False
    return finished in text and (WITHOUT_PLOTS not in text or bool(no_plots()))


def _compose(history: History, plots: str) -> str:
    first, rest = texts(history)
    name = history.facts.get("name") or "A galore run"
    return "\n".join(part for part in (f"# {name}\n", *first, plots, *rest) if part)


def texts(history: History) -> tuple[list[str], list[str]]:
    """The sections before a report's pictures, and those after them; empty where nothing is known."""
    first = (sections.status, sections.gaps, sections.warnings, sections.headline, sections.notes)
    rest = (
        sections.evaluations,
        sections.samples,
        sections.parameters,
        sections.course,
        sections.seconds,
        sections.data,
        sections.machine,
        sections.recipe,
    )
    return [_told(each, history) for each in first], [_told(each, history) for each in rest]


def _told(part: Callable[[History], str], history: History) -> str:
    """A section; where run.json has what no run writes, that it has."""
    try:
        return part(history)
    except Exception as error:
        return section(part.__name__.capitalize(), f"Not told: run.json is damaged ({type(error).__name__}: {error})\n")


def _plots(history: History, run_dir: RunDir) -> str:
    if not history.last_step:
        return ""
    try:
        figures = draw(history)
    except ImportError:
        return section("Plots", WITHOUT_PLOTS)
    except Exception as error:  # numbers that nobody has thought of; the rest of the report tells them
        return section("Plots", f"Not drawn: {type(error).__name__}: {error}\n")
    run_dir.require_own()
    run_dir.plots.mkdir(exist_ok=True)
    for name, png in figures.items():
        run_dir.replace(run_dir.plots / f"{name}.png", png)
    images = (f"![{name.replace('_', ' ')}]({run_dir.plots.name}/{name}.png)\n" for name in figures)
    return section("Plots", *images)
