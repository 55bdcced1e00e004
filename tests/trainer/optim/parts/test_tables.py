"""The composition: every name stands for a class, nobody else asks for a name, and a part can be put in another's place."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from galore.kernels.family import WITHOUT_WHOLE, InnerRule, ProjectorDtype, ProjType, RefreshMode, Residual, Transport
from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optim.parts.inner import INNER_RULES, Inner
from galore.trainer.optim.parts.modes import REFRESHES
from galore.trainer.optim.parts.outside import RESIDUALS
from galore.trainer.optim.parts.refresh import Refresh
from galore.trainer.optim.parts.residual import ResidualRule, Terms
from galore.trainer.optim.parts.storage import PROJECTOR_FORMATS
from galore.trainer.optim.parts.subspace.kinds import SUBSPACES
from galore.trainer.optim.parts.transport import TRANSPORTS

OPTIM = Path(__file__).parents[4] / "trainer/optim"
COMPOSED = [
    *(OPTIM / "parts").glob("*.py"),
    *(OPTIM / f"{name}.py" for name in ("slot", "projected", "state")),
]
NAMES = {*SUBSPACES, *REFRESHES, *TRANSPORTS, *INNER_RULES, *RESIDUALS}


@pytest.mark.parametrize(
    ("table", "names"),
    [
        (SUBSPACES, ProjType),
        (REFRESHES, RefreshMode),
        (TRANSPORTS, Transport),
        (INNER_RULES, InnerRule),
        (RESIDUALS, Residual),
        (PROJECTOR_FORMATS, ProjectorDtype),
    ],
)
def test_every_name_stands_for_a_part(table: dict[str, object], names: object) -> None:
    assert table.keys() == {*get_args(names)}


def asked_for(source: str) -> list[str]:
    """Comparisons with the name of a part."""
    compared = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Compare, ast.MatchValue))]
    constants = [(ast.unparse(node), each) for node in compared for each in ast.walk(node)]
    return [text for text, each in constants if isinstance(each, ast.Constant) and each.value in NAMES]


@pytest.mark.parametrize("path", COMPOSED, ids=lambda path: path.stem)
def test_no_part_is_asked_for_its_name(path: Path) -> None:
    assert not asked_for(path.read_text())


def test_a_question_for_a_name_is_seen() -> None:
    assert asked_for('mode == "summed"')
    assert asked_for('group["residual"] in ("none", "fira")')
    assert not asked_for('part = TABLE["fira"]')


def test_the_residuals_that_are_said_to_need_no_whole_gradient_need_none() -> None:
    assert set(WITHOUT_WHOLE) == {name for name, rule in RESIDUALS.items() if not rule.whole}


class Half(ResidualRule):
    """Half of P N, as a residual of somebody else's might be."""

    def terms(self, gradients: Refresh, grad_scale: float) -> Terms:
        p, n, dense = super().terms(gradients, grad_scale)
        assert n is not None
        return Terms(p, n / 2, dense)


class Signs(Inner):
    """The sign of the gradient, without a state beside the count of steps."""

    def shapes(self, shape: torch.Size) -> dict[str, tuple[int, ...]]:
        return {}

    def direction(self, gradient: Tensor, grad_scale: float, dtype: torch.dtype) -> Tensor:
        self.begin(gradient.shape, gradient.device)
        return -gradient.sign().to(dtype)


def moved(part: str, kind: type | None, **options: object) -> Tensor:
    """Where a weight goes in four steps over a refresh, `kind` in the place of the slot's `part`."""
    weight = nn.Parameter(torch.zeros(12, 20))
    optimizer = GaLoreAdamW([{"params": [weight], "rank": 4}], lr=1e-2, update_proj_gap=2, seed=1, **options)  # type: ignore[arg-type]
    (slot,) = optimizer.projected
    if part == "residual" and kind is not None:
        slot.residual = kind(slot.subspace, slot.inner)
    if part == "inner" and kind is not None:
        slot.inner = slot.residual.inner = kind(slot.weight, "float32")
    draw = torch.Generator().manual_seed(0)
    for _ in range(4):
        (weight * torch.randn(12, 20, generator=draw)).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert slot.planned_state().keys() == slot.state.keys()
    return weight.detach()


def test_a_residual_of_somebody_elses_takes_the_place_of_one_of_ours() -> None:
    torch.testing.assert_close(moved("residual", Half), moved("residual", None) / 2)


def test_an_inner_rule_of_somebody_elses_does() -> None:
    """By its first step Adam's direction is the sign; the weight stays within the subspaces."""
    ours = moved("inner", Signs, transport="keep")
    assert torch.linalg.matrix_rank(ours) <= 8
    assert 0 < ours.norm() < 4 * 1e-2 * 0.25 * (4 * 20) ** 0.5 * 1.01
