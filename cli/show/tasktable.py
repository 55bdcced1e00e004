"""Scores on benchmark tasks as a table: a row per task and metric, with the standard error the harness gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from galore.cli.show.tables import numbers, screen, show_table

if TYPE_CHECKING:
    from galore.trainer.trained.harness import TaskScores

ERROR = "_stderr"
ASIDE = {"sample_len"}  # what is no score


def show_scores(scored: TaskScores) -> None:
    """Prints the table."""
    from rich.table import Table

    table = Table("task", "metric", "value", "standard error", "shots", box=None)
    for task, metrics in scored.results.items():
        shots = str(scored.num_fewshot.get(task, ""))
        for name, value in metrics.items():
            if name.partition(",")[0].endswith(ERROR) or name in ASIDE:
                continue
            metric, comma, by = name.partition(",")
            error = metrics.get(metric + ERROR + comma + by)
            table.add_row(task, name, f"{value:.4f}", "" if error is None else f"{error:.4f}", shots)
    numbers(table, (2, 3, 4))
    show_table(screen(), table)
