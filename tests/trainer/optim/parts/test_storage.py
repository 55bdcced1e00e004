"""Projectors in 8 and 4 bits: what is stored, that it is what is projected on, and that it resumes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optim.parts.storage import PROJECTOR_FORMATS, decode

RANK = 6


def optimizer_for(parameter: nn.Parameter, dtype: str | None, **options: object) -> GaLoreAdamW:
    group = {"params": [("weight", parameter)], "rank": RANK}
    return GaLoreAdamW([group], lr=1e-2, update_proj_gap=3, projector_dtype=dtype, seed=1, **options)  # type: ignore[arg-type]


def gradients(steps: int) -> list[Tensor]:
    torch.manual_seed(2)
    left = torch.randn(24, 8)
    return [left @ torch.randn(8, 40) for _ in range(steps)]


def trained(dtype: str | None, steps: int = 8, **options: object) -> tuple[Tensor, GaLoreAdamW]:
    parameter = nn.Parameter(torch.zeros(24, 40))
    optimizer = optimizer_for(parameter, dtype, **options)
    for gradient in gradients(steps):
        (parameter * gradient).sum().backward()
        optimizer.step()
    return parameter.detach(), optimizer


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
def test_bytes_are_exactly_the_formula(dtype: str) -> None:
    _, optimizer = trained(dtype)
    (slot,) = optimizer.projected
    nbytes = sum(tensor.nbytes for tensor in PROJECTOR_FORMATS[dtype].planned((24, RANK)).values())  # type: ignore[index]
    assert optimizer.memory_by_category()["projectors"] == nbytes == slot.planned_bytes()[1]


@pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 0.02), ("int8", 0.05), ("int4", 0.6)])
def test_fewer_bits_move_the_weights_nearly_as_many_do(dtype: str, most: float) -> None:
    exact, found = trained("float32")[0], trained(dtype)[0]
    assert 0 < (found - exact).norm() / exact.norm() < most


@pytest.mark.parametrize("options", [{"proj_type": "svd"}, {"transport": "rotate"}, {"residual": "fira"}])
def test_the_basis_of_the_update_is_the_one_that_was_projected_on(options: dict[str, object]) -> None:
    """W moves within the span of the stored P in a step that finds it (and Fira, whose residual is outside, moves too)."""
    parameter, optimizer = trained("int4", steps=1, **options)
    (slot,) = optimizer.projected
    p = slot.projector.double() if options.get("proj_type") == "svd" else None
    assert parameter.abs().sum() > 0
    if p is not None:
        outside = parameter.double() - p @ torch.linalg.lstsq(p, parameter.double()).solution
        assert outside.norm() < 1e-5 * parameter.norm()


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_resumes_bit_exactly(dtype: str) -> None:
    straight, _ = trained(dtype)
    parameter = nn.Parameter(torch.zeros(24, 40))
    optimizer = optimizer_for(parameter, dtype)
    for step, gradient in enumerate(gradients(8)):
        if step == 4:
            tensors = {name: tensor.clone() for name, tensor in optimizer.state_tensors().items()}
            optimizer.release()
            parameter = nn.Parameter(parameter.detach().clone())
            optimizer = optimizer_for(parameter, dtype)
            optimizer.load_state_tensors(tensors, clock=4)
        (parameter * gradient).sum().backward()
        optimizer.step()
    assert torch.equal(parameter, straight)


def test_what_is_stored_comes_back() -> None:
    p = torch.linalg.qr(torch.randn(24, RANK)).Q
    for dtype, error in (("float32", 0.0), ("bfloat16", 4e-3), ("int8", 2e-2), ("int4", 0.2)):
        back = decode(PROJECTOR_FORMATS[dtype].encode(p), (24, RANK), torch.float32)  # type: ignore[index]
        assert (back - p).norm() <= error * p.norm()


def as_read_from_a_file(x: Tensor) -> Tensor:
    return torch.tensor(x.flatten().tolist(), dtype=x.dtype).view(x.shape)


def of_rank_one(weight: Tensor, **options: object) -> tuple[nn.Parameter, GaLoreAdamW]:
    parameter = nn.Parameter(weight.clone())
    group = {"params": [("weight", parameter)], "rank": 1}
    return parameter, GaLoreAdamW([group], lr=1e-2, update_proj_gap=3, seed=1, **options)  # type: ignore[arg-type]


def steps(parameter: nn.Parameter, optimizer: GaLoreAdamW, first: int, last: int) -> None:
    torch.manual_seed(3)
    for gradient in torch.randn(8, *parameter.shape)[first:last]:
        (parameter * gradient + parameter.square()).sum().backward()
        optimizer.step()


THIN: list[dict[str, object]] = [
    *({"proj_type": name} for name in ("svd", "randomized", "power", "dct", "random")),
    *({"refresh": name} for name in ("summed", "delayed")),
    *({"inner": name} for name in ("adafactor", "muon", "sumo", "soap")),
    {"residual": "fira"},
    {"inner": "normuon", "residual": "joint-4bit"},
    {"residual": "alice", "switch": 0.5},
    {"projector_dtype": "bfloat16"},
]


@pytest.mark.parametrize("options", THIN, ids=str)
@pytest.mark.parametrize("shape", [(132, 132), (256, 128), (1, 160)], ids=str)
def test_a_state_of_one_row_or_column_resumes_bit_exactly(options: dict[str, object], shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    start = torch.randn(shape)
    whole, optimizer = of_rank_one(start, **options)
    steps(whole, optimizer, 0, 4)
    saved = {name: as_read_from_a_file(each) for name, each in optimizer.state_tensors().items()}
    resumed, other = of_rank_one(whole.detach(), **options)
    other.load_state_tensors(saved, clock=4)
    steps(whole, optimizer, 4, 8)
    steps(resumed, other, 4, 8)
    assert torch.equal(whole, resumed)


@pytest.mark.parametrize("options", THIN, ids=str)
@pytest.mark.parametrize("through", ["steps", "tensors", "state_dict"])
def test_a_state_lies_in_memory_as_a_file_has_it(options: dict[str, object], through: str) -> None:
    parameter, optimizer = of_rank_one(torch.ones(24, 40), **options)
    steps(parameter, optimizer, 0, 4)
    odd = {name: each.mT.contiguous().mT for name, each in optimizer.state_tensors().items() if each.ndim == 2}
    if through == "tensors":
        optimizer.load_state_tensors(optimizer.state_tensors() | odd, clock=4)
    if through == "state_dict":
        state = optimizer.state_dict()
        state["state"][0] = state["state"][0] | {name.removeprefix("weight."): each for name, each in odd.items()}
        optimizer.load_state_dict(state)
    for name, each in optimizer.state_tensors().items():
        assert each.stride() == torch.empty(each.shape).stride(), name
