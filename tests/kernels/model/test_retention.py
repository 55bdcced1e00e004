"""Retention: the paper's double sum, and the forms that are equal to it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.utils._python_dispatch
from torch import Tensor

from galore.kernels.model.retention import chunkwise, decays, parallel, recurrent, retention, rotate, rotations

THETA = 10_000.0
BOUND = {torch.float64: 1e-12, torch.float32: 1e-5}  # of the largest output
Drawn = tuple[Tensor, Tensor, Tensor]


def drawn(length: int, dtype: torch.dtype, batch: int = 2, heads: int = 3, keys: int = 8, values: int = 12) -> Drawn:
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, heads, length, width) for width in (keys, keys, values))
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)
    return q, k, v


def turns(length: int, dtype: torch.dtype, keys: int = 8) -> tuple[Tensor, Tensor]:
    return rotations(length, keys, THETA, torch.device("cpu"), dtype)


def whole(q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Tensor:
    cos, sin = turns(q.shape[2], q.dtype)
    return parallel(rotate(q, cos, sin), rotate(k, cos, sin), v, decays(q.shape[1]), **more)


def token_by_token(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    state, outs = None, []
    for t in range(q.shape[2]):
        now = slice(t, t + 1)
        out, state = recurrent(q[:, :, now], k[:, :, now], v[:, :, now], turns(1, q.dtype), decays(q.shape[1]), state)
        outs.append(out)
    assert state is not None
    return torch.cat(outs, dim=2), state


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def test_is_the_double_sum_of_the_paper() -> None:
    q, k, v = drawn(9, torch.float64, batch=1, heads=2)
    expected = torch.zeros_like(v)
    for head in range(2):
        gamma = 1 - 2 ** (-5 - head)
        for n in range(9):
            for m in range(n + 1):
                turned = torch.zeros((), dtype=torch.float64)
                for pair in range(4):  # complex q · conj(k) · e^{iθ(n-m)}, of which the real part counts
                    angle = (n - m) * THETA ** -(pair / 3)
                    q_, k_ = (
                        complex(float(x[0, head, t, pair]), float(x[0, head, t, pair + 4])) for x, t in ((q, n), (k, m))
                    )
                    turned += (q_ * k_.conjugate() * complex(math.cos(angle), math.sin(angle))).real
                expected[0, head, n] += gamma ** (n - m) * turned * v[0, head, m]
    assert apart(whole(q, k, v), expected) < 1e-13


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("chunk", [1, 7, 16, 61, 100])
def test_chunks_and_single_tokens_are_the_whole(chunk: int, dtype: torch.dtype) -> None:
    q, k, v = drawn(61, dtype)
    out, state = retention(q, k, v, turns(61, dtype), chunk)
    single, last = token_by_token(q, k, v)
    assert apart(out, whole(q, k, v)) < BOUND[dtype]
    assert apart(single, whole(q, k, v)) < BOUND[dtype]
    assert apart(state, last) < BOUND[dtype]


@pytest.mark.parametrize("dtype", BOUND)
def test_a_sequence_goes_on_where_its_state_ended(dtype: torch.dtype) -> None:
    q, k, v = drawn(50, dtype)
    parts, state = [], None
    for here in (slice(0, 23), slice(23, 24), slice(24, 50)):
        length = here.stop - here.start
        out, state = retention(q[:, :, here], k[:, :, here], v[:, :, here], turns(length, dtype), 8, state)
        parts.append(out)
    assert apart(torch.cat(parts, dim=2), whole(q, k, v)) < BOUND[dtype]


@pytest.mark.parametrize("chunk", [8, 64])
def test_gradients_of_chunks_are_those_of_the_whole(chunk: int) -> None:
    grads = []
    for form in ("parallel", "chunks"):
        inputs = [x.requires_grad_() for x in drawn(37, torch.float64)]
        out = whole(*inputs) if form == "parallel" else retention(*inputs, turns(37, torch.float64), chunk)[0]
        out.square().sum().backward()  # type: ignore[no-untyped-call]
        grads.append([x.grad for x in inputs])
    for one, other in zip(*grads, strict=True):
        assert one is not None
        assert other is not None
        assert apart(one, other) < 1e-12


@pytest.mark.parametrize("chunk", [8, 16, 64])
def test_documents_see_nothing_of_each_other(chunk: int) -> None:
    q, k, v = drawn(61, torch.float64)
    documents = torch.zeros(2, 61, dtype=torch.long)
    for row, starts in enumerate(((16, 17, 40), (5, 32))):  # at a chunk's first token, within one, two in one
        for start in starts:
            documents[row, start:] += 1
    out, _ = retention(q, k, v, turns(61, torch.float64), chunk, documents=documents)
    for row in range(2):
        for number in documents[row].unique():
            here = documents[row] == number
            alone = whole(*(x[row : row + 1, :, here] for x in (q, k, v)))
            assert apart(out[row : row + 1, :, here], alone) < 1e-12


def test_stays_exact_at_great_lengths() -> None:
    q, k, v = drawn(20_000, torch.float32, batch=1, heads=8)
    out, state = retention(q, k, v, turns(20_000, torch.float32), 128)
    exact, last = retention(*(x.double() for x in (q, k, v)), turns(20_000, torch.float64), 128)
    assert apart(out[:, :, -100:].double(), exact[:, :, -100:]) < 1e-5
    assert apart(state.double(), last) < 1e-5


def test_angles_are_exact_at_great_lengths() -> None:
    cos, sin = turns(100_001, torch.float32)
    for pair in range(4):
        angle = 100_001 * THETA ** -(pair / 3)
        assert float(cos[-1, pair]) == pytest.approx(math.cos(angle), abs=1e-6)
        assert float(sin[-1, pair]) == pytest.approx(math.sin(angle), abs=1e-6)


def test_half_precision_keeps_its_states_in_float32() -> None:
    q, k, v = (x.to(torch.bfloat16) for x in drawn(64, torch.float32))
    out, state = retention(q, k, v, turns(64, torch.float32), 16)
    exact = whole(*(x.double() for x in (q, k, v)))
    assert (out.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    assert apart(out.double(), exact) < 0.02


def test_memories_double_from_head_to_head() -> None:
    assert decays(3).tolist() == [1 - 1 / 32, 1 - 1 / 64, 1 - 1 / 128]


def test_a_long_sequence_takes_scores_of_its_chunks_only() -> None:
    q, k, v = (x.to("meta") for x in drawn(256, torch.float32))
    largest = 0
    for chunk, bound in ((16, 256 * 16), (256, 256 * 256)):
        with Largest() as seen:
            chunkwise(q, k, v, decays(3).to("meta"), chunk)
        largest = seen.elements
        assert bound <= largest <= 2 * 3 * bound * (2 if chunk == 16 else 1)


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """The number of elements of the largest tensor that is made in it."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.elements = max(self.elements, out.numel())
        return out


@pytest.mark.parametrize(("length", "chunk"), [(4097, 4096), (6000, 3500), (4100, 8192)])
def test_a_long_chunk_that_is_not_filled_leaves_the_state_of_short_ones(length: int, chunk: int) -> None:
    """γ to the power of what is missing is 0 in fp32."""
    given = drawn(length, torch.float32, batch=1)
    found, expected = (retention(*given, turns(length, torch.float32), size)[1] for size in (chunk, 64))
    assert apart(found, expected) < 10 * BOUND[torch.float32]
