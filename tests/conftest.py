"""Shared by all tests: one thread each, since they run side by side; and no hub."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

torch.set_num_threads(1)
