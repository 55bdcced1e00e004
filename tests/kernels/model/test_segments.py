"""Attention within segments: what each of them alone gives, whatever lies beside it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from galore.kernels.device import capability_of_meta, meta_stands_for
from galore.kernels.model import segments as module
from galore.kernels.model.segments import Segments, runs_varlen, segment_attention

ROWS = {
    "of any length": [[5, 3, 8], [16]],
    "equal": [[4, 4, 4, 4], [4, 4, 4, 4]],
    "one a row": [[16], [16]],
    "of one token": [[1, 1, 14], [15, 1]],
}
HEADS, SIZE = 4, 8
SCALE = 0.3


def positions_of(rows: list[list[int]]) -> Tensor:
    return torch.stack([torch.cat([torch.arange(length) for length in row]) for row in rows])


def whole(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return sdpa(q, k, v, mask, is_causal=mask is None, scale=SCALE, enable_gqa=True).transpose(1, 2)


def drawn(groups: int, dtype: torch.dtype, **where: Any) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, heads, 16, SIZE, dtype=dtype, **where).requires_grad_() for heads in (HEADS, groups, groups)]


def blockwise(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, window: int | None) -> Tensor:
    """The statement: scores of tokens outside the document, in the future or before the window are -inf."""
    document = (positions == 0).cumsum(1)
    near = torch.arange(16) - torch.arange(16)[:, None]
    seen = (document[:, :, None] == document[:, None]) & (near <= 0)
    if window is not None:
        seen &= near > -window
    k, v = (x.repeat_interleave(HEADS // x.shape[1], 1) for x in (k, v))
    scores = (q @ k.mT * SCALE).masked_fill(~seen[:, None], float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("name", ROWS)
def test_a_token_sees_its_own_segment_up_to_itself(name: str, groups: int, window: int | None) -> None:
    positions, inputs = positions_of(ROWS[name]), drawn(groups, torch.float64)
    out = segment_attention(*inputs, Segments.of(positions, torch.device("cpu")), whole, SCALE, window)
    expected = blockwise(*inputs, positions, window)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    toward = torch.randn_like(out)
    for found, truth in zip(
        torch.autograd.grad(out, inputs, toward), torch.autograd.grad(expected, inputs, toward), strict=True
    ):
        torch.testing.assert_close(found, truth, rtol=0, atol=1e-12)


def test_bounds_are_those_of_all_rows_one_after_another() -> None:
    segments = Segments.of(positions_of(ROWS["of any length"]), torch.device("cpu"))
    assert segments.lengths == (5, 3, 8, 16)
    assert segments.bounds.tolist() == [0, 5, 8, 16, 32]
    assert segments.bounds.dtype == torch.int32
    assert (segments.longest, segments.are_equal) == (16, False)


def test_flash_attention_takes_half_precision_on_cards_that_have_it() -> None:
    with meta_stands_for("cuda"):
        for card, dtype, size, takes in [
            ((8, 9), torch.bfloat16, 64, True),
            ((8, 9), torch.float32, 64, False),
            ((7, 5), torch.float16, 64, False),
            ((8, 0), torch.float16, 63, False),
        ]:
            x = torch.empty(2, 4, 16, size, dtype=dtype, device="meta")
            with capability_of_meta(card):
                assert runs_varlen(x, x) is takes
    assert not runs_varlen(torch.empty(1, 1, 1, 64, dtype=torch.bfloat16), torch.empty(1, 1, 1, 64))


def test_flash_attention_is_told_bounds_window_and_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its kernel is asked for, on a machine that has none: the same product, carried out by hand."""
    asked: dict[str, Any] = {}

    def varlen(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, *longest: int, **given: Any) -> Tensor:
        asked.update(given, longest=longest)
        assert cu_q is cu_k
        left = given["window_size"][0]
        parts = []
        for start, stop in zip(cu_q.tolist()[:-1], cu_q.tolist()[1:], strict=True):
            part = (x[start:stop].transpose(0, 1)[None] for x in (q, k, v))
            mask = torch.ones(stop - start, stop - start, dtype=torch.bool).tril_()
            mask = mask if left < 0 else mask.triu_(-left)
            parts.append(sdpa(*part, mask, scale=given["scale"], enable_gqa=True)[0].transpose(0, 1))
        return torch.cat(parts)

    monkeypatch.setattr(module, "varlen_attn", varlen)
    monkeypatch.setattr(module, "runs_varlen", lambda q, v: True)
    positions, inputs = positions_of(ROWS["of any length"]), drawn(2, torch.float64)
    segments = Segments.of(positions, torch.device("cpu"))
    for window in (None, 3):
        out = segment_attention(*inputs, segments, whole, SCALE, window)
        torch.testing.assert_close(out, blockwise(*inputs, positions, window), rtol=0, atol=1e-12)
        assert asked["window_size"] == (-1 if window is None else window - 1, 0)
    assert asked["longest"] == (16, 16)
    monkeypatch.setattr(module, "varlen_attn", None)
    segment_attention(*inputs, segments, whole, SCALE, fused=False)


@pytest.mark.card
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU; the twin above checks what it is asked")
@pytest.mark.parametrize("window", [None, 3])
def test_flash_attention_gives_what_each_segment_gives(window: int | None) -> None:
    positions, inputs = positions_of(ROWS["of any length"]), drawn(2, torch.bfloat16, device="cuda")
    segments = Segments.of(positions, torch.device("cuda"))
    assert runs_varlen(inputs[0], inputs[2])
    out = segment_attention(*inputs, segments, whole, SCALE, window)
    expected = blockwise(*(x.cpu().double() for x in inputs), positions, window)
    torch.testing.assert_close(out.cpu().double(), expected, rtol=0, atol=2e-2)
    out.float().square().sum().backward()
    assert all(x.grad is not None and bool(x.grad.isfinite().all()) for x in inputs)
