"""The chunked linear cross-entropy against torch's full logits, both measured against float64."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from galore.kernels.device import meta_stands_for
from galore.kernels.model import cross_entropy, softmax
from galore.kernels.model.cross_entropy import linear_cross_entropy, linear_loss

Case = tuple[Tensor, Tensor, Tensor]  # hidden (n, d), weight (V, d), targets (n,)


def case(n: int, d: int, vocab: int, dtype: torch.dtype, ignored: float = 0.2) -> Case:
    draw = torch.Generator().manual_seed(n * d + vocab)
    hidden = torch.randn(n, d, generator=draw).to(dtype)
    weight = (torch.randn(vocab, d, generator=draw) / d**0.5).to(dtype)
    targets = torch.randint(0, vocab, (n,), generator=draw)
    targets[torch.rand(n, generator=draw) < ignored] = -100
    return hidden, weight, targets


def full_logits(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = hidden @ weight.T
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets, reduction="sum")


def full_logits_with_z(hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float) -> Tensor:
    logits = hidden @ weight.T
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    lse = logits.logsumexp(1)[targets != -100]
    return F.cross_entropy(logits, targets, reduction="sum") + z_loss * lse.square().sum()


def ours_with_z(hidden: Tensor, weight: Tensor, targets: Tensor, **how) -> Tensor:
    return linear_loss(hidden, weight, targets, **how).total


def loss_and_gradients(loss_of, case: Case, upstream: float = 1.0, **how) -> tuple[Tensor, Tensor, Tensor]:
    hidden, weight = (t.detach().clone().requires_grad_() for t in case[:2])
    loss = loss_of(hidden, weight, case[2], **how)
    (loss * upstream).backward()
    return loss.detach(), hidden.grad, weight.grad


def error(result: Tensor, exact: Tensor) -> float:
    return ((result.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [None, 1, 7, 64, 10_000])
@pytest.mark.parametrize(("n", "d", "vocab"), [(129, 48, 1000), (64, 33, 257), (1, 8, 2)])
def test_error_is_no_larger_than_that_of_full_logits(n, d, vocab, chunk, dtype):
    inputs = case(n, d, vocab, dtype, ignored=0.2 if n > 1 else 0.0)
    exact = loss_and_gradients(full_logits, tuple(t.double() if t.is_floating_point() else t for t in inputs), 0.37)
    plain = loss_and_gradients(full_logits, inputs, 0.37)
    ours = loss_and_gradients(linear_cross_entropy, inputs, 0.37, chunk=chunk)
    slack = 1.25 if dtype == torch.bfloat16 else 2.0  # sums in another order; a wrong rounding of the scale costs 1.5
    for name, mine, torchs, truth in zip(("loss", "d_hidden", "d_weight"), ours, plain, exact, strict=True):
        assert error(mine, truth) <= slack * error(torchs, truth) + 2e-7, name


@pytest.mark.parametrize("z_loss", [1e-4, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [None, 7])
def test_z_loss_is_as_exact_as_with_full_logits(chunk, dtype, z_loss):
    inputs = case(129, 48, 1000, dtype)
    in_double = tuple(t.double() if t.is_floating_point() else t for t in inputs)
    exact = loss_and_gradients(full_logits_with_z, in_double, 0.37, z_loss=z_loss)
    plain = loss_and_gradients(full_logits_with_z, inputs, 0.37, z_loss=z_loss)
    ours = loss_and_gradients(ours_with_z, inputs, 0.37, chunk=chunk, z_loss=z_loss)
    slack = 1.25 if dtype == torch.bfloat16 else 2.0
    for name, mine, torchs, truth in zip(("loss", "d_hidden", "d_weight"), ours, plain, exact, strict=True):
        assert error(mine, truth) <= slack * error(torchs, truth) + 2e-7, name


def test_z_loss_is_reported_apart_and_the_cross_entropy_is_what_it_was():
    inputs = case(50, 16, 1001, torch.float64)
    found, plain = linear_loss(*inputs, chunk=20, z_loss=0.01), linear_loss(*inputs, chunk=20)
    assert torch.equal(found.cross_entropy, plain.cross_entropy)
    kept = inputs[2] != -100
    lse = (inputs[0] @ inputs[1].T).logsumexp(1)[kept]
    torch.testing.assert_close(found.z, 0.01 * lse.square().sum())
    assert found.total == found.cross_entropy + found.z
    assert (plain.total, plain.z) == (plain.cross_entropy, 0)


def test_float64_gradcheck_of_the_z_loss():
    hidden, weight, targets = case(7, 5, 11, torch.float64)
    inputs = hidden.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda h, w: ours_with_z(h, w, targets, chunk=3, z_loss=0.2), inputs)


def test_z_loss_where_the_probability_of_the_target_underflows():
    inputs = torch.tensor([[1.0, 0.0]]), torch.tensor([[400.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), torch.tensor([2])
    found = loss_and_gradients(ours_with_z, inputs, z_loss=0.1)
    for mine, truth in zip(found, loss_and_gradients(full_logits_with_z, inputs, z_loss=0.1), strict=True):
        torch.testing.assert_close(mine, truth)


def test_many_vocabulary_blocks_and_softmax_blocks(monkeypatch):
    monkeypatch.setattr(cross_entropy, "VOCABULARY_BLOCK", 100)
    monkeypatch.setitem(softmax.ELEMENTS, "cpu", 3000)
    inputs = case(50, 16, 1001, torch.float32)
    for mine, truth in zip(
        loss_and_gradients(linear_cross_entropy, inputs, chunk=20), loss_and_gradients(full_logits, inputs), strict=True
    ):
        torch.testing.assert_close(mine, truth)


@pytest.mark.parametrize(
    ("rows", "dtype", "expected"),
    [
        (60, torch.bfloat16, True),  # two chunks spare 30 rows of logits and would widen a sum of 40
        (60, torch.float32, False),  # in fp32 it is no wider
        (160, torch.bfloat16, False),
        (40, torch.bfloat16, False),  # one chunk: nothing is summed
    ],
)
def test_a_second_pass_spares_the_sum_where_that_is_larger_than_what_chunks_spare(monkeypatch, rows, dtype, expected):
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", 40 * 100)
    passes: list[int] = []
    second = cross_entropy._by_vocabulary
    monkeypatch.setattr(cross_entropy, "_by_vocabulary", lambda *how: (passes.append(1), second(*how))[1])
    hidden, weight, targets = case(rows, 40, 100, dtype, ignored=0.0)
    linear_cross_entropy(hidden.requires_grad_(), weight, targets).backward()
    assert not passes  # a frozen head has no sum
    linear_cross_entropy(hidden, weight.requires_grad_(), targets).backward()
    assert bool(passes) is expected


@pytest.mark.parametrize("z_loss", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "d", "vocab", "columns"), [(129, 48, 1000, 128), (64, 33, 257, 256), (17, 8, 30, 100)])
def test_a_second_pass_is_as_exact_as_full_logits(monkeypatch, n, d, vocab, columns, dtype, z_loss):
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", 16 * vocab)
    monkeypatch.setattr(cross_entropy, "VOCABULARY_CHUNK", columns)
    monkeypatch.setitem(softmax.ELEMENTS, "cpu", 11 * min(columns, vocab))
    monkeypatch.setattr(cross_entropy, "_sum_costs_more", lambda *how: True)
    inputs = case(n, d, vocab, dtype)
    in_double = tuple(t.double() if t.is_floating_point() else t for t in inputs)
    exact = loss_and_gradients(full_logits_with_z, in_double, 0.37, z_loss=z_loss)
    plain = loss_and_gradients(full_logits_with_z, inputs, 0.37, z_loss=z_loss)
    ours = loss_and_gradients(ours_with_z, inputs, 0.37, z_loss=z_loss)
    slack = 1.25 if dtype == torch.bfloat16 else 2.0
    for name, mine, torchs, truth in zip(("loss", "d_hidden", "d_weight"), ours, plain, exact, strict=True):
        assert error(mine, truth) <= slack * error(torchs, truth) + 2e-7, name


def test_default_chunks_are_equal_and_small_enough(monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", 16 * 40)
    sizes: list[int] = []
    kernel = cross_entropy.softmax_minus_onehot_
    monkeypatch.setattr(
        cross_entropy, "softmax_minus_onehot_", lambda z, *how: (sizes.append(len(z)), kernel(z, *how))[1]
    )
    linear_cross_entropy(*case(65, 4, 16, torch.float32, ignored=0.0))
    assert sizes == [33, 32]


@pytest.mark.parametrize(
    ("rows", "vocab", "expected"),
    [
        (1024, 32_000, 1024),  # 64 MiB
        (1100, 32_000, 275),
        (2047, 32_000, 228),
        (8188, 32_000, 482),
        (8188, 128_000, 256),
        (65_536, 32_000, 1041),
    ],
)
def test_of_many_logits_a_gpu_takes_17_chunks_and_none_too_small_or_too_large(rows, vocab, expected):
    with meta_stands_for("cuda"):
        assert cross_entropy._chunk_rows(rows, torch.empty(vocab, 8, device="meta")) == expected


def test_float64_gradcheck():
    hidden, weight, targets = case(7, 5, 11, torch.float64)
    inputs = hidden.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda h, w: linear_cross_entropy(h, w, targets, chunk=3), inputs)


def test_loss_is_fp32_and_the_sum_in_nats():
    loss = linear_cross_entropy(*case(10, 4, 8, torch.bfloat16, ignored=0.0))
    assert loss.dtype == torch.float32
    uniform = linear_cross_entropy(torch.zeros(10, 4), torch.zeros(8, 4), torch.zeros(10, dtype=torch.int64))
    torch.testing.assert_close(uniform, 10 * torch.tensor(8.0).log())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_where_the_probability_of_the_target_underflows(dtype):
    hidden = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=dtype)
    weight = torch.tensor([[400.0, 0.0], [0.0, 1.0], [0.0, 0.0]], dtype=dtype)
    loss, d_hidden, _ = loss_and_gradients(linear_cross_entropy, (hidden, weight, torch.tensor([2, 1])))
    torch.testing.assert_close(loss, 400 + torch.tensor([0.0, 1.0, 0.0]).logsumexp(0) - 1)
    torch.testing.assert_close(d_hidden[0], torch.tensor([400.0, 0.0], dtype=dtype))


@pytest.mark.parametrize("chunk", [None, 3])
def test_all_ignored_is_zero_with_zero_gradients(chunk):
    hidden, weight, targets = case(8, 4, 16, torch.float32)
    results = loss_and_gradients(linear_cross_entropy, (hidden, weight, torch.full_like(targets, -100)), chunk=chunk)
    assert all(not result.any() for result in results)
    assert results[1].shape == hidden.shape


def test_ignored_rows_get_no_gradient_and_another_index_can_be_ignored():
    hidden, weight, targets = case(30, 4, 16, torch.float32)
    _, d_hidden, _ = loss_and_gradients(linear_cross_entropy, (hidden, weight, targets))
    assert not d_hidden[targets == -100].any()
    assert d_hidden[targets != -100].any(dim=1).all()
    as_three = torch.where(targets == -100, 3, targets)
    masked = torch.where(as_three == 3, -100, as_three)
    torch.testing.assert_close(
        linear_cross_entropy(hidden, weight, as_three, ignore_index=3), linear_cross_entropy(hidden, weight, masked)
    )


def test_frozen_head_frozen_hidden_and_evaluation():
    hidden, weight, targets = case(20, 4, 16, torch.float32)
    truth = loss_and_gradients(full_logits, (hidden, weight, targets))
    free = hidden.clone().requires_grad_()
    linear_cross_entropy(free, weight, targets, chunk=6).backward()
    torch.testing.assert_close(free.grad, truth[1])
    head = weight.clone().requires_grad_()
    linear_cross_entropy(hidden, head, targets, chunk=6).backward()
    torch.testing.assert_close(head.grad, truth[2])
    with torch.no_grad():
        loss = linear_cross_entropy(free, head, targets, chunk=6)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, truth[0])


def test_tied_weight_sums_both_gradients():
    _, weight, targets = case(20, 8, 16, torch.float32, ignored=0.0)

    def tied(loss_of, **how) -> Tensor:
        table = weight.clone().requires_grad_()
        loss_of(F.embedding(targets.roll(1), table), table, targets, **how).backward()
        return table.grad

    torch.testing.assert_close(tied(linear_cross_entropy), tied(full_logits))
    torch.testing.assert_close(tied(ours_with_z, z_loss=0.1), tied(full_logits_with_z, z_loss=0.1))


def test_backward_twice_gives_the_same():
    hidden, weight, targets = case(9, 4, 16, torch.float32)
    loss = linear_cross_entropy(hidden.requires_grad_(), weight, targets)
    first = torch.autograd.grad(loss, hidden, 2 * torch.ones(()), retain_graph=True)
    second = torch.autograd.grad(loss, hidden, 2 * torch.ones(()))
    assert torch.equal(first[0], second[0])


@pytest.mark.parametrize("vocab", [32_000, 128_000])
def test_memory_beside_the_gradients_is_a_sixteenth_of_bf16_logits(vocab):
    n, d = 2048, 8
    hidden, weight, targets = case(n, d, vocab, torch.bfloat16, ignored=0.0)
    with torch.profiler.profile(profile_memory=True) as profile:
        linear_cross_entropy(hidden.requires_grad_(), weight.requires_grad_(), targets, chunk=n // 64)
    allocations = [e.nbytes() for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    gradients = hidden.nbytes + (4 + 2) * weight.numel()  # of the weight: the fp32 sum and one bf16 block
    assert max(accumulate(allocations)) - gradients <= n * vocab * 2 / 16


@pytest.mark.parametrize(
    ("shapes", "chunk"),
    [(((3, 4), (5, 6), (3,)), None), (((3, 4), (5, 4), (2,)), None), (((3, 4), (5, 4), (3,)), 0)],
)
def test_bad_arguments_are_refused(shapes, chunk):
    hidden, weight, targets = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=r"expected|chunk"):
        linear_cross_entropy(hidden, weight, targets.long(), chunk=chunk)


@pytest.mark.parametrize(("n", "d", "chunk"), [(129, 48, None), (129, 48, 7), (400, 512, None)])
def test_weights_count_in_the_loss_and_its_gradients_and_kinds_are_summed_apart(n, d, chunk):
    inputs = case(n, d, 257, torch.float32)
    draw = torch.Generator().manual_seed(1)
    weights, kinds = torch.rand(n, generator=draw), torch.randint(0, 3, (n,), generator=draw)

    def weighted(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        logits = hidden @ weight.T
        each = F.cross_entropy(logits, targets, reduction="none") + 0.1 * logits.logsumexp(1).square()
        return (each * weights)[targets != -100].sum()

    how = {"chunk": chunk, "weights": weights, "kinds": kinds, "num_kinds": 3, "z_loss": 0.1}
    for mine, plain in zip(
        loss_and_gradients(ours_with_z, inputs, 0.37, **how), loss_and_gradients(weighted, inputs, 0.37), strict=True
    ):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-5)
    found, each = linear_loss(*inputs, **how), F.cross_entropy(inputs[0] @ inputs[1].T, inputs[2], reduction="none")
    torch.testing.assert_close(found.parts, torch.stack([each[kinds == kind].sum() for kind in range(3)]))
    torch.testing.assert_close(found.parts.sum(), found.cross_entropy)


def test_weights_of_one_give_the_same_bits():
    inputs = case(129, 48, 257, torch.bfloat16)
    ones = loss_and_gradients(ours_with_z, inputs, 0.37, weights=torch.ones(129))
    for mine, plain in zip(ones, loss_and_gradients(ours_with_z, inputs, 0.37), strict=True):
        assert torch.equal(mine, plain)
