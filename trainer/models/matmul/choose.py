"""The format that a run multiplies in: what the recipe says, or for `auto` what is faster on this device."""

from __future__ import annotations

from typing import NamedTuple

import torch

from galore.kernels.device import capability, device_type
from galore.kernels.ops.dispatch import BackendError, Case, choose
from galore.kernels.ops.matmul.format import Format
from galore.kernels.ops.matmul.formats import FORMATS
from galore.trainer.common.errors import UserError

WHERE = "train.matmul"
PREFERRED = "int8"  # of `auto`: as fast as any, with the smaller error, and it reads codes of int8 weights
# Compute capabilities at which bf16 products with fp32 sums run at half their rate or less, and int8 at four times
# that: GeForce cards. Elsewhere int8 is twice bf16, and a library's bf16 product is nearer to its peak.
FASTER = ((8, 6), (8, 9), (12, 0))
ENOUGH = 1024  # tokens of a micro-batch: with fewer, what makes codes of a weight takes what the product spares


class Chosen(NamedTuple):
    """The format, None for the weights' own dtype, and why."""

    form: Format | None
    why: str


def chosen_format(name: str, device: torch.device, tokens: int) -> Chosen:
    """What `train.matmul` means on `device` for micro-batches of so many tokens.

    Raises:
        UserError: the device cannot do what is asked for by name.
    """
    if name == "auto":
        return _automatic(device, tokens)
    if name not in FORMATS:
        return Chosen(None, "")
    form, kind = FORMATS[name], device_type(device)
    if kind == "cpu":
        return Chosen(form, f"CPU, {form.on_cpu}")
    if obstacle := _obstacle(form, device):
        raise UserError(
            f"{name} products cannot run here: {obstacle}",
            where=WHERE,
            fix="write auto, which takes 8 bits where they run and are faster, or bf16",
        )
    return Chosen(form, "Triton")


def _automatic(device: torch.device, tokens: int) -> Chosen:
    form = FORMATS[PREFERRED]
    if device_type(device) == "cpu":
        return Chosen(None, "auto: 8 bits are not faster in whole steps on a CPU")
    if obstacle := _obstacle(form, device):
        return Chosen(None, f"auto: {obstacle}")
    if (of_card := capability(device)) is not None and of_card not in FASTER:
        return Chosen(None, "auto: this card's bf16 products are too fast for 8 bits to gain")
    if tokens < ENOUGH:
        return Chosen(None, f"auto: {tokens} tokens of a micro-batch are too few for 8 bits to gain, {ENOUGH} enough")
    where = "on a GeForce card with Triton" if of_card is None else "Triton: predicted to be faster on this card"
    return Chosen(form, f"auto, {where}")


def _obstacle(form: Format, device: torch.device) -> str:
    """Why the device cannot multiply in that format; "" if it can."""
    try:
        runs = choose(Case(device, "", "one pass"))
    except BackendError as error:
        return str(error)
    if runs.backend != "triton" and device_type(device) != "meta":
        return f"they need Triton's kernels ({runs.why})"
    of_card = capability(device)
    if of_card is not None and of_card < form.capability:
        here, needed = (".".join(map(str, each)) for each in (of_card, form.capability))
        return f"the card's compute capability is {here}, and they need {needed}"
    return ""
