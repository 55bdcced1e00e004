"""What is said to do where a write failed."""

import errno
from pathlib import Path

import pytest

from galore.trainer.checkpoint.diskspace import explain


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.EFBIG, "ulimit -f unlimited"), (errno.EACCES, "make /runs/a writable"), (errno.ENOSPC, "free ")],
)
def test_a_remedy_is_of_what_went_wrong(number: int, remedy: str) -> None:
    assert remedy in explain(OSError(number, "why", "/runs/a"), Path("/runs"), 10**15)[1]
