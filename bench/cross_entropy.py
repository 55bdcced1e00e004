"""The linear cross-entropy against full logits: errors, bytes of logits, seconds. Prints Markdown tables.

    python bench/cross_entropy.py [errors] [predicted] [measured] [time] [--rounds 7] [--threads N]

errors     loss and gradients of both, relative to float64
predicted  bytes of a 7B-like head at 4×2048 tokens and at 2048, from the storages that a traced training step has on a GPU
measured   the same on the CPU, of real tensors at a smaller width
time       forward and backward of both, in turn in one process; medians, and the median of the ratios
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import accumulate

from galore.trainer.machine.process import prepare_process

NOTES = prepare_process()

import torch  # noqa: E402 - after what has to come before it
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

from galore.kernels.device import meta_stands_for  # noqa: E402
from galore.kernels.model.cross_entropy import linear_cross_entropy  # noqa: E402
from galore.trainer.memory.trace.simulate import SimulatedTracer  # noqa: E402
from galore.trainer.memory.trace.trace import Trace  # noqa: E402
from galore.trainer.memory.trace.tracer import Tracer  # noqa: E402

MIB = 2**20
TOKENS = 4 * 2048
VOCABULARIES = (32_000, 128_000)
WIDTH_7B = 4096
DTYPES = (torch.bfloat16, torch.float32)

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def full_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """As transformers has it: all logits, and their fp32 copy."""
    return F.cross_entropy((hidden @ weight.T).float(), targets, reduction="sum")


def our_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """As training calls it: there is nothing to ignore."""
    return linear_cross_entropy(hidden, weight, targets, ignore_index=None)


def case(rows: int, width: int, vocabulary: int, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, ...]:
    if device == "meta":
        hidden, weight = torch.empty(rows, width, device=device), torch.empty(vocabulary, width, device=device)
        return hidden.to(dtype), weight.to(dtype), torch.empty(rows, dtype=torch.int64, device=device)
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, width, generator=draw).to(dtype)
    weight = (torch.randn(vocabulary, width, generator=draw) / width**0.5).to(dtype)
    return hidden, weight, torch.randint(0, vocabulary, (rows,), generator=draw)


def results(loss: Loss, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    hidden, weight = (tensor.detach().clone().requires_grad_() for tensor in inputs[:2])
    value = loss(hidden, weight, inputs[2])
    value.backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    return value.detach(), hidden.grad, weight.grad


def errors() -> None:
    print("\n| V | dtype | of | full | ours | ours to full |\n|---|---|---|---|---|---|")
    for vocabulary in VOCABULARIES:
        for dtype in DTYPES:
            inputs = case(1024, 64, vocabulary, dtype)
            exact = results(full_double, (inputs[0].double(), inputs[1].double(), inputs[2]))
            full, ours = results(full_loss, inputs), results(in_chunks, inputs)
            for name, f, o, e in zip(("loss", "dh", "dW"), full, ours, exact, strict=True):
                found = " | ".join(f"{apart(*pair):.1e}" for pair in ((f, e), (o, e), (o, f)))
                print(f"| {vocabulary} | {str(dtype)[6:]} | {name} | {found} |")


def full_double(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(hidden @ weight.T, targets, reduction="sum")


def in_chunks(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """A small case in as many chunks as a large one has."""
    return linear_cross_entropy(hidden, weight, targets, chunk=28)


def apart(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def predicted() -> None:
    print_bytes("predicted for a GPU", WIDTH_7B, "meta")
    print_bytes("predicted for a GPU", WIDTH_7B, "meta", tokens=2048)


def measured() -> None:
    print_bytes("counted on the CPU", 64, "cpu")


def print_bytes(how: str, width: int, device: str, tokens: int = TOKENS) -> None:
    print(f"\nBytes of tensors as wide as the vocabulary at their peak, {how}, {tokens} tokens, d = {width}.")
    print("All: with the weight's gradient and all else the loss makes.\n")
    print(
        "| V | dtype | all bf16/fp32 logits, MiB | full loss | ours | share of the logits | all of full | all of ours |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for vocabulary in VOCABULARIES:
        for dtype in DTYPES:
            logits = tokens * vocabulary * dtype.itemsize
            full, ours = (storages(loss, tokens, width, vocabulary, dtype, device) for loss in (full_loss, our_loss))
            wide = [peak(trace, vocabulary) for trace in (full, ours)]
            whole = [peak(trace, None) for trace in (full, ours)]
            sizes = f"{logits / MIB:.0f} | {wide[0] / MIB:.0f} | {wide[1] / MIB:.1f} | 1/{logits / wide[1]:.1f}"
            both = " | ".join(f"{each / MIB:.0f}" for each in whole)
            print(f"| {vocabulary} | {str(dtype)[6:]} | {sizes} | {both} |", flush=True)


def storages(loss: Loss, tokens: int, width: int, vocabulary: int, dtype: torch.dtype, device: str) -> Trace:
    """What exists when, of one forward and backward; inputs left out."""
    hidden, weight, targets = case(tokens, width, vocabulary, dtype, device)
    tracer = SimulatedTracer() if device == "meta" else Tracer("cpu")
    tracer.label("weights", [hidden, weight, targets])
    with meta_stands_for("cuda"), tracer:
        loss(hidden.requires_grad_(), weight.requires_grad_(), targets).backward()
    return tracer.trace


def peak(trace: Trace, vocabulary: int | None) -> int:
    """Most bytes alive, of tensors (…, vocabulary) or of all that was made."""

    def counts(index: int) -> bool:
        each = trace.allocations[index]
        return each.category != "weights" and vocabulary in (None, *each.shape[-1:])

    signed = ((abs(event) - 1, event > 0) for event in trace.events)
    changes = (trace.allocations[at].nbytes * (1 if born else -1) for at, born in signed if counts(at))
    return max(accumulate(changes))


def timed(rounds: int) -> None:
    print(f"\n{torch.get_num_threads()} threads, medians of {rounds} rounds; seconds of forward and backward\n")
    print("| V | d | tokens | dtype | full | ours | ratio (range) |\n|---|---|---|---|---|---|---|")
    for vocabulary, width, tokens in (
        (32_000, 512, 8192),
        (32_000, 1024, 2048),
        (32_000, 4096, 2048),
        (128_000, 512, 1024),
    ):
        for dtype in DTYPES:
            inputs = case(tokens, width, vocabulary, dtype)
            seconds: dict[Loss, list[float]] = {full_loss: [], our_loss: []}
            for number in range(rounds + 1):
                for loss, found in seconds.items():
                    start = time.perf_counter()
                    results(loss, inputs)
                    found += [time.perf_counter() - start] if number else []  # the first warms up
            full, ours = seconds.values()
            ratios = [o / f for f, o in zip(full, ours, strict=True)]
            medians = f"{statistics.median(full):.2f} | {statistics.median(ours):.2f} | {statistics.median(ratios):.2f}"
            spread = f"({min(ratios):.2f}–{max(ratios):.2f})"
            print(f"| {vocabulary} | {width} | {tokens} | {str(dtype)[6:]} | {medians} {spread} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["errors", "predicted", "measured", "time"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    for note in NOTES:
        print(note)
    parts = {"errors": errors, "predicted": predicted, "measured": measured, "time": lambda: timed(options.rounds)}
    for what in options.what:
        parts[what]()


if __name__ == "__main__":
    main()
