"""What q-galore-torch does beside GaLore, each claim measured and then measured without its cause: `python bench/q_galore.py`.

    pip install --no-deps q-galore-torch==1.0   (extra `references`)

Lazy refresh: the gap doubles when the mean cosine of five refreshes reaches 0.4, of the first singular vector with its sign.
INT4 projector: codes from a group's minimum to its maximum with an integer zero point that cannot lie outside of them.
INT8 weights: dequantized to the gradient's bf16, updated there, and only then rounded stochastically to the codes. The
statement of it below gives the same codes in bf16, bit for bit, and the same arithmetic is then done in fp32.
bitsandbytes' functions have changed their arguments since; its 32-bit Adam stands in their place in four lines.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import q_galore_torch
import torch
from q_galore_torch import q_galore_projector
from q_galore_torch.q_galore_projector import GaLoreProjector
from torch import Tensor, nn

from galore.kernels.ops.compressed import compress, expand
from galore.kernels.subspace import overlap
from galore.trainer.optim import GaLoreAdamW

M, N, RANK, GROUP = 96, 64, 8, 128
REFRESHES, STEPS = 60, 300
BETAS, EPS, ALPHA = (0.9, 0.999), 1e-8, 0.25
DRAW = torch.Generator().manual_seed(0)


def normal(*size: int) -> Tensor:
    return torch.randn(size, generator=DRAW)


def orthonormal(start: Tensor) -> Tensor:
    q: Tensor = torch.linalg.qr(start).Q
    return q


def turning_signs() -> Iterator[Tensor]:
    """G and -G in turn: one subspace, whose vectors LAPACK gives another sign each time."""
    g = normal(M, RANK) @ normal(RANK, N)
    for step in range(REFRESHES):
        yield g if step % 2 else -g


def one_vector_stays() -> Iterator[Tensor]:
    """The leading right singular vector stays and the other seven are drawn anew each time."""
    left, first, values = orthonormal(normal(M, RANK)), normal(N, 1), torch.linspace(4, 1, RANK)
    for _ in range(REFRESHES):
        yield left * values @ orthonormal(torch.cat([first, normal(N, RANK - 1)], 1)).mT


def lazy(gradients: Iterator[Tensor], signed: bool) -> tuple[int, float]:
    """(subspaces that q-galore's projector found for as many gradients, mean overlap of one with the next)."""
    cosine, functional = torch.nn.functional.cosine_similarity, q_galore_projector.F
    functional.cosine_similarity = cosine if signed else lambda *args, **options: cosine(*args, **options).abs()
    projector, every, overlaps = GaLoreProjector(RANK, update_proj_gap=1), [], []
    for step, gradient in enumerate(gradients):
        projector.project(gradient, step)
        every.append(torch.linalg.svd(gradient).Vh[:RANK].mT)
    functional.cosine_similarity = cosine
    overlaps = [overlap(old, new).item() for old, new in itertools.pairwise(every)]
    return projector.svd_count, sum(overlaps) / len(overlaps)


def kept(p: Tensor) -> tuple[Tensor, int]:
    """P as q-galore keeps it in 4 bits, and the bytes it takes."""
    codes, scales, zeros, shape = GaLoreProjector(RANK)._quantize(p, q_group_size=GROUP, n_bit=4)
    nbytes = codes.nbytes + scales.nbytes + zeros.nbytes
    return (scales * (codes.float() - zeros)).view(shape), nbytes


def asymmetric(p: Tensor, clamped: bool) -> Tensor:
    """A statement of `kept`; the zero point among the codes, or wherever it has to be."""
    groups = p.reshape(-1, GROUP)
    low = groups.amin(1, keepdim=True)
    scales = (groups.amax(1, keepdim=True) - low).clamp(min=1e-5) / 15
    zeros = -torch.round(low / scales)
    zeros = zeros.clamp(0, 15) if clamped else zeros
    return (((groups / scales).round() + zeros).clamp(0, 15) - zeros).mul(scales).view(p.shape)


def projector_row(name: str, p: Tensor) -> list[str]:
    (other, nbytes), stored = kept(p), compress(p, 4)
    assert torch.equal(other, asymmetric(p, clamped=True)), "the statement is not what the package does"
    found = (other, asymmetric(p, clamped=False), expand(stored, p.shape, p.dtype))
    errors = [f"{((x - p).norm() / p.norm()).item():.1%}" for x in found]
    return [name, str(nbytes), *errors[:2], str(sum(t.nbytes for t in stored.values())), errors[2]]


class TheirAdam(q_galore_torch.QGaLoreAdamW8bit):  # type: ignore[misc]
    def update_step(self, group: dict[str, Any], p: Tensor, *_: Any, flag_use_float_grad: bool = False) -> None:
        state = self.state[p]
        state["step"] += 1
        n = adam(p.float_grad.float(), state["state1"], state["state2"], state["step"])  # type: ignore[attr-defined]
        p.data.copy_(-group["lr"] * n)


def adam(grad: Tensor, m: Tensor, v: Tensor, step: int) -> Tensor:
    m.lerp_(grad, 1 - BETAS[0])
    v.mul_(BETAS[1]).addcmul_(grad, grad, value=1 - BETAS[1])
    return m / (1 - BETAS[0] ** step) / ((v / (1 - BETAS[1] ** step)).sqrt() + EPS)


class Codes:
    """A weight in unsigned 8-bit codes, GROUP to a scale; `dtype` is that of all arithmetic."""

    def __init__(self, value: Tensor, dtype: torch.dtype) -> None:
        self.shape, self.dtype = value.shape, dtype
        self.write(value.to(dtype), stochastic=False)

    def write(self, value: Tensor, stochastic: bool = True) -> None:
        groups = value.reshape(-1, GROUP)
        low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
        self.scales = (high - low).clamp(min=1e-5) / 255
        self.zeros = (-torch.round(low / self.scales)).clamp(0, 255)
        exact = groups / self.scales
        rounded = exact.floor() + (torch.rand_like(exact) < exact - exact.floor()) if stochastic else exact.round()
        self.codes = (rounded + self.zeros).clamp(0, 255).to(torch.uint8)

    def read(self) -> Tensor:
        return ((self.codes.to(self.dtype) - self.zeros) * self.scales).view(self.shape)


def gradient_sequence() -> list[Tensor]:
    constant = normal(M, RANK) @ normal(RANK, N)
    return [(constant + normal(M, N)).bfloat16() for _ in range(STEPS)]


def packaged(start: Tensor, lr: float) -> Callable[[Tensor], Tensor]:
    """One step of the package on an INT8 weight -> the weight's codes and, as its attributes, scales and zeros."""
    codes = Codes(start, torch.bfloat16)
    weight: Any = nn.Parameter(codes.codes.view(M, N), requires_grad=False)
    weight.scales, weight.zeros, weight.group_size, weight.stochastic_round = codes.scales, codes.zeros, GROUP, True
    group = {"params": [weight], "rank": RANK, "update_proj_gap": 10**6, "scale": ALPHA, "proj_type": "std"}
    group |= {"quant": False, "quant_group_size": GROUP, "quant_n_bit": 4}
    group |= {"cos_threshold": 0.4, "gamma_proj": 2, "queue_size": 5}
    optimizer = TheirAdam([group], lr=lr, eps=EPS, weight_decay=0.0)

    def step(gradient: Tensor) -> Tensor:
        weight.float_grad = gradient.clone()
        optimizer.step()
        return weight

    return step


def arrived(moved: Tensor, intended: Tensor) -> str:
    """Share of the intended movement that is in the movement, and the error beside it."""
    share = (moved.double() * intended).sum() / intended.square().sum()
    return f"{share:.1%} | {((moved - intended).norm() / intended.norm()).item():.2f}"


def int8_weights(lr: float) -> list[list[str]]:
    """Rows of the table of weights."""
    start, gradients = 0.02 * normal(M, N), gradient_sequence()
    p = torch.linalg.svd(gradients[0].float(), full_matrices=False).Vh[:RANK].mT.bfloat16()
    theirs, half, single = packaged(start, lr), Codes(start, torch.bfloat16), Codes(start, torch.float32)
    origins, same = [half.read().double(), single.read().double()], True
    m, v, intended = torch.zeros(M, RANK), torch.zeros(M, RANK), torch.zeros(M, N, dtype=torch.float64)
    for step, gradient in enumerate(gradients, 1):
        n = adam((gradient @ p).float(), m, v, step)
        intended -= lr * ALPHA * (n.double() @ p.double().mT)
        for codes in (half, single):
            torch.manual_seed(step)
            codes.write(codes.read() + (-lr * n).to(codes.dtype) @ p.to(codes.dtype).mT * ALPHA)
        torch.manual_seed(step)
        same &= torch.equal(theirs(gradient).data.view(-1, GROUP), half.codes)
    label = f"INT8, q-galore-torch; statement of it in bf16 has {'the same' if same else 'OTHER'} codes"
    return [
        [f"{lr:.0e}", label, arrived(half.read().double() - origins[0], intended)],
        [f"{lr:.0e}", "the same statement in fp32", arrived(single.read().double() - origins[1], intended)],
        [f"{lr:.0e}", "ours, bf16 weights", bf16_weights(start, gradients, lr)],
    ]


def bf16_weights(start: Tensor, gradients: list[Tensor], lr: float) -> str:
    moved = []
    for dtype in (torch.float32, torch.bfloat16):
        weight = nn.Parameter(start.bfloat16().to(dtype))
        group = {"params": [weight], "rank": RANK, "update_proj_gap": 10**6, "proj_type": "svd", "scale": ALPHA}
        optimizer, origin = GaLoreAdamW([group], lr=lr, stagger=False), weight.detach().double()
        for gradient in gradients:
            weight.grad = gradient.to(dtype)
            optimizer.step()
        moved.append(weight.detach().double() - origin)
    return arrived(moved[1], moved[0])


def main() -> None:
    torch.set_num_threads(1)
    torch.cuda.synchronize = lambda *_: None  # type: ignore[assignment]
    print(
        f"| lazy refresh, {REFRESHES} gaps | mean overlap | subspaces found | with the sign left out |\n|---|---|---|---|"
    )
    for case in (turning_signs, one_vector_stays):
        found, common = lazy(case(), signed=True)
        print(f"| {(case.__doc__ or '').strip('.')} | {common:.2f} | {found} | {lazy(case(), signed=False)[0]} |")
    heads = "P (512, 128) in 4 bits | bytes | error | error, free zero point | ours, bytes | error"
    print(f"\n| {heads} |\n|{'---|' * 6}")
    cases = {"orthonormal": orthonormal(normal(512, 128)), "entries of one sign": 0.04 * (1 + 0.1 * normal(512, 128))}
    for name, p in cases.items():
        print(f"| {' | '.join(projector_row(name, p))} |")
    print(f"\n| learning rate | weights, {STEPS} steps | of the update arrives | error |\n|---|---|---|---|")
    for lr in (1e-3, 1e-4, 1e-5):
        for cells in int8_weights(lr):
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
