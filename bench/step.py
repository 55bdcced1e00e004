"""One optimizer step on the CPU, projection included, against galore-torch and against plain torch; and steps that refresh.

    chrt -f 1 python bench/step.py [ordinary|backward|refresh] [--rounds 15] [--threads 2]

ordinary  bf16 weights and gradients of LLaMA-1B's shapes, rank 512, no refresh. In one process, in turn:
          ours          GaLoreAdamW: gradients taken over, projected, norm and finite check, fp32 Adam, stochastic rounding
          galore-torch  its GaLoreAdamW; its moments are bf16; handed a random orthonormal P, as its SVD would take minutes
          eager         R = PᵀG, fp32 Adam on R, W.addmm_(P, N), op by op; rounds to nearest, no norm, no check
          products      PᵀG and P N alone, into memory that is there: what no order of work can be faster than
          Medians of the rounds; a ratio is that of the medians, and in brackets the quartiles of the rounds' own ratios.
          Memory: the largest tensor that a step makes, and the most bytes of new tensors at a time; W is m·n·2 bytes.
backward  the same steps, but from 4,096 tokens' inputs and output gradients of linear layers: the weight gradient counts, too.
          Ours projects its factors and never makes it.
refresh   twelve layers (four of d×d, three of ⌈8d/3⌉×d), steps of the default settings with moments at hand. With gap 20
          every step refreshes four or five of the 84 matrices, with gap 200 at most one. galore-torch decomposes all of
          them in the same step: with d = 512 only, as 84 decompositions of the large ones take too long.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
import weakref
from collections.abc import Callable
from typing import Any

from galore.trainer.machine.process import prepare_process

SHAPES = {
    "2048×5461": [(2048, 5461)],
    "5461×2048": [(5461, 2048)],
    "a layer": 4 * [(2048, 2048)] + 3 * [(5461, 2048)],
}
RANK, TOKENS = 512, 4096
LR, ALPHA, BETAS, EPS = 1e-3, 0.25, (0.9, 0.999), 1e-8
NEVER = 10**6
Shapes = list[tuple[int, int]]
Apply = Callable[[], object]
Step = Callable[[], float]  # takes a step and returns its seconds


class Given:
    """Weights, their gradients (one per shape), and orthonormal bases (a, r) (one per shorter side)."""

    def __init__(self, shapes: Shapes, rank: int) -> None:
        import torch

        torch.manual_seed(0)
        self.rank, sides = rank, {side for shape in shapes for side in shape}
        self.grads = {shape: (1e-3 * torch.randn(shape)).bfloat16() for shape in set(shapes)}
        self.bases = {min(s): torch.linalg.qr(torch.randn(min(s), rank)).Q.bfloat16() for s in set(shapes)}
        linear = functools.partial(torch.nn.utils.skip_init, torch.nn.Linear, bias=False, dtype=torch.bfloat16)
        self.layers = torch.nn.ModuleList(linear(n, m) for m, n in shapes)
        self.weights = [torch.nn.init.uniform_(layer.weight, -0.03, 0.03) for layer in self.layers]
        self.tokens = {side: (1e-2 * torch.randn(TOKENS, side)).bfloat16() for side in sides}  # x, and δ as well

    def hand_over(self) -> None:
        for weight in self.weights:
            weight.grad = self.grads[tuple(weight.shape)]

    def forward(self) -> list[Any]:
        return [layer(self.tokens[layer.weight.shape[1]]) for layer in self.layers]

    def backward(self, outputs: list[Any]) -> None:
        for output in outputs:
            output.backward(self.tokens[output.shape[1]])

    def clear(self) -> None:
        for weight in self.weights:
            weight.grad = None


def ours(given: Given, gap: int = NEVER, factored: bool = False) -> Apply:
    import torch

    from galore.trainer.optim import GaLoreAdamW, project_in_backward

    optimizer = GaLoreAdamW([{"params": given.weights, "rank": given.rank, "update_proj_gap": gap}], lr=LR)
    if factored:
        project_in_backward(given.layers, optimizer)
    state = {}
    for number, weight in enumerate(given.weights):
        m = 1e-4 * torch.randn(given.rank, max(weight.shape))
        tensors = {"projector": given.bases[min(weight.shape)], "exp_avg": m, "exp_avg_sq": m**2}
        tensors["step"] = torch.tensor(1)
        state |= {f"parameter{number}.{name}": tensor for name, tensor in tensors.items()}
    optimizer.load_state_tensors(state, clock=1)
    return optimizer.step


def galore_torch(given: Given, gap: int = NEVER, factored: bool = False) -> Apply:
    from galore_torch import GaLoreAdamW
    from galore_torch.galore_projector import GaLoreProjector

    settings = {"rank": given.rank, "update_proj_gap": gap, "scale": ALPHA, "proj_type": "std"}
    optimizer = GaLoreAdamW([{"params": given.weights, **settings}], lr=LR, no_deprecation_warning=True)
    for weight in given.weights:
        projector = GaLoreProjector(given.rank, update_proj_gap=gap, scale=ALPHA, proj_type="std")
        p = given.bases[min(weight.shape)]
        projector.ortho_matrix = p.mT.contiguous() if weight.shape[0] >= weight.shape[1] else p
        optimizer.state[weight].update({"projector": projector, "step": 1})
    return optimizer.step


def eager(given: Given, gap: int = NEVER, factored: bool = False) -> Apply:
    import torch

    (beta1, beta2), count = BETAS, 1
    moments = [[torch.zeros(given.rank, max(weight.shape)) for _ in range(2)] for weight in given.weights]

    @torch.no_grad()
    def apply() -> None:
        nonlocal count
        count += 1
        for weight, (m, v) in zip(given.weights, moments, strict=True):
            p, turned = given.bases[min(weight.shape)], weight.shape[0] >= weight.shape[1]
            r = (p.mT @ (weight.grad.mT if turned else weight.grad)).float()
            m.lerp_(r, 1 - beta1)
            v.mul_(beta2).addcmul_(r, r, value=1 - beta2)
            n = (m / (1 - beta1**count)) / ((v / (1 - beta2**count)).sqrt() + EPS)
            (weight.mT if turned else weight).addmm_(p, n.bfloat16(), alpha=-LR * ALPHA)

    return apply


def products(given: Given, gap: int = NEVER, factored: bool = False) -> Apply:
    import torch

    projected = {shape: torch.empty(given.rank, max(shape)).bfloat16() for shape in given.grads}
    lifted = {shape: torch.empty(shape).bfloat16() for shape in given.grads}

    def apply() -> None:
        for weight in given.weights:
            shape = tuple(weight.shape)
            p, g, r, w = given.bases[min(shape)], given.grads[shape], projected[shape], lifted[shape]
            turned = shape[0] >= shape[1]
            torch.mm(p.mT, g.mT if turned else g, out=r)
            torch.mm(r.mT if turned else p, p.mT if turned else r, out=w)

    return apply


SIDES = {"ours": ours, "galore-torch": galore_torch, "eager": eager, "products": products}


def stepper(name: str, shapes: Shapes, rank: int, gap: int = NEVER, backward: bool = False) -> Step:
    given = Given(shapes, rank)
    apply = SIDES[name](given, gap, backward)

    def step() -> float:
        given.hand_over()
        begun = time.perf_counter()
        apply()
        return time.perf_counter() - begun

    def step_from_tokens() -> float:
        given.clear()
        outputs = given.forward()
        begun = time.perf_counter()
        given.backward(outputs)
        apply()
        return time.perf_counter() - begun

    return step_from_tokens if backward else step


def memory(step: Step) -> tuple[int, int]:
    """Bytes of the largest tensor that a step makes, and the most bytes of new tensors alive at a time."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    live: dict[int, int] = {}
    largest = most = 0

    class Storages(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest, most
            given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if hasattr(x, "untyped_storage")}
            out = func(*args, **(kwargs or {}))
            for x in tree_leaves(out):
                if hasattr(x, "untyped_storage") and x.untyped_storage()._cdata not in given | live.keys():
                    storage = x.untyped_storage()
                    live[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, live.pop, storage._cdata, None)
                    largest, most = max(largest, storage.nbytes()), max(most, sum(live.values()))
            return out

    with Storages():
        step()
    return largest, most


def compared(names: list[str], pairs: list[tuple[str, str]], rounds: int, backward: bool) -> list[list[str]]:
    """Prints the times of the sides, in turn; returns the rows of the table of memory."""
    heads = ["weights", *(f"{name}, ms" for name in names), *(f"{above} / {below}" for above, below in pairs)]
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    kept = []
    for label, shapes in SHAPES.items():
        steps = {name: stepper(name, shapes, RANK, backward=backward) for name in names}
        taken = [{name: step() for name, step in steps.items()} for _ in range(rounds + 2)][2:]
        medians = [f"{1e3 * statistics.median(row[name] for row in taken):.1f}" for name in names]
        print(f"| {' | '.join([label, *medians, *(ratio(taken, *pair) for pair in pairs)])} |", flush=True)
        weight = 2 * max(m * n for m, n in shapes)
        for name in names[:3]:
            kept.append([label, name, *(f"{size / 2**20:.1f}" for size in (weight, *memory(steps[name])))])
    return kept


def ordinary(rounds: int) -> None:
    pairs = [("galore-torch", "ours"), ("eager", "ours"), ("ours", "products")]
    kept = compared(list(SIDES), pairs, rounds, backward=False)
    print("\n| weights | step | largest W, MiB | largest new tensor | most new bytes |\n|---|---|---|---|---|")
    print("\n".join(f"| {' | '.join(cells)} |" for cells in kept))


def from_tokens(rounds: int) -> None:
    compared(list(SIDES)[:3], [("galore-torch", "ours"), ("eager", "ours")], rounds, backward=True)


def ratio(taken: list[dict[str, float]], above: str, below: str) -> str:
    whole = statistics.median(row[above] for row in taken) / statistics.median(row[below] for row in taken)
    low, _, high = statistics.quantiles((row[above] / row[below] for row in taken), n=4)
    return f"{whole:.2f} ({low:.2f}–{high:.2f})"


def refresh() -> None:
    heads = "layers | gap | steps | ordinary median, ms | median, ms | longest, ms | longest / median | / ordinary"
    print(f"\n| {heads} |\n|{'---|' * 8}", flush=True)
    for name, d, rank in (("ours", 2048, 512), ("ours", 512, 128), ("galore-torch", 512, 128)):
        shapes = 12 * (4 * [(d, d)] + 3 * [(-(-8 * d // 3), d)])
        step = stepper(name, shapes, rank)
        plain = statistics.median([step() for _ in range(6)][1:])
        for gap, steps in ((200, 14), (20, 20)) if name == "ours" else ((20, 20),):
            step = stepper(name, shapes, rank, gap)
            taken = [step() for _ in range(steps + 1)][1:]
            longest, median = max(taken), statistics.median(taken)
            figures = [f"{1e3 * x:.1f}" for x in (plain, median, longest)]
            figures += [f"{longest / median:.2f}", f"{longest / plain:.2f}"]
            print(f"| {name}, d = {d}, r = {rank} | {gap} | {steps} | {' | '.join(figures)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["ordinary", "backward", "refresh"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    for line in prepare_process():
        print(line)
    import torch

    torch.set_num_threads(args.threads)
    if args.what in (None, "ordinary"):
        ordinary(args.rounds)
    if args.what in (None, "backward"):
        from_tokens(args.rounds)
    if args.what in (None, "refresh"):
        refresh()


if __name__ == "__main__":
    main()
