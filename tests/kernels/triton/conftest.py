"""Every test that takes `machine` runs on both: the interpreter and the emulator of PTX."""

import pytest
import torch


@pytest.fixture(params=["interpreter", "ptx"])
def machine(request):
    kernel_machines = pytest.importorskip("kernel_machines")
    torch.manual_seed(0)
    chosen = kernel_machines.MACHINES[request.param]()
    with chosen.ready():
        yield chosen
