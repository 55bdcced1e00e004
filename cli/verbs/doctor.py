"""`galore doctor`: what is here, what will run, and why not the rest."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Versions, processor, GPU and driver, which attention and kernels will run and why, free disk."""
    from galore.cli.show.machine import examine

    found = examine()
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for title, lines in sections(found):
        typer.secho(title, bold=True)
        for line in lines:
            typer.echo(f"  {line}")


def sections(found: dict[str, Any]) -> Iterable[tuple[str, list[str]]]:
    """Titles and lines, from what `examine` found."""
    from galore.trainer.common.format import size

    yield (
        "Versions",
        _aligned((name, version["installed"] or version["fix"]) for name, version in found["versions"].items()),
    )
    cpu = found["cpu"]
    cores = f"{cpu['cores']} cores, {size(cpu['memory_bytes'])} of memory"
    yield "Processor", [cpu["name"], cores, f"bfloat16: {cpu['bfloat16']}"]
    yield "GPU", [_gpu(gpu) for gpu in found["gpus"]] or [found["no_gpu"]]
    yield "Attention", _aligned((each["name"], _can(each["available"], each["reason"])) for each in found["attention"])
    yield "Kernels", _aligned((each["op"], f"{each['path']}: {each['why']}") for each in found["kernels"])
    yield (
        "Free disk",
        _aligned((each["what"], f"{size(each['free_bytes'])} at {each['path']}") for each in found["disk"]),
    )


def _gpu(gpu: dict[str, Any]) -> str:
    from galore.trainer.common.format import size

    memory = f"{size(gpu['free_bytes'])} of {size(gpu['memory_bytes'])} free"
    capability = f"compute capability {gpu['compute_capability']}"
    return f"{gpu['name']}, {memory}, {capability}, driver {gpu['driver'] or 'unknown'}, CUDA {gpu['cuda']}"


def _can(available: bool, reason: str) -> str:
    return f"yes: {reason}" if available else f"no: {reason}"


def _aligned(pairs: Iterable[tuple[str, str]]) -> list[str]:
    known = list(pairs)
    width = max((len(name) for name, _ in known), default=0)
    return [f"{name:<{width}}  {text}" for name, text in known]
