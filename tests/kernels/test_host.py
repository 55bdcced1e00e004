"""Memory policy of the process: blocks really are reused, and no torch is needed to ask for it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from galore.kernels.host import reuse_freed_memory
if {asked}:
    print(*reuse_freed_memory(), sep="\\n")
assert "torch" not in sys.modules
import torch
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    tensors = [torch.ones(6 * 2**20) for _ in range(8)]  # 24 MiB each
step(), step()
before = faults()
step(), step(), step()
print(faults() - before)
"""


def run(asked: bool, **environment: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(asked=asked)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.splitlines()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_blocks_are_used_again():
    plain = run(asked=False, THP_MEM_ALLOC_ENABLE="0")
    memory, pages, faults = run(asked=True, THP_MEM_ALLOC_ENABLE="0")
    assert "used again" in memory
    assert "THP_MEM_ALLOC_ENABLE is set to 0" in pages
    assert int(faults) * 20 < int(plain[-1])


def test_huge_pages_are_asked_for():
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    program = "import os; from galore.kernels.host import reuse_freed_memory as f; f(); print(os.environ['THP_MEM_ALLOC_ENABLE'])"
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ("1" if sys.platform == "linux" else "")
