"""Products in 8 bits on the card: errors beside float64, each shape beside bf16, and whole steps of 350M, 1B and 7B."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import turns

from gpu.records import Records
from gpu.scale import BATCH, Scale

LAYERS = ((4096, 4096), (11008, 4096), (4096, 11008))  # of LLaMA-7B
TOKENS = 8192
ERRORS = {"int8": (0.02, 0.06), "fp8": (0.05, 0.09)}  # of forward and input gradient, relative, of random numbers
FORMATS = {f"products in {name}": (f"train.matmul={name}",) for name in ("bf16", "int8", "fp8")}


@dataclass(frozen=True)
class Size:
    """A recipe, settings, sequences per step and per micro-batch, steps of a turn."""

    recipe: str
    settings: tuple[str, ...]
    rows: int
    micro: int
    block: int


CODES = ("optim.weight_dtype=int8",)
SIZES = (
    Size("llama-350m-galore-8bit", CODES, 64, 32, 4),
    Size("llama-1b-galore-8bit", CODES, 32, 16, 3),
    Size("llama-7b-24gb", CODES, 4, 2, 1),
)
TINY = (Size("llama-60m-galore", CODES, 2, 1, 1),)


def prove(scale: Scale, records: Records) -> None:
    for m, n in scale.sizes(LAYERS, ((48, 96),)):
        _product(m, n, 16 if scale.rehearsal else TOKENS, scale, records)
    for size in scale.sizes(SIZES, TINY):
        steps(size, FORMATS, scale, records)


def _product(m: int, n: int, tokens: int, scale: Scale, records: Records) -> None:
    """Forward and input gradient of a layer, its weight in int8 codes: errors, and times beside bf16 as it runs now."""
    import torch

    from galore.kernels.ops.int8 import dequantize, quantize
    from galore.kernels.ops.matmul.draws import Draws
    from galore.kernels.ops.matmul.formats import FORMATS as EIGHT
    from galore.kernels.ops.matmul.products import EightBit

    torch.manual_seed(0)
    codes, scales = quantize(torch.randn(m, n, device=scale.device) * 0.02)
    x, dy = (torch.randn(tokens, each, device=scale.device, dtype=torch.bfloat16) for each in (n, m))
    w = dequantize(codes, scales, torch.bfloat16)
    exact = x.double() @ w.double().mT, dy.double() @ w.double()
    plain = seconds(lambda: (x @ dequantize(codes, scales, x.dtype).mT, dy @ dequantize(codes, scales, x.dtype)), scale)
    for name, form in EIGHT.items():
        products = EightBit(form, Draws(0))
        found = products.forward(x, codes, scales), products.input_gradient(dy, codes, scales)
        y, dx = (float((got.double() - of).norm() / of.norm()) for got, of in zip(found, exact, strict=True))
        held = y <= ERRORS[name][0] and dx <= ERRORS[name][1]
        records.note(f"{name} {m}×{n}, {tokens} tokens: relative errors", ok=held, forward=y, input_gradient=dx)
        taken = seconds(lambda of=products: (of.forward(x, codes, scales), of.input_gradient(dy, codes, scales)), scale)  # type: ignore[misc]
        flops = 4.0 * m * n * tokens
        records.note(
            f"{name} {m}×{n}, {tokens} tokens: both products",
            microseconds=1e6 * taken,
            of_bf16=1e6 * plain,
            ratio=plain / taken,
            tflops=flops / taken / 1e12,
        )


def seconds(call: Callable[[], Any], scale: Scale) -> float:
    import torch

    from galore.kernels.predict.measure import cuda_timer

    return 1e-3 if scale.rehearsal else cuda_timer(torch.device("cuda", torch.cuda.current_device()))(call)


def tasks(size: Size, choices: Mapping[str, tuple[str, ...]], scale: Scale) -> Iterator[tuple[str, turns.Task]]:
    """What each choice trains."""
    settings = (*size.settings, "optim.update_proj_gap=10000", *scale.tiny(but=BATCH))
    for name, more in choices.items():
        yield name, turns.Task(size.recipe, size.rows, size.micro, 10_000, scale.device, (*settings, *more))


def steps(size: Size, choices: Mapping[str, tuple[str, ...]], scale: Scale, records: Records) -> None:
    """Whole steps of a recipe with each of the choices, the first of which the others are compared with."""
    found = {}
    for name, task in tasks(size, choices, scale):
        side = turns.Child("ours", task, scale.environment())
        try:
            side.take(2)  # compilation, the first decomposition
            found[name] = median(side.take(size.block) for _ in range(scale.turns(3)))
        except RuntimeError as error:
            records.note(f"{size.recipe}, {name}: {error}", ok=False)
        finally:
            side.end()
    first = found.get(next(iter(choices)))
    for name, rate in found.items():
        faster = {"of_first": rate / first} if first else {}
        records.note(f"{size.recipe}, {name}: tokens per second", median=rate, **faster)
