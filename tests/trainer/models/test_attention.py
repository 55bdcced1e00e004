from __future__ import annotations

import pytest
import torch

from galore.trainer.common.errors import UserError
from galore.trainer.models import attention
from galore.trainer.models.attention import all_attention, check_attention


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with an Ampere GPU and flash-attn, as far as one can tell from outside."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 6))
    monkeypatch.setattr(attention, "find_spec", lambda name: object())
    return monkeypatch


@pytest.mark.parametrize("name", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sdpa_and_eager_run_on_the_cpu(name: str, dtype: str) -> None:
    check_attention(name, "cpu", dtype)


def test_flash_attention_runs_on_a_fit_gpu(gpu: pytest.MonkeyPatch) -> None:
    check_attention("flash_attention_2", "cuda", "bfloat16")


def test_flash_attention_needs_cuda() -> None:
    with pytest.raises(UserError, match="this run is on cpu") as refused:
        check_attention("flash_attention_2", "cpu", "bfloat16")
    assert refused.value.where == "model.attn_implementation"
    assert "sdpa" in refused.value.fix


def test_flash_attention_needs_16_bits(gpu: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="float32"):
        check_attention("flash_attention_2", "cuda", "float32")


def test_flash_attention_needs_ampere(gpu: pytest.MonkeyPatch) -> None:
    gpu.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    with pytest.raises(UserError, match=r"this GPU has 7\.5"):
        check_attention("flash_attention_2", "cuda", "bfloat16")


def test_flash_attention_needs_its_package(gpu: pytest.MonkeyPatch) -> None:
    gpu.setattr(attention, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="flash-attn is not installed"):
        check_attention("flash_attention_2", "cuda:0", "bfloat16")


def test_no_kernel_runs_on_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA device"):
        check_attention("sdpa", "cuda", "bfloat16")


def test_doctor_hears_of_every_kernel_with_a_reason() -> None:
    found = {each.name: each for each in all_attention("cpu", "bfloat16")}
    assert list(found) == ["sdpa", "flash_attention_2", "eager"]
    assert [each.available for each in found.values()] == [True, False, True]
    assert all(each.reason for each in found.values())
