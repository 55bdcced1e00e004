"""CUDA's open choices are settled as they are said to be, and a trace counts what one order of sums takes."""

import pytest
import torch

from galore.kernels import cuda


@pytest.fixture
def untouched(monkeypatch):
    """Whatever a test settles is as before after it."""
    monkeypatch.delenv(cuda.WORKSPACES, raising=False)
    matmul, fill = torch.backends.cuda.matmul, torch.utils.deterministic.fill_uninitialized_memory
    before = torch.are_deterministic_algorithms_enabled(), matmul.allow_bf16_reduced_precision_reduction
    yield
    torch.use_deterministic_algorithms(before[0])
    matmul.allow_bf16_reduced_precision_reduction = before[1]
    torch.backends.cuda.enable_cudnn_sdp(True)
    torch.utils.deterministic.fill_uninitialized_memory = fill


@pytest.mark.parametrize("deterministic", [True, False])
def test_what_is_settled(untouched, monkeypatch, deterministic):
    monkeypatch.setenv(cuda.WORKSPACES, "")
    monkeypatch.delenv(cuda.WORKSPACES)
    said = cuda.prepare_cuda(deterministic)
    assert torch.are_deterministic_algorithms_enabled() is deterministic
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert ("always the same" in said[1]) is deterministic
    assert cuda.workspaces(deterministic) == (cuda.ONE_ORDER if deterministic else "")


def test_what_the_user_set_stays(untouched, monkeypatch):
    monkeypatch.setenv(cuda.WORKSPACES, ":16:8")
    cuda.prepare_cuda(True)
    assert cuda.workspaces(True) == cuda.workspaces(False) == ":16:8"


def test_a_trace_leaves_the_process_as_it_was(untouched):
    for wanted in (True, False):
        with cuda.as_deterministic(wanted):
            assert torch.are_deterministic_algorithms_enabled() is wanted
        assert not torch.are_deterministic_algorithms_enabled()
