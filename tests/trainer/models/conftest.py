from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from galore.trainer.models.decoder import build_decoder
from galore.trainer.recipe.schema.model import ModelSection

TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "dtype": "float32",
}


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., PreTrainedModel]:
    """A tiny LLaMA with 2 query heads per key head; `rows` is model.vocab_size, other keywords are recipe fields."""

    def decoder(
        vocab_size: int = 100,
        *,
        device: str = "cpu",
        seed: int = 1,
        max_length: int = 64,
        base_dir: Path = tmp_path,
        rows: int | None = None,
        in_int8: Sequence[str] = (),
        **fields: Any,
    ) -> PreTrainedModel:
        section = ModelSection(vocab_size=rows, **(TINY | fields))
        return build_decoder(
            section,
            vocab_size,
            device=device,
            seed=seed,
            max_length=max_length,
            base_dir=base_dir,
            in_int8=in_int8,
        )

    return decoder
