"""A comparison as Markdown, JSON, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from statistics import mean
from typing import Any

from galore.trainer.common.format import duration, exponential, perplexity, size
from galore.trainer.common.markdown import table
from galore.trainer.sweep.compare.edge import place
from galore.trainer.sweep.compare.standing import Compared, best_of_each, final_loss, own_rates, standings
from galore.trainer.sweep.outcome import Outcome, Sweep
from galore.trainer.sweep.table import missing, of_earlier_calls

HEAD = [
    *("method", "learning rate", "in its grid", "held-out loss", "spread", "perplexity"),
    *("tokens", "optimizer", "time", "runs"),
]
COLUMNS = (
    *("method", "learning_rate", "in_its_grid", "is_best", "held_out_loss_nats", "standard_error_nats", "lowest_nats"),
    *("highest_nats", "runs_done", "runs", "tokens", "optimizer_bytes", "step_seconds"),
)
LATEX = str.maketrans({each: f"\\{each}" for each in "_%&#$"} | {"–": "--", "±": r"$\pm$"})


def markdown(title: str, found: Sweep) -> str:
    """One row per method at its best learning rate, then one per learning rate; nats per token, means over seeds."""
    every = standings(found.compared)
    best = best_of_each(every)
    parts = [
        f"# {title}\n",
        _table(best, every) if best else "No method has a result.\n",
        _of_edges(best, every),
        _of_rates(every),
    ]
    if len(every) > len(best):
        parts += ["## Every learning rate\n", _table(every, every)]
    if earlier := of_earlier_calls(every):
        parts.append(f"{earlier}\n")
    parts += missing(found)
    parts.append(
        "`held-out loss` is the mean over seeds in nats per token, ± its standard error; `spread` is from the lowest to the "
        "highest seed; `optimizer` is the bytes of moments and projectors; `time` is in optimizer steps, without "
        "evaluations.\n"
    )
    return "\n".join(part for part in parts if part)


def as_object(found: Sweep) -> dict[str, Any]:
    """All runs, and the best standing of each method."""
    every = standings(found.compared)
    best = [
        {
            "method": each.label,
            "learning_rate": each.learning_rate,
            "in_its_grid": place(each, every),
            "held_out_loss_nats": each.loss,
            "standard_error_nats": each.error,
            "losses": each.losses,
        }
        for each in best_of_each(every)
    ]
    return {"runs": [_run(each) for each in (*found.compared, *found.other)], "best": best}


def to_publish(found: Sweep) -> dict[str, str]:
    """Files by suffix: every rate of every method as CSV, in nats, bytes and seconds; the best of each as LaTeX."""
    every = standings(found.compared)
    best, text = best_of_each(every), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_numbers(each, every, each in best) for each in every)
    lines = [HEAD, *(row(each, every) for each in best)]
    body = [" & ".join(cells).translate(LATEX).replace(r"\& ", "& ") + r" \\" for cells in lines]
    rules = [r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule"]
    frame = [r"\begin{tabular}{lrl" + "r" * (len(HEAD) - 3) + "}", *rules, r"\end{tabular}", ""]
    return {"csv": text.getvalue(), "tex": "\n".join(frame)}


def row(each: Compared, every: Sequence[Compared]) -> list[str]:
    """The cells below HEAD of one method at one learning rate; `every` has the others that were tried."""
    name = [each.label, f"{each.learning_rate:g}", place(each, every)]
    if not each.done:
        return [*name, *("–" for _ in HEAD[3:-1]), each.count]
    spread = f"{min(each.losses):.4f}–{max(each.losses):.4f}" if len(each.losses) > 1 else ""
    error = "" if each.error is None else f" ± {each.error:.4f}"
    loss = ["–", "", "–"]
    if each.loss is not None:
        loss = [f"{each.loss:.4f}{error}", spread, perplexity(exponential(each.loss))]
    return [
        *name,
        *loss,
        f"{each.done[0].tokens:,}",
        size(each.done[0].optimizer_bytes),
        duration(mean(run.seconds for run in each.done)),
        each.count,
    ]


def _table(found: Sequence[Compared], every: Sequence[Compared]) -> str:
    return table(HEAD, [row(each, every) for each in found], "lrl" + "r" * (len(HEAD) - 3))


def _of_edges(best: Sequence[Compared], every: Sequence[Compared]) -> str:
    """A sentence about methods whose best rate has no worse one on either side."""
    edges = [f"{each.label} ({each.learning_rate:g}, the {place(each, every)})" for each in best]
    at = [told for each, told in zip(best, edges, strict=True) if place(each, every) in ("lowest", "highest")]
    return f"At an edge of the rates tried, so that another may be better: {', '.join(at)}.\n" if at else ""


def _of_rates(every: Sequence[Compared]) -> str:
    """A sentence about rates that are not the learning rate of their row."""
    found = {each.label: own_rates(each.trial.recipe.optim) for each in every}
    told = "; ".join(f"{label} {rates}" for label, rates in found.items() if rates)
    return f"Rates of their own: {told}.\n" if told else ""


def _numbers(each: Compared, every: Sequence[Compared], best: bool) -> list[object]:
    done = each.done
    costs: list[object] = ["", "", ""]
    if done:
        costs = [done[0].tokens, done[0].optimizer_bytes, mean(run.seconds for run in done)]
    return [
        *(each.label, each.learning_rate, place(each, every), best, each.loss, each.error),
        *(min(each.losses, default=None), max(each.losses, default=None), len(done), len(each.runs), *costs),
    ]


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
