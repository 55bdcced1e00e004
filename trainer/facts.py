"""What is known of a run beside its metrics: the header a person reads first, and run.json."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import galore
from galore.kernels.ops.dispatch import ENVIRONMENT, unavailable
from galore.trainer.build import Run
from galore.trainer.common.format import counted, size
from galore.trainer.common.printable import masked_command
from galore.trainer.data.notices import alarms, remarks
from galore.trainer.data.text.quality import MEANING, shown
from galore.trainer.data.tokens.tokenizer import id_bound
from galore.trainer.host.attach import outermost_blocks
from galore.trainer.losses.router import router_note
from galore.trainer.machine.hardware import Peak, cpu_name
from galore.trainer.machine.nogpu import idle_card
from galore.trainer.models.adapters.lora import adapter_ranks, clamp_note, class_name, not_adapted, without_adapters
from galore.trainer.models.changes.table import told
from galore.trainer.models.rope.stages import in_words
from galore.trainer.optim.groups import is_trained
from galore.trainer.optim.projected import ProjectedSlot
from galore.trainer.parallel.partedtraffic import parted_traffic, units
from galore.trainer.parallel.traffic import traffic
from galore.trainer.parameters import clamped_ranks, left_full_rank, parameter_table, whole_gradients
from galore.trainer.recipe.methods import ADAPTED, described
from galore.trainer.recipe.schema.optim import OptimSection
from galore.trainer.recorder import Meter

PACKAGES = ("torch", "transformers", "tokenizers", "peft", "bitsandbytes", "safetensors")

RATE_OF_WHOLE_WEIGHTS = 3e-5  # of a trained model, at most


def header(run: Run, meter: Meter, memory: str) -> dict[str, Any]:
    """The run in a few lines, label → text, in reading order: what a person wants first, the machine's details, notes.

    Args:
        memory: whether it fits, as far as that is known.
    """
    recipe, parameters = run.recipe, list(run.model.parameters())
    trained = sum(p.numel() for p in parameters if is_trained(p))
    total = sum(p.numel() for p in parameters)
    most = "" if recipe.data.task is None else "up to "
    batch = f"{recipe.train.global_batch_size} × {most}{recipe.data.max_length} tokens"
    lines = {
        "model": f"{class_name(run.model)}, {counted(total, 'parameter')}, {trained:,} trained, {recipe.model.dtype}",
        "method": described(recipe.optim),
        "data": data_line(run.data.summary),
        "batch": f"{batch}, {_micro_batches(run)}",
        "lengths": in_words(run.lengths, recipe.data.max_length),
        "positions": _said(run, "positions", "train.position_skips"),
        "ranks": _ranks(run),
        "steps": f"{run.total_steps:,}" + (f", resuming after {run.first_step:,}" if run.first_step else ""),
        "device": _device(run),
        "gpu": idle_card(recipe.train.device) if run.device.type == "cpu" else "",
        "memory": memory,
        "output": str(run.directory.root),
        "projected": _projected(run),
        "kernels": _kernels(run.device),
        "products": _said(run, "products", "train.matmul") + _share_of(meter.peak),
        "peak": _peak(meter.peak),
        "warning": "; ".join(alarms(run.data.summary)),
        "note": "; ".join(notes(run)),
    }
    return {label: text for label, text in lines.items() if text}


def _said(run: Run, label: str, key: str) -> str:
    """What the change of the model that `key` asks for said, without the `label` before it."""
    return "; ".join(line.removeprefix(f"{label}: ") for line in told(run.model, key))


def _micro_batches(run: Run) -> str:
    train = run.recipe.train
    if run.group is None:
        return f"{counted(train.accumulation, 'micro-batch', 'micro-batches')} of {train.micro_batch_size}"
    fewest, more = divmod(train.global_batch_size, run.group.size)
    rows = f"{fewest} or {fewest + 1}" if more else str(fewest)
    return f"{rows} on each of {run.group.size} processes, in micro-batches of {train.micro_batch_size}"


def _ranks(run: Run) -> str:
    if run.group is None:
        return ""
    told = "; fsdp, weights and states in parts" if run.group.sharded else ""
    saved = ", checkpoints too" if run.recipe.parallel.checkpoints == "parts" else ""
    return f"{run.group.size} processes, {run.group.backend}{told}{saved}; {size(_sent(run).total())} sent a step"


def parallel(run: Run) -> dict[str, Any]:
    """What run.json says of the processes, with the bytes that each gives into an ordinary step's collectives."""
    if run.group is None:
        return {"mode": "one process", "ranks": 1}
    sent = {kind: count for kind, count in _sent(run).items() if count}
    return {
        "mode": "fsdp" if run.group.sharded else "ddp",
        "ranks": run.group.size,
        "backend": run.group.backend,
        "sent_bytes_per_step": sent,
    }


def _sent(run: Run) -> Counter[str]:
    """Bytes by kind, of a step that finds no subspace."""
    train, group = run.recipe.train, run.group
    if group is None or not group.sharded:
        return traffic(run.optimizer)
    micro_batches = -(-(train.global_batch_size // group.size) // train.micro_batch_size)
    gathered = units(run.model, outermost_blocks(run.model), run.optimizer)
    return parted_traffic(run.optimizer, gathered, group.size, micro_batches)


def notes(run: Run) -> list[str]:
    """What a person should know of the run before they wait for it."""
    recipe = run.recipe
    found = clamped_ranks(run.optimizer) if recipe.optim.method == "galore" else adapter_notes(run)
    return [
        *found,
        *left_full_rank(run.optimizer, recipe.optim.target_modules),
        *whole_gradients(run.optimizer, recipe),
        *_one_subspace(run),
        *_slow_adapters(run.recipe.optim),
        *_cut_off(run),
        *_rows_of_no_token(run),
        *_new_tokens(run),
        *([] if run.router is not None else router_note(run.recipe, run.model)),
        *remarks(run.data.summary),
    ]


def _cut_off(run: Run) -> list[str]:
    """A note where one document a row leaves most of the tokens out, from 1 % on."""
    data, summary = run.recipe.data, run.data.summary
    tokens, rows = (summary.get("tokens") or {}).get("train"), run.data.num_sequences
    if data.packing != "paper" or tokens is None or rows is None:
        return []
    cut = tokens - rows * data.max_length
    if cut <= tokens // 100:
        return []
    return [
        f"data.packing: paper keeps the first {data.max_length} tokens of each document: {cut / tokens:.0%} of {tokens:,} "
        "tokens are left out at least; data.packing=packed trains on all"
    ]


def _rows_of_no_token(run: Run) -> list[str]:
    """A note where a new model's embedding has more than twice the rows that the tokenizer has ids."""
    known, asked = id_bound(run.data.tokenizer), run.recipe.model.vocab_size
    if asked is None or run.recipe.model.name_or_path is not None or asked <= 2 * known:
        return []
    return [f"the embedding has {asked:,} rows, the tokenizer {known:,} ids: model.vocab_size=null makes as many"]


def _new_tokens(run: Run) -> list[str]:
    """What became of the tokens that the recipe adds, and what is trained for them beside adapters."""
    named, ids = run.recipe.model.new_tokens, sorted(run.data.summary.get("new_tokens", {}).values())
    if not named:
        return []
    which = f"{counted(len(ids), 'id')} from {ids[0]} on" if ids else "the tokenizer has them all"
    if run.recipe.model.name_or_path is None or run.recipe.model.random_init:
        return [f"model.new_tokens: {which}; their rows are drawn like all others"]
    optim = run.recipe.optim
    beside = "; embedding and head are trained in full beside the adapters, unless adapted"
    beside *= optim.method == "lora" and optim.adapter != "factors"
    return [f"model.new_tokens: {which}; rows that are new start at the mean of the others{beside}"]


def _one_subspace(run: Run) -> list[str]:
    """A note for a run that is over before its subspaces have changed twice."""
    gap = run.recipe.optim.update_proj_gap
    if not run.optimizer.projected or 2 * gap <= run.total_steps:
        return []
    tenth = run.total_steps // 10
    fix = f"; optim.update_proj_gap={tenth} is a tenth of the run" if tenth else ""
    return [f"subspaces are refreshed every {counted(gap, 'step')}, and the run has {run.total_steps:,}{fix}"]


def _slow_adapters(optim: OptimSection) -> list[str]:
    """A note on adapters at a rate of whole weights, as where a recipe was of another method."""
    if optim.method != "lora" or optim.learning_rate > RATE_OF_WHOLE_WEIGHTS:
        return []
    usual = f"{ADAPTED * optim.learning_rate:g}"
    return [
        f"optim.learning_rate {optim.learning_rate:g} is one of whole weights, and adapters learn at ten times as much mostly: "
        f"optim.learning_rate={usual}"
    ]


def adapter_notes(run: Run) -> list[str]:
    """What to say of adapters whose rank was clamped."""
    if run.recipe.optim.method != "lora":
        return []
    base = without_adapters(run.model)
    ranks = adapter_ranks(base, run.recipe.optim)
    layers = (".base_layer", ".factor_b")  # one of each adapted layer
    adapted = {name.rpartition(".")[0]: rank for name, rank in ranks.items() if name.endswith(layers)}
    note = clamp_note(adapted, int(run.recipe.optim.rank))
    apart = not_adapted(base, run.recipe.optim)
    left_out = f"no adapters on {', '.join(apart)}: embeddings are frozen, the head is trained in full"
    return [*([note] if note else []), *([left_out] if apart else [])]


def facts(run: Run, name: str) -> dict[str, Any]:
    """The content of run.json at the start of a run."""
    return {
        "name": name,
        "command": masked_command(sys.argv),
        "started": now(),
        "versions": {"python": platform.python_version(), "galore": galore.__version__}
        | {package: _version(package) for package in PACKAGES},
        "task": run.recipe.data.task,
        "method": described(run.recipe.optim),
        "device": {"name": _device(run), "type": run.device.type},
        "notes": notes(run),
        "data": run.data.summary,
        "warnings": alarms(run.data.summary),
        "kernels": run.kernels,
        "parameters": [asdict(row) for row in parameter_table(run.model, run.optimizer)],
        "total_steps": run.total_steps,
        "parallel": parallel(run),
        "resumes": [],
    }


def now() -> str:
    """UTC time, ISO 8601, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _projected(run: Run) -> str:
    slots: list[ProjectedSlot] = run.optimizer.projected
    if not slots:
        return "nothing"
    count = sum(slot.parameter.numel() for slot in slots)
    return f"{counted(len(slots), 'matrix', 'matrices')}, {counted(count, 'parameter')}, under {', '.join(run.recipe.optim.target_modules)}"


def _kernels(device: torch.device) -> str:
    """Who computes, in a few words. Operations and their reasons are in run.json, what could run in `galore doctor`."""
    named, against = os.environ.get(ENVIRONMENT, "auto"), unavailable(device)
    if named != "auto":
        return f"{named} ({ENVIRONMENT} asks for it)"
    if device.type == "cpu":
        return "torch (CPU)"
    return f"torch (CUDA; {against})" if against else "triton (CUDA), and torch where that is as fast"


def data_line(summary: dict[str, Any]) -> str:
    """`packaged: 1,171 documents, 1,134,514 tokens; held out 18 documents, 17,649 tokens; bad rows 3`."""
    documents, tokens = summary.get("documents", {}), summary.get("tokens", {})
    what = "example" if "truncated_examples" in summary else "document"
    parts = [
        f"{side}{counted(documents[key], what)}, {counted(tokens.get(key, 0), 'token')}"
        for key, side in (("train", ""), ("validation", "held out "))
        if isinstance(documents, dict) and key in documents
    ]
    parts += _examples(summary)
    bad = [_bad(kind, entry) for kind, entry in summary.get("bad_rows", {}).items()]
    parts += [f"bad rows: {', '.join(bad)}"] if bad else []
    return f"{summary['source']}: {'; '.join(parts)}"


def _bad(kind: Any, entry: dict[str, Any]) -> str:
    """`2 missing_field, first chat.jsonl:17`."""
    where, apart, _ = entry.get("first", "").partition(f": {MEANING.get(kind, kind)}")
    return f"{entry['rows']:,} {kind}" + (f", first {shown(Path(where).name)}" if apart else "")


def _examples(summary: dict[str, Any]) -> list[str]:
    """What became of instruction data: `1,204 examples in 310 sequences, 45,113 targets, 12 truncated, 3 dropped`."""
    train, targets = summary.get("train", {}), summary.get("targets", {})
    if "examples" not in train:
        return []
    words = [
        f"{counted(train['examples'], 'example')} in {counted(train['sequences'], 'sequence')}",
        counted(targets["train"], "target"),
    ]
    for what in ("truncated", "dropped"):
        count = train[f"{what}_examples"]
        words += [f"{count:,} {what}: longer than data.max_length"] if count else []
    if lost := train.get("cut_maps"):
        words += [f"{lost:,} without their map: its codes, or all that is said of them, are cut off"]
    return [", ".join(words)]


def _peak(peak: Peak) -> str:
    if peak.flops_per_second is None:
        return f"unknown: {peak.note}"
    return f"{peak.flops_per_second / 1e12:.2f} TFLOP/s{f' of {peak.of}' if peak.of else ''}, {peak.basis}"


def _share_of(peak: Peak) -> str:
    """The peak that MFU is the share of, where products in 8 bits may pass it."""
    return f"; MFU is the share of the {peak.of} peak, which they may pass" if peak.of else ""


def _device(run: Run) -> str:
    if run.device.type == "cuda":
        return torch.cuda.get_device_name(run.device)
    return f"CPU, {cpu_name()}, {torch.get_num_threads()} of {counted(os.cpu_count() or 1, 'thread')}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
