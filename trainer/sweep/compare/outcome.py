"""What the runs of a comparison came to, read from their directories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from galore.trainer.record.history import History
from galore.trainer.record.rundir import RunDir
from galore.trainer.sweep.compare.grid import Cell


@dataclass(frozen=True)
class Outcome:
    """One run. `loss_nats` is the last held-out loss, None without one; `optimizer_bytes` are states and projectors.

    `status`: "done", "failed: <why>", or "not finished".
    """

    cell: Cell
    status: str
    loss_nats: float | None
    tokens: int
    optimizer_bytes: int
    seconds: float
    curve: tuple[tuple[int, float], ...]  # (tokens, held-out loss) of every evaluation

    def as_json(self) -> dict[str, Any]:
        return {
            "method": self.cell.method,
            "learning_rate": self.cell.learning_rate,
            "seed": self.cell.seed,
            "status": self.status,
            "held_out_loss_nats": self.loss_nats,
            "tokens": self.tokens,
            "optimizer_bytes": self.optimizer_bytes,
            "step_seconds": self.seconds,
            "directory": self.cell.folder,
        }


def outcome(cell: Cell, root: Path, failure: str = "") -> Outcome:
    """The run of `cell` under `root` as it is now."""
    history = History.read(RunDir(root / cell.folder))
    scored = [(_tokens_at(history, row["step"]), row["loss_nats"]) for row in history.evaluations]
    curve = tuple((tokens, loss) for tokens, loss in scored if loss is not None)
    done = "finished" in history.facts
    return Outcome(
        cell,
        "done" if done else f"failed: {failure}" if failure else "not finished",
        curve[-1][1] if curve and done else None,
        int(history.train["tokens"][-1]) if history.last_step else 0,
        history.optimizer_bytes,
        history.total("step_seconds"),
        curve,
    )


def _tokens_at(history: History, step: int) -> int:
    rows = history.train["tokens"][history.train["step"] <= step]
    return int(rows[-1]) if len(rows) else 0


@dataclass(frozen=True)
class Standing:
    """A method at one learning rate, over its seeds that are done."""

    method: str
    learning_rate: float | None
    runs: tuple[Outcome, ...]

    @property
    def losses(self) -> list[float]:
        return [run.loss_nats for run in self.runs if run.loss_nats is not None]

    @property
    def loss(self) -> float | None:
        """Mean over the seeds; None where none is done."""
        return mean(self.losses) if self.losses else None


def standings(outcomes: Sequence[Outcome]) -> list[Standing]:
    """Methods and learning rates, the lowest mean loss first; those without a result last."""
    keys = dict.fromkeys((each.cell.method, each.cell.learning_rate) for each in outcomes)
    found = [
        Standing(*key, tuple(each for each in outcomes if (each.cell.method, each.cell.learning_rate) == key))
        for key in keys
    ]
    return sorted(found, key=lambda each: (each.loss is None, each.loss or 0.0))


def best_of_each(found: Sequence[Standing]) -> list[Standing]:
    """The best learning rate of every method, in the order of `standings`."""
    best: dict[str, Standing] = {}
    for each in found:
        if each.loss is not None:
            best.setdefault(each.method, each)
    return list(best.values())
