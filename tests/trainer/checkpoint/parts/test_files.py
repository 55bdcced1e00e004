"""Files of parts: what several ranks write comes back whole, bit for bit, here and by PyTorch's distributed checkpoint."""

import json
import os
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch import Tensor

from galore.trainer.checkpoint import rotation
from galore.trainer.checkpoint.checkpoint import newest_verified, save
from galore.trainer.checkpoint.manifest import Damaged
from galore.trainer.checkpoint.parts import files
from galore.trainer.checkpoint.parts.files import Saved, files_by_group, in_parts, part_name, write_own, write_whole
from galore.trainer.checkpoint.tensorfile import DTYPE_NAMES, Parted, Stored
from galore.trainer.common.errors import RunFailed
from galore.trainer.optim.parts.shards import Shard

WHOLE = {"projector": torch.arange(12.0).view(3, 4), "count": torch.tensor(7), "mask": torch.tensor([True, False])}


def parted(whole: Tensor, dim: int, rank: int, size: int) -> Parted:
    """The part of `whole` that a rank has, and nothing that could gather it."""
    shard = Shard(dim, whole.shape[dim], rank, size)
    offset = tuple(shard.start if each == dim else 0 for each in range(whole.dim()))
    return Parted(whole.shape, whole.dtype, lambda: pytest.fail("gathered"), shard.of(whole), offset)


def groups(cut: dict[str, tuple[Tensor, int]], rank: int, size: int) -> dict[str, dict[str, Stored]]:
    held = {name: parted(whole, dim, rank, size) for name, (whole, dim) in cut.items()}
    return {"model": {**held, **WHOLE}, "rng": {"cpu": torch.arange(5, dtype=torch.uint8)}}


def written(folder: Path, cut: dict[str, tuple[Tensor, int]], size: int) -> Saved:
    for rank in range(size):
        write_own(folder, groups(cut, rank, size), rank, size)
    return Saved([folder / part_name("model", rank, size) for rank in range(size)])


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("dtype", DTYPE_NAMES)
def test_parts_of_every_dtype_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype, size: int) -> None:
    cut = {f"{dim} {shape}": ((torch.randn(shape) * 10).to(dtype), dim) for shape in [(5,), (6, 5), (2, 5, 4)] for dim in range(len(shape))}  # fmt: skip
    saved = written(tmp_path, cut, size)
    assert saved.keys() == cut.keys() | WHOLE.keys()
    for name, tensor in {**WHOLE, **{name: whole for name, (whole, _) in cut.items()}}.items():
        assert (saved[name].dtype, saved[name].shape, saved.sizes[name]) == (tensor.dtype, tensor.shape, tensor.shape)
        assert torch.equal(bits(saved[name]), bits(tensor)), name


CUT = {"rows": (torch.randn(5, 6), 0), "columns": (torch.randn(6, 9).bfloat16(), 1)}


def test_what_is_whole_everywhere_is_written_once_and_shared_out(tmp_path: Path) -> None:
    written(tmp_path, CUT, 4)
    held = []
    for rank in range(4):
        with safe_open(tmp_path / part_name("model", rank, 4), "pt") as opened:
            held.append(set(opened.keys()) & WHOLE.keys())
    assert sorted(name for each in held for name in each) == sorted(WHOLE)
    assert max(map(len, held)) == 1
    assert sorted(path.name for path in tmp_path.glob("rng*")) == ["rng.safetensors"]
    assert in_parts(groups(CUT, 0, 4)) == ["model"]


def test_files_are_the_same_in_whatever_order_tensors_come(tmp_path: Path) -> None:
    """A run that was resumed has them in another one, and leaves what an undisturbed one does."""
    equal = {f"p{n}": torch.full((4,), float(n)) for n in range(5)} | {"w": parted(torch.ones(4, 2), 0, 0, 2)}
    for folder, order in (("one", 1), ("other", -1)):
        (tmp_path / folder).mkdir()
        write_own(tmp_path / folder, {"model": dict(list(equal.items())[::order])}, 0, 2)
    first, second = (tmp_path / folder / part_name("model", 0, 2) for folder in ("one", "other"))
    assert first.read_bytes() == second.read_bytes()


def test_distributed_checkpoint_reads_them_and_they_read_its(tmp_path: Path) -> None:
    """Any program with torch alone goes on with them, and nothing but safetensors is there."""
    saved = written(tmp_path, CUT, 2)
    read = {name: torch.full_like(saved[name], 1) for name in saved}
    (tmp_path / "its").mkdir()
    writer = dcp.HuggingFaceStorageWriter(str(tmp_path / "its"), save_distributed=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no group
        dcp.load(read, storage_reader=dcp.HuggingFaceStorageReader(str(tmp_path)), no_dist=True)
        dcp.save({name: whole for name, (whole, _) in CUT.items()}, storage_writer=writer, no_dist=True)
    its = Saved(sorted((tmp_path / "its").iterdir()))
    for name, (whole, _) in CUT.items():
        assert torch.equal(read[name], whole)
        assert torch.equal(its[name], whole)
    assert all(torch.equal(read[name], each) for name, each in WHOLE.items())


def test_a_tensor_that_is_taken_is_gone(tmp_path: Path) -> None:
    saved = written(tmp_path, CUT, 2)
    assert torch.equal(saved.pop("rows"), CUT["rows"][0])
    assert "rows" not in saved
    assert "rows" not in saved.sizes


def test_whole_files_are_read_alike(tmp_path: Path) -> None:
    assert list(write_whole(tmp_path, {"model": WHOLE})) == ["model.safetensors"]
    saved = Saved([tmp_path / "model.safetensors"])
    assert all(torch.equal(saved[name], each) for name, each in WHOLE.items())


def test_no_part_is_made_up(tmp_path: Path) -> None:
    written(tmp_path, CUT, 3)
    with pytest.raises(RunFailed, match=r"(rows|columns) is not whole in what is there"):
        Saved([tmp_path / part_name("model", rank, 3) for rank in (0, 2)])
    listed = [part_name("model", 0, 3), part_name("model", 2, 3), "state.json", "rng.safetensors"]
    with pytest.raises(Damaged, match=r"not list all parts of model: model.part-1-of-3.safetensors, model.part-3-"):
        files_by_group(listed)
    every = files_by_group([*listed, part_name("model", 1, 3)])
    assert {group: len(names) for group, names in every.items()} == {"model": 3, "rng": 1}


def test_a_part_that_fails_once_it_is_verified(tmp_path: Path) -> None:
    saved = written(tmp_path, CUT, 2)

    class Broken:
        def get_tensor(self, name: str) -> None:
            raise OSError(5, os.strerror(5))

    second = saved._parts["rows"][1]
    saved._parts["rows"][1] = files._Part(second.file, Broken(), second.offset, second.shape)
    with pytest.raises(RunFailed, match=r"cannot be read, which it could a moment ago: .*Input/output error") as told:
        saved["rows"]
    assert told.value.where.endswith("model.part-2-of-2.safetensors")


def save_in_parts(root: Path, step: int) -> Path:
    cut = {name: (whole + step, dim) for name, (whole, dim) in CUT.items()}

    def write(directory: Path, of_first: files.Groups) -> dict[str, files.Written]:
        others = write_own(directory, groups(cut, 1, 2), 1, 2)
        return others | write_own(directory, of_first, 0, 2)

    return save(root, step, groups(cut, 0, 2), {"step": step}, 2, write=write)


FIRST, SECOND = part_name("model", 0, 2), part_name("model", 1, 2)


def exchange(folder: Path) -> None:
    (folder / FIRST).rename(folder / "other")
    (folder / SECOND).rename(folder / FIRST)
    (folder / "other").rename(folder / SECOND)


def link_away(folder: Path) -> None:
    (folder / SECOND).rename(folder.parent / "elsewhere")
    (folder / SECOND).symlink_to(folder.parent / "elsewhere")


DAMAGES = {
    "is missing": lambda folder: (folder / SECOND).unlink(),
    "bytes, not": lambda folder: os.truncate(folder / SECOND, (folder / SECOND).stat().st_size - 1),
    r"bytes, not|does not match its SHA-256": exchange,
    "is not a regular file": link_away,
    "has another step's": lambda folder: (folder / SECOND).write_bytes((folder.parent / "step-00000001" / SECOND).read_bytes()),
}  # fmt: skip


@pytest.mark.parametrize("reason", DAMAGES)
def test_damage_of_a_part_is_named_and_the_checkpoint_before_is_taken(tmp_path: Path, reason: str) -> None:
    rotation._trusted.clear()
    root = tmp_path / "checkpoints"
    save_in_parts(root, 1)
    DAMAGES[reason](save_in_parts(root, 2))
    found, skipped = newest_verified(root)
    assert found is not None
    assert (found.step, found.groups) == (1, ("model", "rng"))
    assert torch.equal(found.load("model")["rows"], CUT["rows"][0] + 1)
    expected = "does not match its SHA-256" if "another" in reason else reason
    assert skipped[0].reason.startswith(("model.part-1", "model.part-2"))
    assert any(each in skipped[0].reason for each in expected.split("|"))


def test_a_checkpoint_in_parts_holds_safetensors_and_json_alone(tmp_path: Path) -> None:
    path = save_in_parts(tmp_path / "checkpoints", 1)
    names = sorted(each.name for each in path.iterdir())
    assert names == ["manifest.json", FIRST, SECOND, "rng.safetensors", "state.json"]
    for name in names:
        if name.endswith(".json"):
            json.loads((path / name).read_text())
        else:
            with safe_open(path / name, "pt") as opened:
                assert opened.keys()
    assert set(json.loads((path / "manifest.json").read_text())["files"]) == set(names) - {"manifest.json"}
