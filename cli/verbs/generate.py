"""`galore generate`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from galore.cli.arguments import Chosen, Device, DeviceName, Model, Temperature, TopP, legible
from galore.cli.errors import tell_skipped
from galore.trainer.common.printable import printable

if TYPE_CHECKING:
    from galore.trainer.trained.runmodel import StoredModel

LONGEST = 1_000_000  # tokens of a continuation


def generate(
    model: Model,
    prompt: Annotated[str, typer.Option(callback=legible, help="The text to continue.", show_default=False)],
    max_new_tokens: Annotated[
        int, typer.Option(min=1, max=LONGEST, help="Length of the continuation, in tokens.")
    ] = 60,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    top_k: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="Sample among this many of the likeliest tokens; 0 means all.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same text.")] = 0,
    chat: Annotated[
        bool, typer.Option("--chat", help="Ask in the tokenizer's chat template; a run on instructions does so anyway.")
    ] = False,
    checkpoint: Chosen = None,
    device: Device = DeviceName.auto,
) -> None:
    """Continue a prompt with a trained model."""
    stored = load_to_generate(model, device, checkpoint)

    from galore.trainer.models.generate import sample

    text = sample(
        stored.model,
        stored.tokenizer,
        prompt,
        max_new_tokens=max_new_tokens,
        seed=seed,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        chat=chat or (stored.recipe is not None and stored.recipe.data.instruct),
    )
    typer.echo(printable(text) if sys.stdout.isatty() else text)  # a file has what the model said, to the letter


def load_to_generate(model: str, device: DeviceName, checkpoint: str | None) -> StoredModel:
    """The model, in a process that is prepared for it; what was passed over is told."""
    from galore.trainer.machine.process import import_libraries, prepare_process

    prepare_process()  # before torch is imported
    import_libraries()

    from galore.trainer.machine.device import choose_device, choose_threads
    from galore.trainer.trained.runmodel import load_run_model

    stored = load_run_model(model, str(choose_device(device)), checkpoint)
    tell_skipped(stored.skipped)
    if stored.recipe is not None:
        choose_threads(stored.recipe.train.num_threads)
    return stored
