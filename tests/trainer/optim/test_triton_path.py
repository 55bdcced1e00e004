"""The optimizer on Triton's kernels takes the steps that it takes on torch's: sides, decay, α, moments and codes arrive right."""

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need the optional package triton")
import triton_interpreter
from kernel_machines import Interpreter, relative_error

from galore.kernels.ops import dispatch
from galore.trainer.optim import GaLoreAdamW


@pytest.fixture
def by_triton(monkeypatch):
    """Everything by interpreted kernels, and the names of those that were launched."""
    kernels, launched = Interpreter().kernels, []
    monkeypatch.setattr(dispatch, "unavailable", lambda device, e4m3=False: "")
    monkeypatch.setenv(dispatch.ENVIRONMENT, "triton")
    original = kernels.launch.Launch.run
    monkeypatch.setattr(kernels.launch.Launch, "run", lambda self: (launched.append(self.name), original(self))[1])
    with triton_interpreter.installed(kernels):
        yield launched


def steps(shape, dtype, **options):
    """The way that a weight goes in three steps of two micro-batches."""
    torch.manual_seed(0)
    w = torch.nn.Parameter((torch.randn(shape) * 0.02).to(dtype))
    start, targets = w.detach().clone(), torch.randn(6, *shape)
    group = {"params": [("w", w)], "rank": 16, "weight_decay": 0.5}
    optimizer = GaLoreAdamW([group], lr=3e-2, seed=3, update_proj_gap=2, **options)
    for step in range(3):
        for micro in range(2):
            (w.float() - targets[2 * step + micro]).square().sum().backward()
        optimizer.clip_grad_norm_(1.0)
        optimizer.step()
    return w.detach().float() - start.float()


CASES = {
    "fp32": (torch.float32, {}),
    "fp32, reference": (torch.float32, {"convention": "reference", "proj_type": "svd", "stagger": False}),
    "8 bit": (torch.float32, {"state_dtype": "8bit"}),
    "fp8": (torch.float32, {"state_dtype": "fp8"}),
    "bf16": (torch.bfloat16, {"weight_rounding": "nearest"}),
    "compensated": (torch.bfloat16, {"weight_rounding": "compensated"}),
    "int8 P": (torch.float32, {"projector_dtype": "int8"}),
    "fp16, int8 P": (torch.float16, {"projector_dtype": "int8"}),
    "int4 P": (torch.bfloat16, {"projector_dtype": "int4", "weight_rounding": "compensated"}),
}


@pytest.mark.parametrize("shape", [(64, 300), (300, 64)])
@pytest.mark.parametrize("name", CASES)
def test_the_way_of_a_weight(name, shape, by_triton, monkeypatch):
    dtype, options = CASES[name]
    found = steps(shape, dtype, **options)
    assert {"adam_kernel", "lift_kernel", "product_kernel"} <= set(by_triton)
    with monkeypatch.context() as patched:
        patched.setenv(dispatch.ENVIRONMENT, "torch")
        wanted = steps(shape, dtype, **options)
    rounded = dtype != torch.float32  # torch's R is in the weight's dtype on a CPU, the kernels' in fp32
    assert relative_error(found, wanted) < (0.05 if rounded else 1e-3)


def test_stochastic_rounding_goes_the_same_way_by_other_bits(by_triton, monkeypatch):
    found = steps((64, 512), torch.bfloat16)
    assert "lift_kernel" in by_triton
    again = steps((64, 512), torch.bfloat16)
    assert torch.equal(found, again)
    monkeypatch.setenv(dispatch.ENVIRONMENT, "torch")
    wanted = steps((64, 512), torch.bfloat16)
    assert not torch.equal(found, wanted)
    assert relative_error(found, wanted) < 0.05
