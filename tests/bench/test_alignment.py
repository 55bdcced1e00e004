"""The examples of codes and of a second loss: a vision-language model at toy size, and a codebook that loses little."""

from __future__ import annotations

import alignment
import modalities
import numpy as np
import pytest
import torch


def test_the_error_of_a_vision_language_model_falls() -> None:
    first, second = (alignment.trained(seed=0, weight=1.0, steps=steps) for steps in (1, 8))
    assert second[1] < first[1]


def test_patches_are_put_together_again_and_tones_told_apart() -> None:
    images = np.arange(128.0).reshape(2, 8, 8)
    assert (modalities.unpatched(modalities.patches(images)) == images.reshape(2, 64)).all()
    spectra, kinds = modalities.sounds(40, 0)
    assert spectra.shape == (40, modalities.FRAMES, modalities.SAMPLES // 2 + 1)
    pitch = spectra.argmax(-1)
    slope = (pitch[:, -1] - pitch[:, 0]).astype(float)
    assert slope[kinds == 0].mean() > 1 > -1 > slope[kinds == 1].mean()
    assert modalities.nearest(np.array([[0.0, 1.0]]), np.array([[5.0, 5.0], [0.0, 0.9]])).tolist() == [1]


def test_a_row_gives_codes_after_a_name_and_names_codes() -> None:
    one, other = modalities.parts_of("two", "image", [3, 1])
    assert one["parts"] == [{"text": "image two:"}, {"image": [3, 1]}]
    assert other["parts"] == [{"image": [3, 1]}, {"text": " is two."}]


@pytest.mark.parametrize("seed", [0])
def test_images_are_drawn_anew(seed: int) -> None:
    batch, where = alignment.batch_of(4, torch.Generator().manual_seed(seed))
    assert batch["input_ids"][:, -1].tolist() == (alignment.FIRST + where).tolist()
