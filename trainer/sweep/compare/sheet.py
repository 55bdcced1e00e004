"""A comparison as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import mean

from galore.trainer.common.format import duration, exponential, perplexity, size
from galore.trainer.common.markdown import table
from galore.trainer.sweep.compare.outcome import Outcome, Standing, best_of_each, standings

HEAD = ["method", "learning rate", "held-out loss", "spread", "perplexity", "tokens", "optimizer", "time", "runs"]


def markdown(title: str, outcomes: Sequence[Outcome]) -> str:
    """One row per method at its best learning rate, then one per learning rate; nats per token, means over seeds."""
    found = standings(outcomes)
    best = best_of_each(found)
    parts = [f"# {title}\n", table(HEAD, [row(each) for each in best], "lrrrrrrrr")]
    if len(found) > len(best):
        parts += ["## Every learning rate\n", table(HEAD, [row(each) for each in found], "lrrrrrrrr")]
    bad = [f"- {each.cell.folder}: {each.status}" for each in outcomes if each.status != "done"]
    parts += ["## Not done\n", "\n".join(bad) + "\n"] if bad else []
    parts.append(
        "`optimizer` is the bytes of moments and projectors; `time` is in optimizer steps, without evaluations.\n"
    )
    return "\n".join(parts)


def as_json(outcomes: Sequence[Outcome]) -> str:
    """All runs, and the best standing of each method."""
    best = [
        {
            "method": each.method,
            "learning_rate": each.learning_rate,
            "held_out_loss_nats": each.loss,
            "losses": each.losses,
        }
        for each in best_of_each(standings(outcomes))
    ]
    return json.dumps({"runs": [each.as_json() for each in outcomes], "best": best}, indent=2) + "\n"


def row(each: Standing) -> list[str]:
    """The cells below HEAD of one method at one learning rate."""
    done = [run for run in each.runs if run.loss_nats is not None]
    rate = "the recipe's" if each.learning_rate is None else f"{each.learning_rate:g}"
    if each.loss is None:
        return [each.method, rate, *("–" for _ in HEAD[2:-1]), f"0 of {len(each.runs)}"]
    spread = f"{min(each.losses):.4f}–{max(each.losses):.4f}" if len(each.losses) > 1 else ""
    return [
        each.method,
        rate,
        f"{each.loss:.4f}",
        spread,
        perplexity(exponential(each.loss)),
        f"{done[0].tokens:,}",
        size(done[0].optimizer_bytes),
        duration(mean(run.seconds for run in done)),
        f"{len(done)} of {len(each.runs)}",
    ]
