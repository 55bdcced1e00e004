"""How fast and how good bases are: `python bench/subspace.py 1024x2736 256 [features|model]` prints one Markdown table.

features  G = δᵀ x of a random-feature model whose singular values fall as j^-0.7; the warm start has 0.9 of it beside
          noise of the same spectrum
model     G of a linear layer of a small LLaMA (one block as wide as the shape says, bytes of the packaged text), after
          12 and, for the warm start, 8 steps of training

Captured is ‖Pᵀ G‖² / ‖U_rᵀ G‖². Seconds are CPU seconds of one thread: waiting for other processes does not count.
LAPACK may take twice as long for a matrix as for its transpose, so both are there.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from galore.kernels.dct import dct_matrix, top_columns
from galore.kernels.subspace import gaussian, power_basis, range_basis, seeded_basis
from galore.kernels.subspace import randomized_basis as randomized
from galore.kernels.subspace import unit_columns as scaled

DECAY, KEPT = 0.7, 0.9
STEPS, EARLIER, ROWS, LENGTH = 12, 8, 8, 512


def features(a: int, b: int) -> tuple[Tensor, Tensor]:
    """(earlier gradient, gradient), a tokens each."""
    scale = torch.arange(1, a + 1).pow(-DECAY)[:, None]
    draw = lambda: (torch.randn(a, a).mT @ (scale * torch.randn(a, b))) / a  # noqa: E731
    earlier = draw()
    return earlier, KEPT * earlier + (1 - KEPT**2) ** 0.5 * draw()


def batch(text: Tensor, rows: int) -> Tensor:
    starts = torch.randint(0, len(text) - LENGTH, (rows, 1))
    return text[starts + torch.arange(LENGTH)]


def model(a: int, b: int) -> tuple[Tensor, Tensor]:
    """(earlier gradient, gradient) of the block's last matrix, or of its output projection where a = b."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from galore.trainer.data.text.packaged import packaged_file

    verses = [json.loads(line)["text"] for line in packaged_file().read_text().splitlines()]
    text = torch.tensor(list("\n".join(verses).encode()))
    sizes = {"hidden_size": a, "intermediate_size": 11008 if a == b else b, "num_hidden_layers": 1}
    net = LlamaForCausalLM(LlamaConfig(vocab_size=256, num_attention_heads=a // 64, **sizes))
    block = net.model.layers[0]
    weight = (block.self_attn.o_proj if a == b else block.mlp.down_proj).weight
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    kept = []
    for step in range(STEPS + 1):
        optimizer.zero_grad()
        for _ in range(ROWS):
            ids = batch(text, 1)
            (net(input_ids=ids, labels=ids).loss / ROWS).backward()
        if step in (EARLIER, STEPS):
            kept.append(weight.grad.clone())
        optimizer.step()
    return kept[0], kept[1]


def cholesky_basis(y: Tensor, rank: int) -> Tensor:
    """`range_basis` by CholeskyQR2 (Fukaya et al. 2014): products and r×r factors; by Householder QR where it would fail.

    The second pass is exact to rounding if the first one left a Gram matrix near the identity, which is what is tested.
    """
    once, _ = cholesky_pass(scaled(y, y.shape[1]).p)
    twice, gram = cholesky_pass(once)
    near_identity = bool((gram - torch.eye(gram.shape[0])).norm() < 0.5)  # false for nan
    return twice[:, :rank].contiguous() if near_identity else range_basis(y, rank).p


def cholesky_pass(y: Tensor) -> tuple[Tensor, Tensor]:
    """Q = Y R⁻¹ with RᵀR = YᵀY, and YᵀY."""
    gram = y.mT @ y
    r = torch.linalg.cholesky_ex(gram, upper=True).L
    return torch.linalg.solve_triangular(r, y, upper=True, left=False), gram


def methods(g: Tensor, earlier: Tensor, rank: int) -> dict[str, Callable[[], Tensor]]:
    a, b, tall = *g.shape, g.mT.contiguous()
    omega, warm, half = gaussian(b, rank, 0, g), randomized(earlier, rank, gaussian(b, rank, 1, g)).p, g.bfloat16()
    row_space = range_basis(earlier.mT @ warm, rank).p
    return {
        "full SVD of (a, b)": lambda: torch.linalg.svd(g, full_matrices=False)[0][:, :rank],
        "full SVD of (b, a)": lambda: torch.linalg.svd(tall, full_matrices=False)[2][:rank].mT,
        "randomized, 2 power iterations": lambda: randomized(g, rank, omega, 2).p,
        "randomized, 1 power iteration": lambda: randomized(g, rank, omega, 1).p,
        "warm power step from P": lambda: power_basis(g, warm, rank).p,
        "the same by CholeskyQR2": lambda: cholesky_basis(g @ cholesky_basis(g.mT @ warm, rank), rank),
        "the same, columns scaled halfway": lambda: power_basis(g, warm, rank, halfway=scaled).p,
        "the same, of a bf16 gradient (`proj_type: power`)": lambda: power_basis(half, warm, rank, halfway=scaled).p,
        "warm half step from Q": lambda: power_basis(g, row_space, rank, side="right").p,
        "the same, of a bf16 gradient": lambda: power_basis(half, row_space, rank, side="right").p,
        "randomized, 2 power iterations, of a bf16 gradient": lambda: randomized(half, rank, omega.bfloat16(), 2).p,
        "the earlier basis itself": lambda: warm,
        "DCT, top columns": lambda: dct_matrix(a, top_columns(g, rank), g),
        "random, orthonormal": lambda: range_basis(seeded_basis(a, rank, 2, g), rank).p,
    }


def table(shape: str, rank: int, source: str) -> None:
    a, b = sorted(map(int, shape.split("x")))
    torch.manual_seed(0)
    torch.set_num_threads(1)
    earlier, g = {"features": features, "model": model}[source](a, b)
    print(
        f"\n{shape}, r = {rank}, {source}\n\n| basis | CPU s | faster than SVD (a, b) | (b, a) | captured | ‖PᵀP - I‖₂ |"
    )
    print("|---|---|---|---|---|---|")
    seconds, best, total = [], 0.0, float(g.square().sum())
    for name, find in methods(g, earlier, rank).items():
        begun = time.process_time()
        p = find()
        seconds.append(max(time.process_time() - begun, 1e-9))
        energy = float((p.mT @ g).square().sum())
        best = best or energy
        far = torch.linalg.matrix_norm(p.mT @ p - torch.eye(rank), 2)
        ratios = [f"{svd / seconds[-1]:,.1f}" if seconds[-1] > 5e-3 else "" for svd in seconds[:2]]
        row = [name, f"{seconds[-1]:.3g}", ratios[0], ratios[-1], f"{energy / best:.2%}", f"{far:.1e}"]
        print(f"| {' | '.join(row)} |", flush=True)
    print(f"\nU_r captures {best / total:.1%} of ‖G‖².", flush=True)


if __name__ == "__main__":
    table(sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "features")
