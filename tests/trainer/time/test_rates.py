"""A card's rates: what bounds what, and that more work never takes less."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from galore.trainer.machine.cards import card
from galore.trainer.machine.gpus import GPUS
from galore.trainer.memory.trace.trace import Call, Operation
from galore.trainer.time.rates import KERNEL, CardRates, card_rates
from galore.trainer.time.work import Kind, Work


def rates(name: str = "rtx4090") -> tuple[CardRates, CardRates]:
    found = card_rates(card(name))
    assert found is not None
    return found


def product(m: int, n: int, k: int) -> Work:
    return Work("product", 2.0 * m * n * k, 2.0 * (m * k + k * n + m * n), torch.bfloat16, (1, m, n, k))


def test_a_large_product_reaches_its_share_of_the_peak() -> None:
    for each in rates():
        work = product(16_384, 16_384, 8192)
        reached = work.flops / each.of(work) / GPUS["RTX 4090"].tensor
        assert reached == pytest.approx(each.shares.product, rel=0.03)


def test_a_last_wave_that_is_almost_empty_costs_a_whole_one() -> None:
    _, fast = rates()
    assert fast.of(product(128 * 129, 256 * 8, 4096)) > 1.05 * fast.of(product(128 * 128, 256 * 8, 4096))


def test_a_thin_product_waits_for_memory() -> None:
    _, fast = rates()
    work = product(1, 32_768, 8192)
    assert fast.of(work) == pytest.approx(work.nbytes / (1008e9 * fast.shares.memory))


def test_what_fits_the_cache_passes_faster() -> None:
    _, fast = rates()
    small, large = (fast.of(Work("pass", 0, nbytes)) / nbytes for nbytes in (16 << 20, 256 << 20))
    assert large == pytest.approx(4 * small)
    _, old = rates("rtx3090")
    assert old.of(Work("pass", 0, 16 << 20)) > 4 * fast.of(Work("pass", 0, 16 << 20))


def test_nothing_is_shorter_than_a_launch() -> None:
    slow, _ = rates()
    assert slow.of(Work("pass", 0, 4)) == KERNEL
    assert slow.of(Work("nothing", 0, 0)) == 0


@pytest.mark.parametrize("shape", [(0, 64, 64, 64), (1, 0, 64, 64), (1, 64, 0, 64), (1, 64, 64, 0)])
def test_a_product_of_nothing_is_a_launch(shape: tuple[int, ...]) -> None:
    for each in rates():
        assert each.of(Work("product", 0, 0, torch.bfloat16, shape)) == KERNEL


@pytest.mark.parametrize("kind", get_args(Kind))
def test_work_of_no_numbers_takes_a_time(kind: Kind) -> None:
    for each in rates():
        assert 0 <= each.of(Work(kind, 0, 0, torch.float8_e4m3fn, (0, 0, 0, 0))) < 1e-2


def test_the_bus_is_another_than_the_memory() -> None:
    _, fast = rates()
    assert fast.of(Work("to host", 0, 32e9)) == pytest.approx(1 / 0.8)


def test_the_slow_end_is_slower() -> None:
    slow, fast = rates()
    for work in (
        product(512, 512, 512),
        Work("pass", 0, 1e9),
        Work("decomposition", 1e9, 1e6),
        Work("to host", 0, 1e9),
    ):
        assert slow.of(work) > fast.of(work)
    operation = Operation(Call("lift", (1, 1), ()), ())
    assert slow.asked(operation) > fast.asked(operation) > 0


def test_a_card_without_figures_has_no_rates() -> None:
    assert card_rates(card("12GB")) is None


@pytest.mark.parametrize(("name", "times"), [("int8 product", 4.0), ("fp8 product", 2.0), ("lift", 1.0)])
def test_products_in_8_bits_go_by_their_own_peak(name: str, times: float) -> None:
    """An RTX 4090 multiplies int8 at four times its rate of bf16 with fp32 sums, e4m3 at twice that of bf16."""
    for each in rates():
        reached = 1e15 / each.seconds(Operation(Call(name, (1e15, 1), ()), ()))
        share = each.shares.product if name == "lift" else each.shares.eight
        assert reached == pytest.approx(165.2e12 * times * share)
