"""`galore generate`."""

from __future__ import annotations

from typing import Annotated

import typer

from galore.cli.arguments import Chosen, Device, DeviceName, Model, finite
from galore.cli.errors import tell_skipped
from galore.trainer.common.errors import UserError

LONGEST = 1_000_000  # tokens of a continuation
COLDEST = 1e-6  # below it logits overflow


def generate(
    model: Model,
    prompt: Annotated[str, typer.Option(help="The text to continue.", show_default=False)],
    max_new_tokens: Annotated[
        int, typer.Option(min=1, max=LONGEST, help="Length of the continuation, in tokens.")
    ] = 60,
    temperature: Annotated[
        float, typer.Option(min=0.0, max=100.0, callback=finite, help="0 takes the likeliest token each time.")
    ] = 1.0,
    top_p: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, callback=finite, help="Sample among the likeliest tokens with this much probability."
        ),
    ] = 1.0,
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
    refuse_too_cold(temperature)

    from galore.trainer.machine.process import import_libraries, prepare_process

    prepare_process()  # before torch is imported
    import_libraries()

    from galore.trainer.machine.device import choose_device, choose_threads
    from galore.trainer.models.generate import sample
    from galore.trainer.trained.runmodel import load_run_model

    stored = load_run_model(model, str(choose_device(device)), checkpoint)
    tell_skipped(stored.skipped)
    if stored.recipe is not None:
        choose_threads(stored.recipe.train.num_threads)
    typer.echo(
        sample(
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
    )


def refuse_too_cold(temperature: float) -> None:
    """Raise UserError for a temperature whose logits overflow."""
    if 0 < temperature < COLDEST:
        what = f"{temperature:g} is colder than can be computed with"
        raise UserError(what, where="--temperature", fix="write 0 for the likeliest token each time")
