"""What we stream is what the safetensors library reads."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from galore.trainer.durable import write_file
from galore.trainer.tensorfile import DTYPE_NAMES, stream, tensor_bytes


def _round_trip(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    write_file(path, stream(tensors))
    return dict(load_file(path))


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (3, 5), (2, 3, 4)])
def test_every_dtype_and_shape_comes_back_bit_for_bit(
    tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    tensor = (torch.randn(shape) * 10).to(dtype)
    back = _round_trip(tmp_path / "t", {"x": tensor, "odd": torch.ones(3, dtype=torch.uint8)})["x"]
    assert back.dtype == dtype
    assert back.shape == tensor.shape
    assert back.view(-1).view(torch.uint8).equal(tensor.view(-1).view(torch.uint8))


def test_strided_shared_and_special_values(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "transposed": base.T,
        "strided": base[::2, 1::3],
        "expanded": torch.ones(1, 1).expand(3, 4),
        "same": base,
        "same storage": base,
        "parameter": torch.nn.Parameter(base[1]),
        "special": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
    }
    back = _round_trip(tmp_path / "t", tensors)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(back[name].view(torch.int32), tensor.detach().contiguous().view(torch.int32)), name
    assert tensor_bytes(tensors) == sum(t.numel() * 4 for t in tensors.values())


@pytest.mark.parametrize(
    "tensor", [torch.ones(2, device="meta"), torch.ones(2).to_sparse(), torch.ones(2, dtype=torch.complex64)]
)
def test_what_the_format_lacks_is_refused_by_name(tensor: Tensor) -> None:
    with pytest.raises(TypeError, match="'odd one'"):
        list(stream({"odd one": tensor}))


def test_one_tensor_at_a_time_is_made_contiguous() -> None:
    parts = stream({name: torch.ones(64, 64).T for name in "abc"})
    next(parts)
    sizes = [len(memoryview(part).cast("B")) for part in parts]
    assert sizes == [64 * 64 * 4] * 3
