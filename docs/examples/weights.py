"""Weights from weights (arXiv 2402.13144): a run keeps snapshots of its norms, and a latent diffusion makes new ones.

python docs/examples/weights.py [--steps 200]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from beside import arguments, projected
from torch import Tensor, nn
from torch.nn import functional as F

import galore
from galore.trainer.optim import GaLoreAdamW, galore_groups, large_matrices
from galore.trainer.record.snapshots import read_snapshots

DOCS, LATENT, LEVELS = Path(__file__).parents[1], 16, 50
RECIPE = """
model: {{hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 4, dtype: float32}}
data: {{source: local, path: "{docs}/*.md", format: txt, tokenizer_vocab_size: 512, max_length: 64, validation_fraction: 0.1, packing: packed}}
optim: {{rank: 16, learning_rate: 0.01, lr_scheduler_type: constant_with_warmup, update_proj_gap: 20}}
train: {{max_steps: {steps}, global_batch_size: 16, device: cpu, num_threads: 1, save_steps: null,
        snapshot_parameters: [norm, input_layernorm, post_attention_layernorm], snapshot_total_limit: {keep}}}
eval: {{eval_steps: null, max_tokens: 20000}}
"""


class Denoiser(nn.Module):
    """The noise in a latent, given how much of it there is."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.first, self.time = nn.Linear(LATENT, width), nn.Embedding(LEVELS, width)
        self.hidden, self.last = nn.ModuleList(nn.Linear(width, width) for _ in range(2)), nn.Linear(width, LATENT)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        x = self.first(x) + self.time(level)
        for layer in self.hidden:
            x = x + layer(F.silu(x))
        return self.last(F.silu(x))


def optimizer_of(model: nn.Module) -> GaLoreAdamW:
    groups = galore_groups(model, 0.5, targets=large_matrices(LATENT), scale=1.0, update_proj_gap=50)
    return GaLoreAdamW(groups, lr=2e-3, weight_decay=0.0)


def fitted(rows: Tensor, steps: int, draw: torch.Generator) -> tuple[nn.Module, nn.Module]:
    """An autoencoder of the rows, trained with noise on rows and latents, as P-diff's: (encoder, decoder)."""
    width = rows.shape[1]
    both = nn.ModuleList(
        nn.Sequential(nn.Linear(a, 128), nn.SiLU(), nn.Linear(128, b)) for a, b in ((width, LATENT), (LATENT, width))
    )
    optimizer = optimizer_of(both)
    for _ in range(steps):
        some = rows[torch.randint(len(rows), (64,), generator=draw)]
        latent = both[0](some + 0.05 * torch.randn(some.shape, generator=draw))
        F.mse_loss(both[1](latent + 0.05 * torch.randn(latent.shape, generator=draw)), some).backward()
        optimizer.step()
        optimizer.zero_grad()
    return both[0], both[1]


def drawn(latents: Tensor, count: int, steps: int, draw: torch.Generator) -> Tensor:
    """New latents by a diffusion (DDPM) that is trained on `latents`."""
    model, kept = Denoiser(), torch.cumprod(1 - torch.linspace(1e-3, 0.2, LEVELS), 0)
    print(f"the diffusion: GaLore projects {projected(model)}")
    optimizer = optimizer_of(model)
    for _ in range(steps):
        x, level = (
            latents[torch.randint(len(latents), (64,), generator=draw)],
            torch.randint(LEVELS, (64,), generator=draw),
        )
        noise = torch.randn(x.shape, generator=draw)
        noisy = kept[level, None].sqrt() * x + (1 - kept[level, None]).sqrt() * noise
        F.mse_loss(model(noisy, level), noise).backward()
        optimizer.step()
        optimizer.zero_grad()
    x = torch.randn(count, LATENT, generator=draw)
    with torch.no_grad():
        for level in range(LEVELS - 1, -1, -1):
            before = kept[level - 1] if level else torch.tensor(1.0)
            own = kept[level] / before
            x = (x - (1 - own) / (1 - kept[level]).sqrt() * model(x, torch.full((count,), level))) / own.sqrt()
            if level:
                x = x + ((1 - before) / (1 - kept[level]) * (1 - own)).sqrt() * torch.randn(x.shape, generator=draw)
    return x


@torch.no_grad()
def accuracy(model: nn.Module, rows: Tensor) -> float:
    """Share of next tokens that are the likeliest."""
    said = model(input_ids=rows).logits[:, :-1].argmax(-1)
    return float((said == rows[:, 1:]).float().mean())


def main(steps: int = 0, folder: Path | None = None) -> dict[str, float]:
    steps = steps or arguments(steps=200).steps
    folder = folder or Path(tempfile.mkdtemp())
    (folder / "recipe.yaml").write_text(RECIPE.format(docs=DOCS, steps=steps, keep=steps // 2))
    run = galore.train(folder / "recipe.yaml", output_dir=folder / "run")
    stored, (_, values) = run.load_model(), read_snapshots(run)
    model, ids = stored.model.eval(), stored.tokenizer((DOCS / "runs.md").read_text()).input_ids
    held = torch.tensor(ids[: len(ids) // 64 * 64]).view(-1, 64)
    rows, draw = torch.cat([each.flatten(1) for each in values.values()], 1).float(), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    mean, spread = rows.mean(0), rows.std(0) + 1e-6
    encoder, decoder = fitted((rows - mean) / spread, 10 * steps, draw)
    with torch.no_grad():
        latents = encoder((rows - mean) / spread)
        middle, scale = latents.mean(0), latents.std(0) + 1e-6
    new = drawn((latents - middle) / scale, 20, 10 * steps, draw)
    with torch.no_grad():
        made = decoder(new * scale + middle) * spread + mean

    def score(row: Tensor) -> float:
        parts = row.split([each[0].numel() for each in values.values()])
        own = {name: part.view(values[name].shape[1:]) for name, part in zip(values, parts, strict=True)}
        model.load_state_dict(own, strict=False)
        return accuracy(model, held)

    trained = score(rows[-1])
    scores = [score(row) for row in made]
    unlike = torch.cdist(made, rows).amin(1).mean() / torch.cdist(rows, rows).topk(2, largest=False).values[:, 1].mean()
    found = {"trained": trained, "generated": sum(scores) / len(scores), "worst": min(scores), "unlike": float(unlike)}
    found["untrained norms"] = score(torch.ones_like(rows[0]))
    print(
        f"{len(rows)} snapshots of {rows.shape[1]} weights; next tokens right: "
        + ", ".join(f"{key} {value:.4f}" for key, value in found.items())
    )
    return found


if __name__ == "__main__":
    main()
