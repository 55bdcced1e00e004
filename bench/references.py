"""Our optimizer against the methods' own packages: `python bench/references.py` prints Markdown tables.

    pip install --no-deps apollo-torch==1.0.3 fira==1.0.2 q-galore-torch==1.0 pytorch-optimizer==4.1.0
    (extra `references`; galore-torch is in `bench`)

The same gradients go to theirs, to ours with `convention: reference`, and to the specification (kernels/reference/methods.py),
which can take each habit of a package by itself. Which habits a trajectory has is found by trying all sets of them: the
smallest set with which the specification gives the same weights. A difference has thus a name and a proof, and ours is
checked where theirs is missing.

fira and galore-torch run as they are. apollo-torch draws P from a generator of its own: ours is handed to it instead.
q-galore-torch calls torch.cuda.synchronize, which is a no-op here, and bitsandbytes functions whose arguments have changed
(`percentile_clipping` is gone); in their place stands that library's 32-bit Adam in three lines. RACS and Alice have no package of their
authors: pytorch-optimizer's port is run, of Alice its compensation alone, on the same bases.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from galore.kernels.reference import methods, rules
from galore.kernels.reference.rules import HABITS
from galore.kernels.rules.residual import column_squares, column_terms
from galore.kernels.rules.scaled import RacsRule
from galore.trainer.optim import GaLoreAdamW

SHAPES = [(48, 96), (96, 48), (64, 64)]
STEPS, GAP, RANK, GROUP = 20, 6, 8, 128
LR, ALPHA, BETAS, EPS, DECAY = 1e-2, 0.25, (0.9, 0.999), 1e-3, 0.1  # ε so large that its place shows
TOLERANCE = 1e-4  # of the way the weights went: fp32 against float64 through 20 steps of Adam
SCALES = {"apollo": 1.0, "apollo-mini": 1.0}
PACKAGES = {"galore": "galore-torch", "fira": "fira", "apollo": "apollo-torch", "apollo-mini": "apollo-torch"}
Trajectory = list[Tensor]
Stepper = Callable[[Tensor], tuple[Tensor, Tensor]]  # gradient -> (weight, P (a, r) that was used)


def gradients(shape: tuple[int, int]) -> list[Tensor]:
    """Of a leading subspace that turns slowly, over noise; one is larger, so that the limiter bites."""
    draw = torch.Generator().manual_seed(1)
    normal = lambda *size: torch.randn(size, generator=draw)  # noqa: E731
    left, right, found = normal(shape[0], 10), normal(10, shape[1]), []
    for step in range(STEPS):
        left = left + 0.1 * normal(*left.shape)
        found.append((left @ right + 0.5 * normal(*shape)) * (4.0 if step == 9 else 1.0))
    return found


def oriented(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """x of a weight of `shape`, seen with its shorter side first; and back."""
    return x.mT if shape[0] >= shape[1] else x


def start(shape: tuple[int, int]) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))


def ours(method: str, shape: tuple[int, int], convention: str) -> Stepper:
    weight = start(shape)
    kind = "none" if "galore" in method else method
    options = {"proj_type": "random" if "apollo" in method else "svd", "residual": kind, "convention": convention}
    options |= {"transport": "keep"}
    optimizer = GaLoreAdamW(
        [{"params": [("weight", weight)], "rank": 1 if method == "apollo-mini" else RANK}],
        **{"lr": LR, "eps": EPS, "betas": BETAS, "weight_decay": DECAY, "scale": SCALES.get(method, ALPHA)},
        **{"stagger": False, "update_proj_gap": GAP, "projector_dtype": "int4" if "INT4" in method else None},
        **options,
    )

    def step(gradient: Tensor) -> tuple[Tensor, Tensor]:
        drawn = optimizer.projected[0].projector if options["proj_type"] == "random" else None  # of the coming step
        weight.grad = gradient.clone()
        optimizer.step()
        return weight.detach().clone(), (optimizer.projected[0].projector if drawn is None else drawn).clone()

    return step


def theirs(method: str, shape: tuple[int, int]) -> Stepper:
    """Raises ImportError where the package is missing."""
    weight = start(shape)
    common = {"rank": 1 if method == "apollo-mini" else RANK, "update_proj_gap": GAP, "proj_type": "std"}
    make = {"galore": galore_torch, "fira": fira, "apollo": apollo, "apollo-mini": apollo}.get(method, q_galore)
    optimizer = make(method, shape, {"params": [weight], **common}, {"lr": LR, "eps": EPS, "weight_decay": DECAY})

    def step(gradient: Tensor) -> tuple[Tensor, Tensor]:
        weight.grad = gradient.clone()
        optimizer.step()
        projector = optimizer.state[weight]["projector"]
        p = projector.ortho_matrix
        if getattr(projector, "quant", False):
            codes = (p.float() - projector.ortho_matrix_zeros) * projector.ortho_matrix_scales
            p = codes.view(projector.ortho_matrix_shape)
        return weight.detach().clone(), oriented(p, shape).clone()

    return step


def galore_torch(_: str, shape: tuple[int, int], group: dict[str, Any], options: dict[str, Any]) -> Any:
    found = importlib.import_module("galore_torch").GaLoreAdamW
    return found([{**group, "scale": ALPHA}], no_deprecation_warning=True, **options)


def fira(_: str, shape: tuple[int, int], group: dict[str, Any], options: dict[str, Any]) -> Any:
    found = importlib.import_module("fira").FiraAdamW
    return found([{**group, "alpha": ALPHA}], no_deprecation_warning=True, **options)


def apollo(method: str, shape: tuple[int, int], group: dict[str, Any], options: dict[str, Any]) -> Any:
    found = importlib.import_module("apollo_torch").APOLLOAdamW
    mini = method == "apollo-mini"
    group = {**group, "proj": "random", "scale": 128.0 if mini else 1.0, "scale_type": "tensor" if mini else "channel"}
    optimizer, twin = found([group], **options), ours(method, shape, "paper")
    drawn = itertools.islice([twin(gradient)[1] for gradient in gradients(shape)], 0, None, GAP)
    make = optimizer._initialize_projector

    def injected(*args: Any) -> Any:
        projector = make(*args)
        projector.get_orthogonal_matrix = lambda *_, **__: oriented(next(drawn), shape)
        return projector

    optimizer._initialize_projector = injected
    return optimizer


def q_galore(method: str, shape: tuple[int, int], group: dict[str, Any], options: dict[str, Any]) -> Any:
    group = {**group, "scale": ALPHA, "quant": "INT4" in method, "quant_group_size": GROUP, "quant_n_bit": 4}
    return shimmed()([{**group, "cos_threshold": 2.0, "gamma_proj": 2, "queue_size": 5}], **options)


def shimmed() -> Any:
    """Q-GaLore's optimizer with the 32-bit Adam of bitsandbytes as plain arithmetic: ε beside √v̂."""
    torch.cuda.synchronize = lambda *_: None  # type: ignore[assignment]

    class Shimmed(importlib.import_module("q_galore_torch").QGaLoreAdamW8bit):  # type: ignore[misc]
        def update_step(self, group: Any, p: Tensor, *_: Any, flag_use_float_grad: bool = False) -> None:
            state, (beta1, beta2) = self.state[p], group["betas"]
            grad = (p.float_grad if flag_use_float_grad else p.grad).float()  # type: ignore[attr-defined,union-attr]
            state["step"] += 1
            first, second = 1 - beta1 ** state["step"], math.sqrt(1 - beta2 ** state["step"])
            state["state1"].lerp_(grad, 1 - beta1)
            state["state2"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
            n = state["state1"] / first / (state["state2"].sqrt() / second + group["eps"])
            p.data.copy_(p.data.float() - group["lr"] * n)

    return Shimmed


def run(stepper: Stepper, shape: tuple[int, int]) -> tuple[Trajectory, list[Tensor]]:
    weights, bases = zip(*(stepper(gradient) for gradient in gradients(shape)), strict=True)
    return list(weights), list(bases)


def stated(method: str, shape: tuple[int, int], bases: list[Tensor], habits: frozenset[str]) -> Trajectory:
    """The weights by the equations of `method` on the same bases, with the `habits` of a package; the paper's without any."""
    settings = rules.Settings(LR, SCALES.get(method, ALPHA), DECAY, *BETAS, EPS, habits=habits)
    w = oriented(start(shape).detach(), shape).double()
    state, weights = rules.State(bases[0].shape[1], w.shape[1]), []
    for gradient, p in zip(gradients(shape), bases, strict=True):
        g, update = oriented(gradient, shape).double(), methods.METHODS.get(method, methods.galore)
        w = methods.step(w, g, p.double(), state, settings, update, rules.adamw)
        weights.append(oriented(w, shape))
    return weights


def deviation(a: Trajectory, b: Trajectory, origin: Tensor | None = None) -> float:
    """Largest ‖a - b‖/‖b - origin‖ of all steps."""
    pairs = ((x.double(), y.double()) for x, y in zip(a, b, strict=True))
    return max(((x - y).norm() / (y - (0.0 if origin is None else origin)).norm()).item() for x, y in pairs)


def subsets(method: str) -> Iterator[frozenset[str]]:
    known = [h for h in HABITS if (h != "α" or method == "fira") and (h != "limiter" or "galore" not in method)]
    yield from (frozenset(chosen) for size in range(len(known) + 1) for chosen in itertools.combinations(known, size))


def habits_of(method: str, runs: list[tuple[Trajectory, list[Tensor]]]) -> frozenset[str] | None:
    """The smallest set of habits that explains the trajectories of all shapes."""
    return next((h for h in subsets(method) if misfit(method, runs, h) < TOLERANCE), None)


def misfit(method: str, runs: list[tuple[Trajectory, list[Tensor]]], habits: frozenset[str]) -> float:
    origins = [start(shape).detach() for shape in SHAPES]
    return max(
        deviation(weights, stated(method, shape, bases, habits), origin)
        for shape, origin, (weights, bases) in zip(SHAPES, origins, runs, strict=True)
    )


def row(method: str) -> tuple[list[str], list[str]]:
    """A row of the table of trajectories, and one of the table of habits."""
    package = PACKAGES.get(method, "q-galore-torch")
    convention = "reference" if package != "q-galore-torch" else "paper"  # whose ε is that of bitsandbytes
    mine = [run(ours(method, shape, convention), shape) for shape in SHAPES]
    plain = [run(ours(method, shape, "paper"), shape) for shape in SHAPES]
    own, paper = habits_of(method, mine), habits_of(method, plain)
    try:
        other = [run(theirs(method, shape), shape) for shape in SHAPES]
    except ImportError as error:
        return [method, package, convention, "", "", f"not run: {error}"], [
            method,
            "",
            named(own),
            named(paper),
            "",
            "",
        ]
    habits = habits_of(method, other)
    pairs = list(zip(SHAPES, mine, other, strict=True))
    far = max(deviation(a, b) for _, (a, _), (b, _) in pairs)
    way = max(deviation(a, b, start(shape).detach()) for shape, (a, _), (b, _) in pairs)
    basis = max(deviation(p, q) for _, (_, p), (_, q) in pairs)
    reasons = [] if own is None or habits is None else [f"theirs: {HABITS[h]}" for h in sorted(habits - own)]
    reasons += [] if own is None or habits is None else [f"ours: {HABITS[h]}" for h in sorted(own - habits)]
    reasons += [f"P as it is kept, ‖P - P'‖/‖P'‖ = {basis:.1%}"] if basis > 1e-3 else []
    verdict = "agrees" if way < TOLERANCE else "; ".join(reasons) or "not explained"
    version = f"{package} {metadata.version(package)}"
    each = [] if habits is None else [f"{h} {misfit(method, other, habits - {h}):.0e}" for h in sorted(habits)]
    fit = "" if habits is None else f"{misfit(method, other, habits):.0e}"
    return (
        [method, version, convention, f"{far:.1e}", f"{way:.1e}", verdict],
        [method, named(habits), named(own), named(paper), fit, ", ".join(each)],
    )


def alice_terms(shape: tuple[int, int]) -> tuple[Trajectory, Trajectory]:
    """What Alice adds from outside a subspace in every step: ours and the port's, the basis found anew every GAP steps."""
    port = importlib.import_module("pytorch_optimizer.optimizer.racs").Alice
    b = max(shape)
    mean, norm, their_mean, their_norm = torch.zeros(b), torch.zeros(()), torch.zeros(b), torch.zeros(())
    ours, theirs, p = [], [], torch.empty(0)
    for step, gradient in enumerate(gradients(shape)):
        g = oriented(gradient, shape)
        p = torch.linalg.svd(g).U[:, :RANK] if step % GAP == 0 else p
        averaged = {"mean": mean, "beta": BETAS[0], "previous": norm}
        squares, nothing = column_squares(g), torch.zeros(RANK, b)
        n, scale = column_terms(p.mT @ g, nothing, g_squares=squares, rows=g.shape[0], factor=1.0, **averaged)
        term, their_norm = port.compensation(g, p, their_mean, their_norm, 1.01, BETAS[0], RANK)
        ours.append(-(p @ n + scale * g))
        theirs.append(term)
    return ours, theirs


def racs_steps(shape: tuple[int, int]) -> tuple[Trajectory, Trajectory]:
    """Directions of RACS in every step: ours, and the port's, from how a weight of zeros moves."""
    port, weight = importlib.import_module("pytorch_optimizer").RACS, nn.Parameter(torch.zeros(shape))
    optimizer, rule = port([weight], lr=2.0, alpha=0.5), RacsRule()
    state = {name: torch.zeros(size) for name, size in rule.state_shapes(shape).items()}
    ours, theirs = [], []
    for step, gradient in enumerate(gradients(shape), 1):
        ours.append(rule.direction_(gradient, state, step=step))
        weight.grad, before = gradient.clone(), weight.detach().clone()
        optimizer.step()
        theirs.append(weight.detach() - before)
    return ours, theirs


def ported() -> list[list[str]]:
    """Rows of what is compared with the port: deviation, and cosine and ratio of the norms of the last step."""
    rows = []
    for name, compared in (("Alice's compensation", alice_terms), ("RACS", racs_steps)):
        found = [compared(shape) for shape in SHAPES]
        last = [(ours[-1].flatten(), theirs[-1].flatten()) for ours, theirs in found]
        cosine = min(float(torch.cosine_similarity(a, b, dim=0)) for a, b in last)
        ratio = max(float(b.norm() / a.norm()) for a, b in last)
        rows.append([name, f"{max(deviation(*each) for each in found):.1e}", f"{cosine:.3f}", f"{ratio:.2f}"])
    return rows


def named(habits: frozenset[str] | None) -> str:
    return "unknown" if habits is None else ", ".join(sorted(habits)) or "none"


def print_table(header: str, rows: list[list[str]]) -> None:
    print(f"| {header} |\n|{'---|' * (header.count('|') + 1)}")
    for cells in rows:
        print(f"| {' | '.join(cells)} |")
    print(flush=True)


def main() -> None:
    torch.set_num_threads(1)
    shapes = ", ".join(f"{m}×{n}" for m, n in SHAPES)
    print(
        f"{shapes}, rank {RANK}, fp32, {STEPS} steps, gap {GAP}; deviations are the largest of all steps and shapes.\n"
    )
    methods = ["galore", "fira", "apollo", "apollo-mini", "q-galore", "q-galore INT4"]
    found = [row(method) for method in methods]
    heads = "method | package | ours with convention | of the weights | of the way they went | verdict"
    print_table(heads, [trajectories for trajectories, _ in found])
    heads = "method | habits of theirs | of ours | of ours, `paper` | misfit of the specification | misfit without one habit"
    print_table(heads, [habits for _, habits in found])
    try:
        heads = "pytorch-optimizer 4.1.0 | largest deviation | least cosine, last step | theirs / ours, norms of the last step"
        print_table(heads, ported())
    except ImportError as error:
        print(f"RACS and Alice not run: {error}\n")
    print("\n".join(f"- {short}: {long}" for short, long in HABITS.items()))


if __name__ == "__main__":
    main()
