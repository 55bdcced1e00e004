"""What we stream is what the safetensors library reads."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from galore.trainer.checkpoint.tensorfile import DTYPE_NAMES, stream, tensor_bytes
from galore.trainer.common.durable import write_file


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


def test_every_tensor_starts_at_a_multiple_of_its_item_size(tmp_path: Path) -> None:
    """Readers map the file into memory and view it as the tensor's type."""
    write_file(
        tmp_path / "t", stream({"a": torch.ones(3, dtype=torch.uint8), "b": torch.ones(2), "c": torch.tensor(1)})
    )
    content = (tmp_path / "t").read_bytes()
    length = int.from_bytes(content[:8], "little")
    starts = {
        name: entry["data_offsets"][0]
        for name, entry in json.loads(content[8 : 8 + length]).items()
        if "dtype" in entry
    }
    assert length % 8 == 0
    assert (starts["b"] % 4, starts["c"] % 8) == (0, 0)


def test_one_tensor_at_a_time_is_made_contiguous() -> None:
    parts = stream({name: torch.ones(64, 64).T for name in "abc"})
    next(parts)
    sizes = [len(memoryview(part).cast("B")) for part in parts]
    assert sizes == [64 * 64 * 4] * 3
