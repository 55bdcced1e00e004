"""How far an orthogonalized update turns when its momentum is kept in few bits: formats of 4 bits on gradients of a run.

    python bench/momentum.py DATA [--steps 60] [--seed 1]

DATA as `bench/quality.py` takes it. NorMuon trains its model at full rank; the gradients of every fifth matrix are averaged
again with each format between the steps, and the cosine of the update to that of an exact momentum is its mean over the last
eight steps. Beside it the error of what is orthogonalized.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import quality
import torch
from torch import Tensor

from galore.kernels.ops.compressed import compress, expand
from galore.kernels.ops.sixteen import decode, encode_
from galore.kernels.rules.orthogonalize import momentum_, orthogonalize
from galore.kernels.storage import sixteen
from galore.trainer.optim.parts.inner import NormuonInner

MOMENTUM, LAST = 0.8, 8
BELOW = (-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.09105)
ABOVE = (0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.562617, 0.7229568, 1.0)
Format = Callable[[Tensor], Tensor]


def by_groups(x: Tensor) -> Tensor:
    """15 steps of a seventh of the largest of 128 numbers, as projectors are kept."""
    return expand(compress(x, 4), x.shape, torch.float32)


def by_nf4(x: Tensor) -> Tensor:
    """The values of QLoRA's NF4 (arXiv 2305.14314), by the largest of 128 numbers."""
    values = torch.tensor([*BELOW, 0.0, *ABOVE])
    groups = torch.nn.functional.pad(x.reshape(-1), (0, -x.numel() % 128)).view(-1, 128)
    largest = groups.abs().amax(1, keepdim=True).clamp_min(1e-30)
    found = values[torch.bucketize(groups / largest, (values[1:] + values[:-1]) / 2)] * largest
    return found.view(-1)[: x.numel()].view_as(x)


def of_one_size(further: Format) -> Format:
    """Another format behind the division by sizes of rows and columns."""

    def kept(x: Tensor) -> Tensor:
        rows, columns = sixteen.sizes(x)
        return further(x / rows[:, None] / columns) * rows[:, None] * columns

    return kept


def by_sixteen(x: Tensor) -> Tensor:
    codes, rows, columns = torch.empty(len(x), x.shape[1] // 2, dtype=torch.uint8), x[:, 0].clone(), x[0].clone()
    encode_(codes, rows, columns, x)
    return decode(codes, rows, columns)


FORMATS: dict[str, Format] = {
    "15 steps, groups of 128": by_groups,
    "NF4, groups of 128": by_nf4,
    "rows and columns of one size, then 15 steps, groups of 128": of_one_size(by_groups),
    "rows and columns of one size, then NF4, groups of 128": of_one_size(by_nf4),
    "rows and columns of one size, sixteen values (`kernels/storage/sixteen.py`)": by_sixteen,
}


def gradients(data: Path, steps: int, seed: int) -> list[list[Tensor]]:
    """What every fifth matrix is given in each step, bf16."""
    seen: dict[int, list[Tensor]] = defaultdict(list)
    own = NormuonInner.direction

    def direction(self: NormuonInner, gradient: Tensor, grad_scale: float, dtype: torch.dtype) -> Tensor:
        seen[id(self)].append((gradient * grad_scale).bfloat16())
        return own(self, gradient, grad_scale, dtype)

    NormuonInner.direction = direction  # type: ignore[method-assign]
    quality.run(data, f"normuon:optim.momentum={MOMENTUM}", 0.02, 0.4, steps, seed)
    return [*seen.values()][::5]


def turned(given: list[Tensor], kept: Format) -> tuple[float, float]:
    """(cosine of updates, error of what is orthogonalized) in the last steps."""
    exact = torch.zeros(given[0].shape)
    held, cosines, errors = exact.clone(), [], []
    for step, each in enumerate(given):
        wanted, found = (momentum_(buffer, each.float(), MOMENTUM) for buffer in (exact, held))
        held = kept(held)
        if step >= len(given) - LAST:
            a, b = orthogonalize(wanted), orthogonalize(found)
            cosines.append(float((a * b).sum() / a.norm() / b.norm()))
            errors.append(float((found - wanted).norm() / wanted.norm()))
    return mean(cosines), mean(errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    found = gradients(options.data.resolve(), options.steps, options.seed)
    print("| 4 bits | cosine of updates | error of the momentum |\n|---|---|---|")
    for name, kept in FORMATS.items():
        cosines, errors = zip(*(turned(each, kept) for each in found), strict=True)
        print(f"| {name} | {mean(cosines):.3f} ({min(cosines):.3f}–{max(cosines):.3f}) | {mean(errors):.3f} |")


if __name__ == "__main__":
    main()
