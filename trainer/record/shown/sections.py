"""The sections of a report: each takes the run's history and gives Markdown, empty where nothing is known."""

from __future__ import annotations

from typing import Any

import numpy as np

from galore.trainer.common.format import counted, duration, exponential, percent, perplexity, rate, significant, size
from galore.trainer.common.markdown import details, fence, section, table
from galore.trainer.common.printable import listed, masked, masked_command
from galore.trainer.machine.power import energy_in_words
from galore.trainer.record.history import History
from galore.trainer.record.row import EVAL, EvalRow
from galore.trainer.tasks.metrics import flat
from galore.trainer.time.account import Account

MOST_STEPS = 20  # in a list of them


def headline(history: History) -> str:
    """The numbers a person looks for first."""
    return table(["", ""], [(f"**{name}**", value) for name, value in facts(history)])


def facts(history: History) -> list[tuple[str, str]]:
    """What those numbers are, and each in words."""
    method = history.facts.get("method")
    return [*([("Method", str(method))] if method else []), *_quality(history), *_cost(history)]


def notes(history: History) -> str:
    """What was to be known of the run before its first step."""
    known = history.facts.get("notes")
    return "".join(f"- {_line(each)}\n" for each in known) if isinstance(known, list) else ""


def status(history: History) -> str:
    """One line: how far the run is."""
    done, total = history.last_step, history.total_steps
    early = "stopped_early" in history.facts
    if done < total and not early:
        return f"**Not finished: {done:,} of {counted(total, 'step')} are done.** `--resume` goes on.\n"
    finished = history.facts.get("finished")
    told = f", finished {finished}" if finished else ""
    told += f", stopped early of {total:,}: the held-out loss fell no more" if early else ""
    return f"{counted(done, 'optimizer step')}{told}.\n" if done else "No step is done.\n"


def gaps(history: History) -> str:
    """Steps that were done and that no row tells of."""
    if not history.gaps:
        return ""
    steps = listed(f"{first:,}" if first == last else f"{first:,} to {last:,}" for first, last in history.gaps)
    return f"**Warning:** metrics.jsonl has no row of steps {steps}: sums and medians here are without them.\n"


def warnings(history: History) -> str:
    """What makes the data other than they are meant to be."""
    found = history.facts.get("warnings") or []
    return f"**Warning**\n\n{fence(chr(10).join(map(str, found)), 'text')}" if found else ""


def evaluations(history: History) -> str:
    """Every metric of a task, or the loss of text."""
    return _of_task(history) if history.task else _of_text(history)


def _of_task(history: History) -> str:
    scored = [(row, flat(row["scores"])) for row in history.evaluations if "scores" in row]
    names = list(scored[-1][1]) if scored else []
    rows = [
        (f"{row['step']:,}", *(f"{scores[name]:.4f}" for name in names), duration(row.get("seconds") or 0))
        for row, scores in scored
    ]
    alarm = scored[-1][0].get("collapsed") if scored else None
    note = f"**Alarm:** {alarm}.\n" if alarm else ""
    return section("Evaluations", table(["step", *names, "time"], rows, "r" * (len(names) + 2)), note)


def _of_text(history: History) -> str:
    shown = [each for each in EVAL.values() if each.title and any(each.name in row for row in history.evaluations)]
    rows = [[column.told(row) for column in shown] for row in history.evaluations]
    head = [column.title for column in shown]
    mode = history.evaluations[-1].get("mode") if rows else None
    note = "Scored as in the GaLore paper (`eval.mode: paper`): batch means summed and divided by n + 1.\n"
    return section("Evaluations", table(head, rows, "r" * len(head)), note if mode == "paper" else "")


def samples(history: History) -> str:
    """The last sample as it is, the earlier ones folded."""
    found = [row for row in history.evaluations if row.get("sample")]
    if not found:
        return ""
    earlier = "\n".join(map(_sample, found[:-1]))
    return section("Sample", _sample(found[-1]), details(f"{len(found) - 1} earlier", earlier))


def _sample(row: EvalRow) -> str:
    """A text that goes on from a prompt, or the answer to a question, with the question."""
    when = f"After step {row['step']:,}" if row["step"] else "Before the first step"
    if not row.get("question"):
        return f"{when}:\n\n{fence(row['sample'] or '')}"
    return f"{when}, to the question\n\n{fence(row['question'])}\nthe answer:\n\n{fence(row['sample'] or '')}"


def parameters(history: History) -> str:
    """What is projected, with which rank, and what it costs."""
    known = history.facts.get("parameters") or []
    rows = [
        (
            row.get("name", "?"),
            row.get("tensors", ""),
            " × ".join(map(str, row.get("shape", ()))),
            row.get("update", ""),
            row.get("rank") or "–",
            f"{row.get('count', 0):,}",
            size(row.get("weight_bytes") or 0),
            size((row.get("state_bytes") or 0) + (row.get("projector_bytes") or 0)),
        )
        for row in known
    ]
    total = sum(row.get("count", 0) for row in known)
    projected = sum(row.get("count", 0) for row in known if row.get("rank"))
    note = (
        f"{total:,} parameters; {projected:,} of them ({percent(projected / total)}) are projected.\n" if total else ""
    )
    head = ["parameters", "tensors", "shape", "update", "rank", "count", "weights", "states and projectors"]
    return section("Parameters", note, table(head, rows, "lrrlrrrr"))


def course(history: History) -> str:
    """What happened on the way."""
    skipped = [int(step) for step in history.train["step"][history.train["skipped"] == 1]]
    refreshes, fallbacks = history.total("refreshed_layers"), history.total("decomposition_fallbacks")
    resumed = history.resumed_steps()
    lines = [
        f"- skipped steps (gradient not finite): {_list(skipped) or 'none'}",
        f"- subspace refreshes: {refreshes:,.0f} layers in {int(np.sum(history.train['refreshed_layers'] > 0)):,} steps",
        f"- decompositions that fell back: {fallbacks:,.0f}",
        f"- resumed after step: {_list(resumed) or 'never'}",
    ]
    told = "".join(f"- after step {row.get('step', 0):,}: {_line(row.get('message'))}\n" for row in history.events)
    folded = details(f"{len(history.events)} event(s)", told)
    return section("Course of the run", "\n".join(lines) + "\n", folded) if history.last_step else ""


def seconds(history: History) -> str:
    """Where the seconds of profiled steps went."""
    found = [(row["step"], Account(**row["profile"])) for row in history.events if "profile" in row]
    parts = []
    for step, account in found:
        rows = [(name, f"{each:.4f} s", percent(share)) for name, each, share in account.rows()]
        head = ["part of a step", "time", "share"]
        each = account.seconds / account.steps
        note = f"Up to step {step:,}, {counted(account.steps, 'step')} profiled, {each:.4f} s each"
        beside = f"; {' and '.join(account.beside)} beside the device" if account.beside else ""
        parts += [f"{note}{beside}. The traces are in `profile/`.\n", table(head, rows, "lrr")]
    return section("Seconds of a step", *parts)


def data(history: History) -> str:
    known = dict(history.facts.get("data") or {})
    known["bad_rows"] = [
        f"{each['rows']:,} {kind}, first {each['first']}" if isinstance(each, dict) else f"{each} {kind}"
        for kind, each in (known.get("bad_rows") or {}).items()
    ]
    return section("Data", _mapping(known))


def machine(history: History) -> str:
    facts = history.facts
    about: dict[str, Any] = {**(facts.get("device") or {}), "kernels": facts.get("kernels")}
    command = masked_command(str(facts.get("command") or "").split(" "))  # run.json of earlier versions has it as typed
    about |= {"command": f"`{command}`" if command else None, "started": facts.get("started")}
    return section("Machine and versions", _mapping(about | (facts.get("versions") or {})))


def recipe(history: History) -> str:
    return (
        section("Recipe", details("resolved recipe", fence(masked(history.recipe), "yaml"))) if history.recipe else ""
    )


def _quality(history: History) -> list[tuple[str, str]]:
    if history.task:
        return _scores(history)
    rows, unigram = [], history.facts.get("unigram_loss_nats")
    last = history.evaluations[-1] if history.evaluations else None
    if last is not None:
        loss, ppl = EVAL["loss_nats"].told(last), EVAL["perplexity"].told(last)
        per_byte = (
            f", {EVAL['bits_per_byte'].told(last)} bits per byte" if last.get("bits_per_byte") is not None else ""
        )
        text = f"{loss} nats per token, perplexity {ppl}{per_byte} (step {last['step']:,})"
        rows.append(("Held-out loss", text + _since_start(history)))
        for name in ("source", "modality"):
            if (column := EVAL[f"loss_nats_by_{name}"]).name in last:
                rows.append((f"Held-out loss by {name}", _line(column.told(last))))
        if "extra_loss" in last:
            rows.append(("Extra loss, held out", EVAL["extra_loss"].told(last)))
    if unigram is not None:
        text = f"{unigram:.4f} nats per token, perplexity {perplexity(exponential(unigram))}"
        if last is not None and last.get("loss_nats") is not None:
            text += f"; the model's perplexity is {percent(exponential(last['loss_nats'] - unigram))} of it"
        rows.append(("Unigram baseline", text))
    return rows


def _since_start(history: History) -> str:
    """What the last evaluation is to be set against: that of the model before its first step."""
    first, last = history.evaluations[0], history.evaluations[-1]
    if first["step"] or not last["step"]:
        return ""
    return f"; before the first step {EVAL['loss_nats'].told(first)}, perplexity {EVAL['perplexity'].told(first)}"


def _scores(history: History) -> list[tuple[str, str]]:
    """Every metric after the last evaluation, beside what the majority label reaches."""
    scored = [row for row in history.evaluations if "scores" in row]
    if not scored:
        return []
    majority = flat(history.facts.get("baseline") or {})
    last, step = flat(scored[-1]["scores"]), scored[-1]["step"]
    told = {name: f"; the majority label reaches {majority[name]:.4f}" for name in last if name in majority}
    best = {name: max(flat(row["scores"])[name] for row in scored) for name in last}
    return [
        (name, f"{value:.4f} (step {step:,}), at best {best[name]:.4f}{told.get(name, '')}")
        for name, value in last.items()
    ]


def _cost(history: History) -> list[tuple[str, str]]:
    if not history.last_step:
        return []
    rows = [("Tokens seen", f"{np.nanmax(history.train['tokens'], initial=0):,.0f}")]
    wall = f", {duration(history.wall_seconds)} from start to finish" if history.wall_seconds is not None else ""
    rows.append(("Time", f"{duration(history.total('step_seconds'))} in optimizer steps{wall}"))
    if (throughput := history.median("tokens_per_second")) is not None:
        rows.append(("Throughput", f"{rate(throughput)} (median over the steps)"))
    if (mfu := history.median("mfu_fraction")) is not None:
        rows.append(("MFU", f"{percent(mfu)} (median) of {_peak(history)}"))
    if energy := spent(history):
        rows.append(("Energy", energy))
    if len(peaks := history.train["memory_peak_bytes"]) and not np.isnan(peaks).all():
        rows.append(("Peak memory", _memory(history)))
    return rows


def spent(history: History) -> str:
    """The energy of the steps that tell it, per token; "" where none does."""
    train, known = history.train, np.isfinite(history.train["energy_joules"])
    watts, celsius = history.median("power_watts"), train["temperature_celsius"][known]
    if watts is None or not np.isfinite(celsius).any():
        return ""
    tokens = float(np.nansum((train["tokens_per_second"] * train["step_seconds"])[known]))
    return energy_in_words(history.total("energy_joules"), tokens, watts, float(np.nanmax(celsius)))


def _peak(history: History) -> str:
    peak = history.facts.get("peak") or {}
    flops = peak.get("flops_per_second")
    named = f"{significant(flops / 1e12)} TFLOP/s" if flops else "the device's peak"
    named += f" of {peak['of']}" if peak.get("of") else ""
    return f"{named}, {peak['basis']}" if peak.get("basis") else named


def _memory(history: History) -> str:
    row = int(np.nanargmax(history.train["memory_peak_bytes"]))
    parts = {name: column[row] for name, column in history.memory_parts().items() if column[row] > 0}
    listed = ", ".join(f"{name.replace('_', ' ')} {size(value)}" for name, value in parts.items())
    expected = (history.facts.get("expected_memory") or {}).get("peak_allocated_bytes")
    told = f" ({size(expected)} expected)" if expected else ""
    return size(history.train["memory_peak_bytes"][row]) + told + (f": {listed}" if listed else "")


def _mapping(known: dict[str, Any]) -> str:
    rows = [(name.replace("_", " "), _value(value)) for name, value in known.items() if value not in (None, "", [], {})]
    return table(["", ""], rows)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(inner)}" for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return "; ".join(map(_value, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _list(steps: list[int]) -> str:
    return listed((f"{step:,}" for step in steps), MOST_STEPS)


def _line(text: Any) -> str:
    return " ".join(str(text).split())
