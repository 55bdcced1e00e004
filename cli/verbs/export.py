"""`galore export`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from galore.cli.arguments import Chosen, Model, at_home
from galore.cli.errors import tell_skipped

SIZE = re.compile(r"[1-9]\d{0,5}[KMGT]i?B")


def export(
    model: Model,
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", callback=at_home, help="A folder that does not exist yet.", show_default=False),
    ],
    checkpoint: Chosen = None,
    max_shard_size: Annotated[
        str | None,
        typer.Option(help="Largest file of weights, such as 5GB.", show_default="transformers' own"),
    ] = None,
    ollama: Annotated[bool, typer.Option("--ollama", help="Write a Modelfile for `ollama create`.")] = False,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="TOOLKIT",
            help="To go on with axolotl or torchtitan: its configuration beside the weights, and what it does not say.",
            show_default=False,
        ),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Upload it to this model repository of the hub; HF_TOKEN must be set.",
            show_default=False,
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push: nobody else may read it.")] = False,
    license: Annotated[str, typer.Option(help="Licence in the model card, such as apache-2.0.")] = "",
) -> None:
    """Write a Hugging Face folder: safetensors, configuration and tokenizer; LoRA adapters are merged."""
    if max_shard_size is not None and not SIZE.fullmatch(max_shard_size):
        raise typer.BadParameter(f"{max_shard_size} is no size such as 5GB or 500MB", param_hint="--max-shard-size")
    if private and push is None:
        raise typer.BadParameter("is for what is pushed: add --push NAME", param_hint="--private")
    from galore.trainer.common.format import size
    from galore.trainer.machine.process import import_libraries

    import_libraries()

    from galore.trainer.trained.export import ExportOptions
    from galore.trainer.trained.export import export as write
    from galore.trainer.trained.onward.targets import target_of

    onward = None if recipe is None else target_of(recipe)
    if push is not None:
        from galore.trainer.trained.hub import require_push

        require_push(push)
    name = push.rpartition("/")[2] if push is not None else out.resolve().name
    written = write(model, out, ExportOptions(max_shard_size, ollama, name, license, onward), checkpoint)
    tell_skipped(written.skipped)
    typer.echo(f"{written.folder}: {size(written.bytes)}, from {written.origin}")
    typer.echo(f'{written.loads}.from_pretrained("{written.folder}") loads it')
    if ollama:
        typer.echo(shlex.join(["ollama", "create", _tag(name), "-f", f"{written.folder}/Modelfile"]))
    if written.note:
        typer.echo(written.note, err=True)
    if written.loads == "AutoModelForCausalLM" and written.no_gguf:
        typer.echo(f"no GGUF: {written.no_gguf}")
    elif written.loads == "AutoModelForCausalLM":
        convert = shlex.join(["python", "convert_hf_to_gguf.py", str(written.folder), "--outtype", "auto"])
        typer.echo(f"GGUF, with llama.cpp: {convert}")
    if onward is not None:
        typer.echo(f"{onward.name} {onward.version} goes on with it, in {written.folder}: {onward.command}")
        for line in written.left:
            typer.echo(f"  {line}")
    if push is not None:
        from galore.trainer.trained.hub import push as upload

        typer.echo(f"pushed to {upload(written.folder, push, private)}")


def _tag(name: str) -> str:
    """A name that Ollama takes."""
    return re.sub(r"[^a-z0-9._-]", "-", name.lower()) or "model"
