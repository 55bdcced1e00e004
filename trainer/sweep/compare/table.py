"""A comparison as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from galore.trainer.common.format import duration, exponential, perplexity, size
from galore.trainer.common.markdown import table
from galore.trainer.sweep.compare.standing import Compared, best_of_each, final_loss, standings
from galore.trainer.sweep.outcome import Outcome, Sweep
from galore.trainer.sweep.table import missing, of_earlier_calls

HEAD = ["method", "learning rate", "held-out loss", "spread", "perplexity", "tokens", "optimizer", "time", "runs"]


def markdown(title: str, found: Sweep) -> str:
    """One row per method at its best learning rate, then one per learning rate; nats per token, means over seeds."""
    every = standings(found.compared)
    best = best_of_each(every)
    parts = [f"# {title}\n", _table(best)]
    if len(every) > len(best):
        parts += ["## Every learning rate\n", _table(every)]
    if earlier := of_earlier_calls(every):
        parts.append(f"{earlier}\n")
    parts += missing(found)
    parts.append(
        "`optimizer` is the bytes of moments and projectors; `time` is in optimizer steps, without evaluations.\n"
    )
    return "\n".join(part for part in parts if part)


def as_object(found: Sweep) -> dict[str, Any]:
    """All runs, and the best standing of each method."""
    best = [
        {
            "method": each.label,
            "learning_rate": each.learning_rate,
            "held_out_loss_nats": each.loss,
            "losses": each.losses,
        }
        for each in best_of_each(standings(found.compared))
    ]
    return {"runs": [_run(each) for each in (*found.compared, *found.other)], "best": best}


def row(each: Compared) -> list[str]:
    """The cells below HEAD of one method at one learning rate."""
    name = [each.label, f"{each.learning_rate:g}"]
    if not each.done:
        return [*name, *("–" for _ in HEAD[2:-1]), each.count]
    spread = f"{min(each.losses):.4f}–{max(each.losses):.4f}" if len(each.losses) > 1 else ""
    loss = ["–", "", "–"] if each.loss is None else [f"{each.loss:.4f}", spread, perplexity(exponential(each.loss))]
    return [
        *name,
        *loss,
        f"{each.done[0].tokens:,}",
        size(each.done[0].optimizer_bytes),
        duration(mean(run.seconds for run in each.done)),
        each.count,
    ]


def _table(found: Sequence[Compared]) -> str:
    return table(HEAD, [row(each) for each in found], "lrrrrrrrr")


def _run(run: Outcome) -> dict[str, Any]:
    return {
        "method": run.trial.label,
        "learning_rate": run.trial.learning_rate,
        "seed": run.trial.seed,
        "status": run.status,
        "held_out_loss_nats": final_loss(run),
        "tokens": run.tokens,
        "optimizer_bytes": run.optimizer_bytes,
        "step_seconds": run.seconds,
        "directory": run.trial.folder,
        **({"differs": list(run.differs)} if run.differs else {}),
    }
