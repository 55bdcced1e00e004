"""The compiled update of int8 weights is eager's, up to codes whose sum lies within fp32 rounding of a bound."""

import shutil

import pytest
import torch

from galore.kernels import int8_compiled
from galore.kernels.dispatch import BackendError
from galore.kernels.int8 import add_update_int8_, quantize
from galore.kernels.projection import lift_update_

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="torch.compile needs a C++ compiler"
)


@needs_compiler
def test_as_eager(monkeypatch):
    """One compilation serves blocks of any height and every learning rate."""
    torch.manual_seed(0)
    for rows, alpha, after in ((40, -1e-3, False), (24, -2e-3, False), (40, -1e-3, True)):
        codes, scales = quantize(torch.randn(rows, 256) * 0.05)
        update, noise = torch.randn(rows, 256).bfloat16(), torch.randint(0, 1 << 16, (rows * 256,), dtype=torch.int32)
        other = codes.clone(), scales.clone()
        options = {"alpha": alpha, "decay": 0.999, "decay_after": after, "noise": noise}
        add_update_int8_(codes, scales, update, **options)
        add_update_int8_(*other, update, **options, compiled=True)
        assert torch.equal(scales, other[1])
        assert float((codes != other[0]).double().mean()) < 1e-3
        assert int((codes.int() - other[0].int()).abs().max()) <= 1


@needs_compiler
def test_asked_for_by_name():
    codes, scales = quantize(torch.randn(32, 128))
    before, p, n = codes.clone(), torch.randn(32, 4), torch.randn(4, 128)
    lift_update_(codes, p, n, alpha=0.1, scales=scales, transposed=False, backend="compile")
    assert not torch.equal(codes, before)


def test_without_a_compiler_it_is_refused(monkeypatch):
    monkeypatch.setattr(int8_compiled.shutil, "which", lambda name: None)
    codes, scales = quantize(torch.randn(32, 128))
    with pytest.raises(BackendError, match="needs a C"):
        lift_update_(
            codes,
            torch.randn(32, 4),
            torch.randn(4, 128),
            alpha=0.1,
            scales=scales,
            transposed=False,
            backend="compile",
        )
