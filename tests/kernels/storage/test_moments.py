"""Each storage reads back what it was given, to its precision, block by block; tensors' dtypes say which it is."""

import pytest
import torch

from galore.kernels.reference import operations as reference
from galore.kernels.storage import fp8
from galore.kernels.storage.blockwise import code
from galore.kernels.storage.moments import Moments
from galore.trainer.optim.parts.storage import moment, moments, new_state

# largest error over the absmax of its block, of the first and of the second moment
ERRORS = {"float32": (0.0, 0.0), "8bit": (0.0071, 0.0036), "fp8": (16 / 448 * 1.01, 32 / 448 * 1.05)}


@pytest.mark.parametrize("dtype", ERRORS)
def test_a_round_trip_in_blocks(dtype):
    torch.manual_seed(0)
    shape, state = torch.Size((20, 300)), {}
    for name in ("exp_avg", "exp_avg_sq"):
        state |= new_state(name, shape, dtype, torch.device("cpu"))
    kept = moments(state)
    values = torch.randn(6000), torch.rand(6000)
    for name, storage, value, error in zip(
        ("exp_avg", "exp_avg_sq"), kept.storages, values, ERRORS[dtype], strict=True
    ):
        assert not storage.read(0, 6000).any()  # zeros at first
        for first in range(0, 6000, 1024):
            last = min(first + 1024, 6000)
            storage.write(first, last, value[first:last].clone())
        absmax = (
            torch.nn.functional.pad(value, (0, -6000 % 256)).view(-1, 256).abs().amax(1).repeat_interleave(256)[:6000]
        )
        assert ((storage.read(0, 6000) - value).abs() <= error * absmax + 1e-7).all()
        assert torch.equal(storage.read(512, 1024), storage.read(0, 6000)[512:1024])
        assert torch.equal(moment(state, name).read(0, 6000), storage.read(0, 6000))


def test_kinds_and_bytes():
    wide = Moments(torch.zeros(2, 256), torch.zeros(2, 256))
    assert (wide.kind, wide.nbytes) == ("float32", 4096)
    absmax = torch.zeros(2)
    codes = torch.zeros(2, 256, dtype=torch.float8_e4m3fn)
    assert Moments(codes, codes, absmax, absmax).kind == "e4m3"
    assert Moments(codes.view(torch.uint8), codes.view(torch.uint8), absmax, absmax).kind == "dynamic"
    assert Moments(codes, codes, absmax, absmax).nbytes == 2 * (512 + 8)


def test_dynamic_codes_are_the_references():
    values, x = code(True, torch.device("cpu")), torch.randn(1000)
    state = new_state("exp_avg", torch.Size((5, 1000)), "8bit", torch.device("cpu"))
    state["exp_avg"], state["exp_avg_absmax"] = state["exp_avg"].view(-1)[:1000], state["exp_avg_absmax"][:4]
    kept = Moments(state["exp_avg"], state["exp_avg"], state["exp_avg_absmax"], state["exp_avg_absmax"])
    kept.storages[0].write(0, 1000, x.clone())
    codes, absmax = reference.quantize_blocks(x, values)
    assert torch.equal(kept.m, codes)
    assert torch.equal(kept.m_absmax, absmax)


def test_e4m3_keeps_a_nan_in_its_block():
    x, codes, absmax = torch.randn(512), torch.zeros(512, dtype=torch.float8_e4m3fn), torch.zeros(2)
    x[3] = torch.nan
    fp8.quantize_(codes, absmax, x)
    back = fp8.dequantize(codes, absmax)
    assert back[:256].isnan().all()
    assert back[256:].isfinite().all()


def test_an_optimizer_with_e4m3_moments_learns_as_one_with_fp32():
    from galore.trainer.optim import GaLoreAdamW

    torch.manual_seed(0)
    target, losses = torch.randn(64, 128), {}
    for dtype in ("float32", "fp8"):
        w = torch.nn.Parameter(torch.zeros(64, 128))
        optimizer = GaLoreAdamW([{"params": [("w", w)], "rank": 48}], lr=0.1, state_dtype=dtype, seed=1)
        for _ in range(40):
            loss = (w - target).square().mean()
            loss.backward()
            optimizer.step()
        losses[dtype] = float(loss.detach())
        wanted = torch.float8_e4m3fn if dtype == "fp8" else torch.float32
        assert optimizer.state_tensors()["w.exp_avg"].dtype == wanted
    assert losses["fp8"] < 1.05 * losses["float32"] < 0.6
