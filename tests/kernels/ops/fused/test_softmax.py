"""The softmax of a loss: which implementation overwrites the logits, and that both give the same."""

import pytest
import torch

from galore.kernels.device import meta_stands_for
from galore.kernels.model.cross_entropy import linear_loss
from galore.kernels.ops.dispatch import BackendError, choose
from galore.kernels.ops.fused.softmax import SOFTMAX, case, softmax_minus_onehot_


def test_on_a_cpu_torch_does_it_and_triton_is_refused_by_name() -> None:
    logits, targets = torch.randn(3, 7), torch.tensor([0, 6, 2])
    losses, lse = torch.empty(3), torch.empty(3)
    wanted = torch.softmax(logits, 1) - torch.nn.functional.one_hot(targets, 7)
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    with pytest.raises(BackendError, match="for CUDA"):
        softmax_minus_onehot_(logits, targets, losses, lse, backend="triton")
    softmax_minus_onehot_(logits, targets, losses, lse)
    torch.testing.assert_close(logits, wanted)
    torch.testing.assert_close(losses, expected)


def test_a_gpu_is_asked_once_for_a_chunk_of_logits() -> None:
    """Nothing is made beside them, and the bytes are those of reading and writing them."""
    seen: list[tuple[str, int]] = []
    with meta_stands_for("cuda", lambda what, flops, nbytes: seen.append((what, nbytes))):
        hidden, weight = (
            torch.empty(*shape, dtype=torch.bfloat16, device="meta", requires_grad=True)
            for shape in ((600, 32), (1000, 32))
        )
        targets = torch.empty(600, dtype=torch.int64, device="meta")
        linear_loss(hidden, weight, targets, None, chunk=200, softmax=softmax_minus_onehot_)
    assert seen
    assert set(seen) == {(SOFTMAX, 2 * 200 * 1000 * 2)}


@pytest.mark.parametrize(("dtype", "who"), [(torch.bfloat16, "triton"), (torch.float64, "torch")])
def test_a_gpu_leaves_float64_to_torch(dtype: torch.dtype, who: str) -> None:
    with meta_stands_for("cuda"):
        assert choose(case(torch.empty(2, 3, dtype=dtype, device="meta"))).backend == who
