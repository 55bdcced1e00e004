"""A transformer decoder that regresses triplanes with GaLore: from one picture of blobs to their density in space.

python docs/examples/triplanes.py [--steps 200] [--seeds 3]
"""

from __future__ import annotations

import torch
from beside import Make, arguments, compared
from torch import Tensor, nn
from torch.nn import functional as F

PICTURE, PATCH, PLANE, CHANNELS, WIDTH, HEADS = 16, 4, 8, 8, 64, 4


def density(points: Tensor, blobs: Tensor) -> Tensor:
    """(n, p, 3), (n, 3, 4) blobs as centre and radius → (n, p) in 0 … 1."""
    distance = (points[:, :, None] - blobs[:, None, :, :3]).square().sum(-1)
    return torch.exp(-distance / (2 * blobs[:, None, :, 3].square())).amax(-1)


def scenes(count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """(pictures of density and depth, blobs): three blobs each, seen along the third axis."""
    blobs = torch.rand(count, 3, 4, generator=draw) * torch.tensor([1.4, 1.4, 1.4, 0.2]) + torch.tensor(
        [-0.7, -0.7, -0.7, 0.15]
    )
    line = torch.linspace(-1, 1, PICTURE)
    grid = torch.stack(torch.meshgrid(line, line, torch.linspace(-1, 1, 8), indexing="ij"), -1)  # (16, 16, 8, 3)
    seen = density(grid.view(1, -1, 3).expand(count, -1, -1), blobs).view(count, PICTURE, PICTURE, 8)
    depth = (seen * torch.linspace(-1, 1, 8)).sum(-1) / seen.sum(-1).clamp(min=0.1)
    return torch.stack([seen.mean(-1), depth], 1), blobs


class Attention(nn.Module):
    """Of `x` over `y`, of linear layers whose weights are their own, so that each can be projected."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        q, k, v = (f(z).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f, z in ((self.q, x), (self.k, y), (self.v, y)))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))
        self.own, self.cross = Attention(), Attention()
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor, picture: Tensor) -> Tensor:
        x = x + self.own(y := self.norms[0](x), y)
        x = x + self.cross(self.norms[1](x), picture)
        return x + self.mlp(self.norms[2](x))


class ToTriplanes(nn.Module):
    """A picture's patches are looked at by one query per cell of three planes; a point sums its three cells."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, WIDTH, PATCH, stride=PATCH)
        self.places = nn.Parameter(0.02 * torch.randn((PICTURE // PATCH) ** 2, WIDTH))
        self.queries = nn.Parameter(0.02 * torch.randn(3 * (PLANE // 2) ** 2, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.planes = nn.ConvTranspose2d(WIDTH, CHANNELS, 2, stride=2)
        self.point = nn.Sequential(nn.Linear(CHANNELS, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))

    def triplanes(self, picture: Tensor) -> Tensor:
        """(n, 3, channels, 8, 8)."""
        seen = self.patches(picture).flatten(2).transpose(1, 2) + self.places
        x = self.queries.expand(len(picture), -1, -1)
        for block in self.blocks:
            x = block(x, seen)
        cells = x.transpose(1, 2).reshape(len(x), WIDTH, 3, PLANE // 2, PLANE // 2).transpose(1, 2).flatten(0, 1)
        return self.planes(cells).unflatten(0, (-1, 3))

    def forward(self, picture: Tensor, points: Tensor) -> Tensor:
        planes = self.triplanes(picture)
        sides = ((0, 1), (0, 2), (1, 2))
        sampled = (
            F.grid_sample(planes[:, k], points[:, :, None, sides[k]], padding_mode="border", align_corners=False)
            for k in range(3)
        )
        return self.point(sum(sampled).squeeze(-1).transpose(1, 2)).squeeze(-1)  # type: ignore[union-attr]


def loss_of(model: nn.Module, pictures: Tensor, blobs: Tensor, draw: torch.Generator) -> Tensor:
    points = 2 * torch.rand(len(blobs), 256, 3, generator=draw) - 1
    return F.mse_loss(model(pictures, points), density(points, blobs))


def regressor(steps: int, seed: int, make: Make) -> tuple[nn.Module, torch.optim.Optimizer, dict[str, float]]:
    torch.manual_seed(seed)
    model, draw = ToTriplanes(), torch.Generator().manual_seed(seed)
    optimizer = make(model)
    for _ in range(steps):
        loss_of(model, *scenes(16, draw), draw).backward()
        optimizer.step()
        optimizer.zero_grad()
    held = torch.Generator().manual_seed(-1)
    pictures, blobs = scenes(200, held)
    points = 2 * torch.rand(200, 256, 3, generator=held) - 1
    with torch.no_grad():
        said, true = model(pictures, points), density(points, blobs)
    explained = 1 - float(F.mse_loss(said, true)) / float(true.var())
    return model, optimizer, {"held-out squared error": float(F.mse_loss(said, true)), "variance explained": explained}


def main() -> None:
    given = arguments(steps=200)
    compared(lambda seed, make: regressor(given.steps, seed, make), given.seeds)


if __name__ == "__main__":
    main()
