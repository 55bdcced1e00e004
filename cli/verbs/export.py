"""`galore export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from galore.cli.arguments import Chosen, Model
from galore.cli.errors import tell_skipped


def export(
    model: Model,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that does not exist yet.", show_default=False)],
    checkpoint: Chosen = None,
) -> None:
    """Write a Hugging Face folder: safetensors, configuration and tokenizer; LoRA adapters are merged."""
    from galore.trainer.common.format import size
    from galore.trainer.machine.process import import_libraries

    import_libraries()

    from galore.trainer.trained.export import export as write

    written = write(model, out, checkpoint)
    tell_skipped(written.skipped)
    typer.echo(f"{written.folder}: {size(written.bytes)}, from {written.origin}")
    typer.echo(f'{written.loads}.from_pretrained("{written.folder}") loads it')
