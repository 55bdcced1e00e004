"""Every test that takes `machine` runs on the interpreter, on the emulator of PTX, and on the card where there is one."""

import os

import pytest
import torch

CARD = ["card"] if torch.cuda.is_available() or "GALORE_KERNEL_ERRORS" in os.environ else []


@pytest.fixture(params=["interpreter", "ptx", *CARD])
def machine(request):
    kernel_machines = pytest.importorskip("kernel_machines")
    torch.manual_seed(0)
    chosen = kernel_machines.MACHINES[request.param]()
    with chosen.ready():
        yield chosen
