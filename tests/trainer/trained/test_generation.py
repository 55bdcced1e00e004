from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from galore.trainer.common.errors import UserError
from galore.trainer.trained.generation import drop_idle


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({"do_sample": False, "temperature": 0.6, "top_k": 20, "top_p": 0.9, "min_p": 0.1}, {"do_sample": False}),
        ({"temperature": 0.6, "eos_token_id": 2}, {"eos_token_id": 2}),
        ({"do_sample": True, "temperature": 0.6, "top_k": 20}, {"do_sample": True, "temperature": 0.6, "top_k": 20}),
        ({"length_penalty": 2.0, "repetition_penalty": 1.2}, {"repetition_penalty": 1.2}),
        ({"num_beams": 4, "length_penalty": 2.0}, {"num_beams": 4, "length_penalty": 2.0}),
        ({"output_scores": True}, {}),
        ({"use_cache": False, "cache_implementation": "static"}, {"use_cache": False}),
    ],
)
def test_what_has_no_effect_is_dropped_and_the_rest_is_saved(
    tmp_path: Path, settings: dict[str, Any], left: dict[str, Any]
) -> None:
    config = GenerationConfig(**settings)
    drop_idle(config)
    config.save_pretrained(tmp_path)
    stored = GenerationConfig.from_pretrained(tmp_path)
    kept = {name: getattr(stored, name) for name in settings if getattr(stored, name)}
    assert kept == {name: value for name, value in left.items() if value}


def test_a_contradiction_is_told() -> None:
    config = GenerationConfig()
    config.num_return_sequences = 3
    with pytest.raises(UserError, match=r"(?s)cannot be saved: .*num_return_sequences.*folder model/"):
        drop_idle(config)
