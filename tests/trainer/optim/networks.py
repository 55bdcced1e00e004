"""Two small networks that are no language models, each with data and a loss of its own: a diffusion U-Net, a detector."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice; the time embedding is added in between."""

    def __init__(self, width: int, time: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, width), nn.GroupNorm(4, width)
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.time = nn.Linear(time, width)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time(t)[:, :, None, None]
        return x + self.conv2(F.silu(self.norm2(h)))


class PixelAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.norm(x).flatten(2).mT
        mixed = F.scaled_dot_product_attention(*self.qkv(pixels).chunk(3, dim=-1))
        return x + self.out(mixed).mT.view(x.shape)


class UNet(nn.Module):
    """Predicts the noise in 8×8 images, at one of 16 noise levels."""

    targets = ("stem", "down", "middle", "attention", "up", "level")

    def __init__(self, width: int = 16, time: int = 16) -> None:
        super().__init__()
        self.level = nn.Embedding(16, time)
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.middle, self.attention = ResidualBlock(width, time), PixelAttention(width)
        self.up = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.norm, self.head = nn.GroupNorm(4, width), nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        first = self.stem(x)
        h = self.attention(self.middle(self.down(first), F.silu(self.level(level))))
        return self.head(F.silu(self.norm(self.up(h) + first)))  # type: ignore[no-any-return]

    @staticmethod
    def batch(draw: torch.Generator, size: int) -> tuple[Tensor, ...]:
        """Smooth images with noise on them, the noise levels, and the noise, which is asked for."""
        level, noise = torch.randint(16, (size,), generator=draw), torch.randn(size, 3, 8, 8, generator=draw)
        image = torch.randn(size, 3, 1, 1, generator=draw).expand(-1, -1, 8, 8)
        share = ((level + 1) / 17)[:, None, None, None]
        return (1 - share).sqrt() * image + share.sqrt() * noise, level, noise

    def loss(self, x: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        return F.mse_loss(self(x, level), noise)


class Detector(nn.Module):
    """Where in a 16×16 image a square is, of what class and how large: two levels with lateral connections, two heads."""

    targets = ("stem", "backbone", "lateral", "tower", "classes", "boxes")

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.backbone = nn.ModuleList(self.stage(width) for _ in range(2))
        self.lateral = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(2))
        self.tower = nn.Conv2d(width, width, 3, padding=1)
        self.classes, self.boxes = nn.Conv2d(width, 4, 1), nn.Conv2d(width, 2, 1)

    @staticmethod
    def stage(width: int) -> nn.Sequential:
        depthwise = nn.Conv2d(width, width, 3, stride=2, padding=1, groups=width, bias=False)
        return nn.Sequential(depthwise, nn.Conv2d(width, width, 1, bias=False), nn.GroupNorm(4, width), nn.SiLU())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.backbone[0](F.silu(self.stem(x)))
        coarse = self.lateral[1](self.backbone[1](fine))
        pyramid = F.silu(self.tower(self.lateral[0](fine) + F.interpolate(coarse, scale_factor=2)))
        return self.classes(pyramid), self.boxes(pyramid)

    @staticmethod
    def batch(draw: torch.Generator, size: int) -> tuple[Tensor, ...]:
        """Images, the class (0 is nothing) of each of 4×4 cells, and the half size of the square in its own cell."""
        x, kind = 0.1 * torch.randn(size, 3, 16, 16, generator=draw), torch.randint(3, (size,), generator=draw)
        cell, half = torch.randint(4, (size, 2), generator=draw), torch.randint(1, 3, (size, 2), generator=draw)
        classes, boxes = torch.zeros(size, 4, 4, dtype=torch.int64), torch.zeros(size, 2, 4, 4)
        for i, ((row, column), (h, w)) in enumerate(zip(cell.tolist(), half.tolist(), strict=True)):
            top, left = 4 * row + 2, 4 * column + 2
            x[i, kind[i], top - h : top + h, left - w : left + w] += 1.0
            classes[i, row, column], boxes[i, :, row, column] = kind[i] + 1, half[i].float()
        return x, classes, boxes

    def loss(self, x: Tensor, kinds: Tensor, boxes: Tensor) -> Tensor:
        classes, found = self(x)
        there = (kinds > 0)[:, None]
        weights = torch.tensor([0.2, 1.0, 1.0, 1.0])
        return F.cross_entropy(classes, kinds, weights) + ((found - boxes).square() * there).sum() / there.sum()  # type: ignore[no-any-return]


Network = UNet | Detector
