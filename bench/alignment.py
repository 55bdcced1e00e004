"""A tiny vision-language model of transformers, trained with and without attention alignment by GaLoreAdamW.

    python bench/alignment.py [--steps 150] [--weight 1.0] [--seeds 3]

Images of 32 × 32 have one bright square in one of 16 places, of one of four brightnesses; the question names nothing, and
the answer is the place. A LLaVA at toy size (CLIP and LLaMA of two blocks each, random weights) learns it. Beside the
cross-entropy the attention of the last block, from the position that predicts the answer, over the 16 positions of the
image is aligned with a map that is 1 at the square. `galore train` reads no pixels: this is a loop of its own around
`GaLoreAdamW`, with the watch and the loss of `galore.trainer.losses`. Held-out images in both columns of the table.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import Tensor, nn

from galore import GaLoreAdamW
from galore.trainer.losses.alignment import Aligner, Places, alignment_error
from galore.trainer.losses.watch import ATTENTION, Watch
from galore.trainer.optim import galore_groups, project_in_backward

PLACES, PROMPT, IMAGE, FIRST, VOCABULARY = 16, 1, 2, 4, 32


def model_of(seed: int) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = CLIPVisionConfig(image_size=32, patch_size=8, projection_dim=64, **sizes)
    text = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=64, **sizes)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE, image_seq_length=PLACES)
    return LlavaForConditionalGeneration(config)


def batch_of(size: int, draw: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
    """What the model is given, and where the square is, (size,)."""
    where = torch.randint(0, PLACES, (size,), generator=draw)
    light = torch.randint(1, 5, (size,), generator=draw) / 4
    pixels = 0.3 * torch.randn(size, 3, 32, 32, generator=draw)
    for row, (place, value) in enumerate(zip(where.tolist(), light.tolist(), strict=True)):
        down, right = 8 * (place // 4), 8 * (place % 4)
        pixels[row, :, down : down + 8, right : right + 8] += 2 * value
    ids = torch.tensor([[*[IMAGE] * PLACES, PROMPT]]).repeat(size, 1)
    return {"input_ids": torch.cat((ids, FIRST + where[:, None]), 1), "pixel_values": pixels}, where


def losses(
    model: Any, watch: Watch, aligner: nn.Module, batch: dict[str, Tensor], where: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the answers, and the error of the alignment, both means over rows."""
    size, last = len(where), PLACES
    with watch.during(torch.full((size, 1), last)):
        logits = model(**batch, use_cache=False).logits[:, last]
    maps = nn.functional.one_hot(where, PLACES).float()
    rows = [Places(torch.tensor([last]), torch.arange(PLACES), each[None]) for each in maps]
    (attention,) = watch.attention.values()
    return nn.functional.cross_entropy(logits, FIRST + where), alignment_error(attention, rows, aligner) / size


def trained(seed: int, weight: float, steps: int) -> tuple[float, float, float]:
    """Held-out loss and error, and the loss at half of the steps."""
    model = model_of(seed)
    watch, aligner = Watch(model.model.language_model, [-1], (ATTENTION,)), Aligner(heads=4, seed=seed)
    groups = galore_groups(model, 16, targets=["self_attn", "mlp"])
    groups.append({"params": list(aligner.named_parameters())})
    optimizer = GaLoreAdamW(groups, lr=4e-3, seed=seed)
    project_in_backward(model, optimizer)
    draw, held_out = torch.Generator().manual_seed(seed), batch_of(256, torch.Generator().manual_seed(1000))
    half = 0.0
    for step in range(steps):
        loss, error = losses(model, watch, aligner, *batch_of(32, draw))
        (loss + weight * error).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step + 1 == steps // 2:
            half = scored(model, watch, aligner, held_out)[0]
    return (*scored(model, watch, aligner, held_out), half)


@torch.no_grad()
def scored(model: Any, watch: Watch, aligner: nn.Module, held_out: Any) -> tuple[float, float]:
    loss, error = losses(model, watch, aligner, *held_out)
    return float(loss), float(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--weight", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    began = time.process_time()
    print("| weight | seed | held-out loss, half way | held-out loss | alignment error |\n|---|---|---|---|---|")
    for weight in (0.0, options.weight):
        for seed in range(options.seeds):
            loss, error, half = trained(seed, weight, options.steps)
            print(f"| {weight:g} | {seed} | {half:.4f} | {loss:.4f} | {error:.3f} |")
    print(f"\n{time.process_time() - began:.0f} CPU seconds")


if __name__ == "__main__":
    main()
