"""What the specification's tests are about: gradients (A, B), ranks R, in float64."""

import torch

A, B, R = 6, 10, 3


def matrix(*shape):
    return torch.randn(*shape, dtype=torch.float64)
