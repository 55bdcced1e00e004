"""Tensors have the dtype and the device that the code says, whatever the process has set as torch's defaults."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from galore.kernels import dct
from galore.kernels.device import meta_stands_for
from galore.kernels.host import Host
from galore.kernels.ops.paths import explain, summary
from galore.kernels.storage import blockwise, sixteen
from galore.trainer.optim import GaLoreAdamW

ROOT = Path(__file__).parents[2]
# functions of torch whose dtype is the default's unless they are given one
MAKERS = ("empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randn", "zeros")
TABLES = (blockwise.code, blockwise._summands, sixteen.values, sixteen.bounds)
# and the device
PLACED = (*MAKERS, "arange", "as_tensor", "asarray", "randint", "randperm", "scalar_tensor", "tensor")
FLOATING = (torch.float32, torch.float64, torch.bfloat16)


@pytest.fixture
def afresh() -> Iterator[None]:
    """No table has been made yet, and none that the test makes stays."""
    for table in TABLES:
        table.cache_clear()
    yield
    for table in TABLES:
        table.cache_clear()


@pytest.fixture(params=FLOATING[1:], ids=str)
def other(request: Any, afresh: None) -> Iterator[torch.dtype]:
    """Another default dtype, under which nothing has been made yet."""
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def elsewhere(afresh: None) -> Iterator[None]:
    """Another default device, on which nothing can be read."""
    with torch.device("meta"):
        yield


CASES: dict[str, dict[str, Any]] = {
    "full": {},
    "full, 8 bits": {"state_dtype": "8bit"},
    "full, muon": {"inner": "muon"},
    "full, adafactor": {"inner": "adafactor"},
    "full, racs": {"inner": "racs"},
    "full, soap": {"inner": "soap", "state_dtype": "8bit"},
    "full, in reference order": {"convention": "reference"},
    "projected": {"rank": 8},
    "8 bits": {"rank": 48, "state_dtype": "8bit"},
    "fp8": {"rank": 48, "state_dtype": "fp8"},
    "4 bits": {"rank": 48, "inner": "muon", "state_dtype": "4bit"},
    "4 bits beside": {"rank": 8, "inner": "normuon", "residual": "joint-4bit"},
    **{kind: {"rank": 8, "proj_type": kind} for kind in ("svd", "power", "dct", "random")},
    **{rule: {"rank": 8, "inner": rule} for rule in ("soap", "sumo")},
    **{kind: {"rank": 8, "residual": kind} for kind in ("fira", "frugal", "columns", "orthogonal", "alice")},
    "apollo": {"rank": 8, "residual": "apollo", "proj_type": "random"},
    "overlap": {"rank": 8, "refresh_overlap": 0.3},
    "switch": {"rank": 8, "switch": 0.5},
    "int4 projectors": {"rank": 8, "projector_dtype": "int4"},
    "rounded": {"rank": 8, "dtype": torch.bfloat16},
    "compensated": {"rank": 8, "dtype": torch.bfloat16, "weight_rounding": "compensated"},
    "a start at zero": {"rank": 8, "zero": True},
}
KEYWORDS = ("state_dtype", "weight_rounding")


def trained(dtype: torch.dtype = torch.float32, zero: bool = False, **options: Any) -> Tensor:
    """A weight after some steps over two refreshes; with `zero` the first gradient is none."""
    draw = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(96, 96, generator=draw, dtype=torch.float32, device="cpu").to(dtype))
    keywords = {name: options.pop(name) for name in KEYWORDS if name in options}
    group = {"params": [("w", weight)], "update_proj_gap": 2, **options}
    optimizer = GaLoreAdamW([group], lr=1e-2, max_grad_norm=1.0, stagger=False, **keywords)  # type: ignore[arg-type]
    for step in range(5):
        gradient = torch.randn(96, 96, generator=draw, dtype=torch.float32, device="cpu").to(dtype)
        weight.grad = gradient * 0 if zero and step == 0 else gradient
        optimizer.step()
    return weight.detach()


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return {case: trained(**CASES[case]) for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_steps_are_the_same_bits(expected: dict[str, Tensor], other: torch.dtype, case: str) -> None:
    torch.testing.assert_close(trained(**CASES[case]), expected[case], rtol=0, atol=0)


@pytest.mark.parametrize("case", CASES)
def test_steps_are_the_same_bits_whatever_the_default_device(
    expected: dict[str, Tensor], elsewhere: None, case: str
) -> None:
    torch.testing.assert_close(trained(**CASES[case]), expected[case], rtol=0, atol=0)


def test_what_is_kept_lies_where_it_was_asked_for(elsewhere: None) -> None:
    cpu = torch.device("cpu")
    kept = [blockwise.code(True, cpu), blockwise._summands(False), sixteen.values(cpu), sixteen.bounds(cpu)]
    kept += [dct.random_basis(8, 2, 0, cpu), Host(cpu)._allocate(16)]
    assert {each.device.type for each in kept} == {"cpu"}
    assert explain("cuda")
    with meta_stands_for("cuda"):
        assert summary("cuda", []) == []


def unsaid(folder: str, makers: tuple[str, ...], keyword: str) -> Iterator[str]:
    """Calls of torch's that make a tensor by a default of the process."""
    for file in sorted((ROOT / folder).rglob("*.py")):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                continue
            of_torch = isinstance(call.func.value, ast.Name) and call.func.value.id == "torch"
            given = {keyword, "out", None} & {each.arg for each in call.keywords}
            if of_torch and call.func.attr in makers and not given:
                yield f"{file.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call)}"


@pytest.mark.parametrize("folder", ["kernels", "trainer/optim", "trainer/losses", "trainer/models"])
def test_no_tensor_is_made_in_the_default_dtype(folder: str) -> None:
    assert not list(unsaid(folder, MAKERS, "dtype"))


@pytest.mark.parametrize("folder", ["kernels", "trainer/optim"])
def test_no_tensor_is_made_on_the_default_device(folder: str) -> None:
    statements = "kernels/reference/"  # for the CPU, where tests compare with them
    assert not [each for each in unsaid(folder, PLACED, "device") if not each.startswith(statements)]
