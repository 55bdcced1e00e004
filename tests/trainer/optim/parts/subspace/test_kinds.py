"""Each kind of subspace is the one it says: its energy, its columns or its moments, whichever side is projected."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from galore.kernels.reference.operations import dct_basis
from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optim.parts.subspace.base import Subspace
from galore.trainer.optim.projected import ProjectedSlot

RANK = 6
SIDES = [((24, 60), "auto"), ((60, 24), "auto"), ((24, 60), "right"), ((60, 24), "left")]


def layer(shape: tuple[int, int], **options: Any) -> tuple[GaLoreAdamW, ProjectedSlot]:
    group = {"params": [("weight", nn.Parameter(torch.zeros(shape)))], "rank": RANK}
    optimizer = GaLoreAdamW([group], **{"update_proj_gap": 2, "stagger": False, "seed": 5, **options})
    return optimizer, optimizer.projected[0]


def take(optimizer: GaLoreAdamW, gradient: Tensor) -> None:
    (optimizer.projected[0].parameter * gradient).sum().backward()
    optimizer.step()


def decaying(shape: tuple[int, int]) -> Tensor:
    """Singular values 1, 0.7, 0.7², … over random vectors."""
    torch.manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    return (u * 0.7 ** torch.arange(min(shape))) @ vh


def share(subspace: Subspace, gradient: Tensor) -> float:
    """‖Pᵀ G‖² over the most that r dimensions can have, in float64."""
    g = (gradient.T if subspace.transposed else gradient).double()
    best = torch.linalg.svdvals(g)[:RANK].square().sum()
    return float((subspace.projector.double().T @ g).square().sum() / best)


@pytest.mark.parametrize(("shape", "side"), SIDES)
def test_svd_has_all_the_energy_there_is(shape: tuple[int, int], side: str) -> None:
    optimizer, slot = layer(shape, proj_type="svd", side=side)
    take(optimizer, decaying(shape))
    assert share(slot.subspace, decaying(shape)) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("shape", "side"), SIDES)
@pytest.mark.parametrize(
    ("proj_type", "refresh"), [("randomized", "summed"), ("randomized", "delayed"), ("power", "summed")]
)
def test_range_finders_have_nearly_all_of_it(shape: tuple[int, int], side: str, proj_type: str, refresh: str) -> None:
    """At first, and after warm steps on gradients that have turned away from the first."""
    optimizer, slot = layer(shape, proj_type=proj_type, refresh=refresh, side=side)
    take(optimizer, decaying(shape))
    assert share(slot.subspace, decaying(shape)) > 0.99
    turned = decaying(shape).flip(0, 1)
    assert share(slot.subspace, turned) < 0.9
    for _ in range(9):
        take(optimizer, turned)
    assert share(slot.subspace, turned) > 0.99


@pytest.mark.parametrize(("shape", "side"), SIDES)
def test_dct_takes_the_columns_that_align_best(shape: tuple[int, int], side: str) -> None:
    optimizer, slot = layer(shape, proj_type="dct", side=side, refresh="summed")
    take(optimizer, decaying(shape))
    g = (decaying(shape).T if slot.transposed else decaying(shape)).double()
    basis = dct_basis(g.shape[0])
    best = (basis.T @ g).square().sum(1).topk(RANK).indices.sort().values
    assert torch.equal(slot.state["projector"].long(), best)
    torch.testing.assert_close(slot.projector.double(), basis[:, best], rtol=0, atol=1e-7)


def test_dct_from_a_sketch_captures_nearly_as_much() -> None:
    """A sketch of r columns knows the energy of a row within a factor of 1 ± √(2/r), and the great ones stand out."""
    basis = dct_basis(24).float()
    gradient = basis[:, [1, 4, 5, 9, 17, 20]] @ torch.randn(6, 60, generator=torch.Generator().manual_seed(1))
    optimizer, slot = layer((24, 60), proj_type="dct", refresh="delayed")
    take(optimizer, torch.randn(24, 60, generator=torch.Generator().manual_seed(2)))
    for _ in range(3):
        take(optimizer, gradient + 1e-3)
    assert slot.state["projector"].tolist() == [1, 4, 5, 9, 17, 20]


def test_random_has_the_moments_of_a_gaussian_of_variance_one_over_r() -> None:
    group = {"params": [nn.Parameter(torch.zeros(400, 400))], "rank": 100}
    p = GaLoreAdamW([group], proj_type="random", seed=1).projected[0].projector.double() * 100**0.5
    assert [float((p**k).mean()) for k in range(1, 5)] == pytest.approx([0.0, 1.0, 0.0, 3.0], abs=0.06)
    assert (p.T @ p / 400 - torch.eye(100)).abs().max() < 0.3  # columns are independent


def test_random_is_a_function_of_seed_layer_and_refresh_alone() -> None:
    def bases(seed: int) -> list[Tensor]:
        groups = [{"params": [nn.Parameter(torch.zeros(24, 60)) for _ in range(2)], "rank": RANK}]
        optimizer = GaLoreAdamW(groups, proj_type="random", update_proj_gap=2, stagger=False, seed=seed)
        found = []
        for _ in range(4):
            found += [slot.projector.clone() for slot in optimizer.projected]
            for slot in optimizer.projected:
                slot.parameter.grad = torch.ones(24, 60)
            optimizer.step()
        assert optimizer.memory_by_category()["projectors"] == 0
        return found

    first, same, other = bases(1), bases(1), bases(2)
    assert all(torch.equal(p, q) for p, q in zip(first, same, strict=True))
    of_one = first[::2]  # a layer's, step by step
    assert torch.equal(of_one[0], of_one[1])
    assert torch.equal(of_one[2], of_one[3])
    different = [of_one[0], of_one[2], first[1], other[0]]
    assert all((p - q).norm() > 1 for i, p in enumerate(different) for q in different[:i])


def test_random_test_matrices_are_drawn_anew_for_every_refresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one gradient over and over, the sketches differ."""
    optimizer, slot = layer((24, 60), proj_type="dct", refresh="delayed", update_proj_gap=1)
    sketches, top = [], slot.subspace.of_sketch
    monkeypatch.setattr(slot.subspace, "of_sketch", lambda y: sketches.append(y) or top(y))
    for _ in range(4):
        take(optimizer, decaying((24, 60)))
    assert len({tuple(sketch.flatten().tolist()) for sketch in sketches}) == len(sketches) >= 3


@pytest.mark.parametrize(
    ("proj_type", "refresh"), [("svd", "summed"), ("randomized", "delayed"), ("power", "two-pass")]
)
def test_switched_vectors_are_drawn_anew_for_every_refresh_and_layer(proj_type: str, refresh: str) -> None:
    """Of one gradient over and over; what leads in it stays, and the same seed draws the same."""

    def bases(seed: int) -> list[Tensor]:
        optimizer, slot = layer((24, 60), proj_type=proj_type, refresh=refresh, switch=0.5, seed=seed)
        found = []
        for step in range(12):
            take(optimizer, decaying((24, 60)))
            found += [slot.projector.clone()] if step in (6, 8) else []
        return found

    first, again, other = bases(1), bases(1), bases(2)
    assert all(torch.equal(p, q) for p, q in zip(first, again, strict=True))
    shared = [float((p.T @ q).square().sum()) / RANK for p, q in ((first[0], first[1]), (first[0], other[0]))]
    assert all(0.5 < each < 0.9 for each in shared)


@pytest.mark.parametrize("missing", [(), (4,), (4, 5), (1, 4), (3, 4, 5, 6)])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_state_is_reset_in_its_first_step_on_a_basis_that_is_drawn(missing, resumed):
    """Every third step draws; in `missing` ones the weight has no gradient."""
    weight, other, found = nn.Parameter(torch.ones(8, 12)), nn.Parameter(torch.ones(8, 12)), []

    def made():
        group = {"params": [("w", weight), ("other", other)], "rank": 4, "transport": "reset", "update_proj_gap": 3}
        return GaLoreAdamW([group], proj_type="random", stagger=False)

    optimizer = made()
    for step in range(10):
        if resumed:
            state = optimizer.state_dict()
            optimizer.release()
            optimizer = made()
            optimizer.load_state_dict(state)
        other.grad = torch.randn(8, 12)
        weight.grad = None if step in missing else torch.randn(8, 12)
        optimizer.step()
        found.append(int(optimizer.projected[0].state["step"]))
    taken = [step for step in range(10) if step not in missing]
    since = {step: sum(1 for each in taken if each <= step and each // 3 == step // 3) for step in taken}
    assert [found[step] for step in taken] == list(since.values())
    assert {int(slot.state["step"]) for slot in optimizer.projected[1:]} == {1}


def test_a_state_of_before_that_says_nothing_of_its_draw_is_of_the_last_one():
    weight, found = nn.Parameter(torch.ones(8, 12)), []
    optimizer = GaLoreAdamW(
        [{"params": [weight], "rank": 4, "transport": "reset", "update_proj_gap": 3}], proj_type="random", stagger=False
    )
    for _ in range(8):
        optimizer.projected[0].state.pop("refresh", None)
        weight.grad = torch.randn(8, 12)
        optimizer.step()
        found.append(int(optimizer.projected[0].state["step"]))
    assert found == [1, 2, 3, 1, 2, 3, 1, 2]
