"""`galore doctor`: what is here, what will run, and why not the rest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

from galore.cli.show.tables import say, say_pairs

Lines = Sequence[str | tuple[str, str]]  # sentences, or names with their texts


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Versions, processor, GPU and driver, which attention and kernels will run and why, free disk."""
    from galore.cli.show.machine import examine
    from galore.trainer.machine.process import is_first

    found = examine()
    if not is_first():
        return
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for title, lines in sections(found):
        say(title, bold=True)
        for line in lines:
            if isinstance(line, str):
                say(f"  {line}", hanging="  ")
        say_pairs((line for line in lines if not isinstance(line, str)), indent="  ")


def sections(found: dict[str, Any]) -> Iterable[tuple[str, Lines]]:
    """Titles and what stands below each, from what `examine` found."""
    from galore.trainer.common.format import counted, size

    yield "Versions", [(name, _version(each)) for name, each in found["versions"].items()]
    cpu = found["cpu"]
    cores = f"{counted(cpu['cores'], 'core')}, {size(cpu['memory_bytes'])} of memory"
    yield "Processor", [cpu["name"], cores, f"bfloat16: {cpu['bfloat16']}"]
    yield "GPU", [_gpu(gpu) for gpu in found["gpus"]] or [found["no_gpu"]]
    yield "Processes", [_ranks(found["ranks"])]
    yield "Attention", [(each["name"], _can(each["available"], each["reason"])) for each in found["attention"]]
    yield "Kernels", [(each["op"], f"{each['path']}: {each['why']}") for each in found["kernels"]]
    yield "Free disk", [(each["what"], f"{size(each['free_bytes'])} at {each['path']}") for each in found["disk"]]


def _version(of: dict[str, str | None]) -> str:
    named = f", distribution {of['distribution']}" if of.get("distribution") else ""
    return f"{of['installed'] or of['fix']}{named}"


def _gpu(gpu: dict[str, Any]) -> str:
    from galore.trainer.common.format import size

    memory = f"{size(gpu['free_bytes'])} of {size(gpu['memory_bytes'])} free"
    capability = f"compute capability {gpu['compute_capability']}"
    return f"{gpu['name']}, {memory}, {capability}, driver {gpu['driver'] or 'unknown'}, CUDA {gpu['cuda']}"


def _ranks(ranks: dict[str, Any]) -> str:
    from galore.trainer.common.format import counted

    if ranks["size"] == 1:
        return "one; torchrun --nproc-per-node=N -m galore train RECIPE starts N that train together"
    return f"{ranks['size']} by torchrun on {counted(ranks['machines'], 'machine')}, {ranks['backend']}: all have met"


def _can(available: bool, reason: str) -> str:
    return f"yes: {reason}" if available else f"no: {reason}"
