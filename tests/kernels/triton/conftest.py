"""Every test here runs on both machines: the interpreter and the emulator of PTX."""

import pytest

triton = pytest.importorskip("triton", reason="the kernels need the optional package triton")

import kernel_machines
import torch


@pytest.fixture(params=["interpreter", "ptx"])
def machine(request):
    torch.manual_seed(0)
    chosen = kernel_machines.MACHINES[request.param]()
    with chosen.ready():
        yield chosen
