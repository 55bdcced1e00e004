"""The divergence from a teacher's predictions, against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from galore.trainer.losses.distillation import divergence


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_it_is_the_divergence_times_the_square_of_the_temperature(temperature: float) -> None:
    own, teacher = torch.randn(2, 9, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    expected = F.kl_div((own / temperature).log_softmax(1), (teacher / temperature).softmax(1), reduction="sum")
    torch.testing.assert_close(divergence(own, teacher, temperature, None), temperature**2 * expected)
    torch.testing.assert_close(divergence(own, teacher, temperature, 17), temperature**2 * expected)
    assert float(divergence(teacher, teacher, temperature, None)) == pytest.approx(0, abs=1e-5)


def test_of_its_most_probable_tokens_alone() -> None:
    teacher, own = torch.tensor([[3.0, 1.0, 2.0, -1.0]]), torch.tensor([[0.0, 0.5, 1.0, 2.0]])
    p = torch.tensor([3.0, 2.0]).softmax(0)
    q = own.log_softmax(1)[0, [0, 2]]
    torch.testing.assert_close(divergence(own, teacher, 1.0, 2), (p * (p.log() - q)).sum())


def test_a_padded_embedding_of_the_teacher_is_left_out() -> None:
    own, teacher = torch.randn(3, 5), torch.randn(3, 5)
    padded = torch.cat((teacher, torch.full((3, 2), 50.0)), 1)
    torch.testing.assert_close(divergence(own, padded, 1.0, None), divergence(own, teacher, 1.0, None))
