"""Every operation of a step says which path it takes and why."""

import pytest

from galore.kernels.dispatch import explain


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_operation_is_explained(device):
    paths = explain(device)
    assert {"project", "adam", "lift_update", "linear_cross_entropy"} <= {path.op for path in paths}
    assert all(path.path and path.why for path in paths)
