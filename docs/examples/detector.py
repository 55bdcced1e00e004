"""A small convolutional detector, depthwise kernels and all, with GaLore: which digits are on a canvas, and where.

python docs/examples/detector.py [--steps 200] [--seeds 3]
"""

from __future__ import annotations

import torch
from beside import Make, arguments, compared
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

SIZE, CELL, GRID = 32, 4, 8
digits = load_digits()
IMAGES = torch.tensor(digits.images, dtype=torch.float32) / 16
LABELS = torch.tensor(digits.target)
TRAINED = 1500  # digits; the rest is on held-out canvases only


def canvases(count: int, draw: torch.Generator, first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
    """(pictures, (count, 2, 4) boxes as centre, height and width in pixels, (count, 2) labels): a digit on the left and
    one on the right of each, of 8 to 15 pixels."""
    rows = torch.randint(first, last, (count, 2), generator=draw)
    sides = torch.randint(8, 16, (count, 2), generator=draw)
    at = torch.rand(count, 2, 2, generator=draw)
    pictures, boxes = 0.2 * torch.rand(count, 1, SIZE, SIZE, generator=draw), torch.zeros(count, 2, 4)
    for n in range(count):
        for k in range(2):
            side = int(sides[n, k])
            top, left = int(at[n, k, 0] * (SIZE - side)), 16 * k + int(at[n, k, 1] * (16 - side))
            digit = F.interpolate(IMAGES[rows[n, k]][None, None], (side, side), mode="bilinear")[0, 0]
            pictures[n, 0, top : top + side, left : left + side] += digit
            boxes[n, k] = torch.tensor([top + side / 2, left + side / 2, side, side])
    return pictures, boxes, LABELS[rows]


class Separable(nn.Module):
    """A depthwise kernel and a pointwise one, beside what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm = nn.GroupNorm(1, width)
        self.wide, self.narrow = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(F.silu(self.wide(self.norm(self.depthwise(x)))))


class Detector(nn.Module):
    """For each of 8×8 cells: is a centre here (1), box (4), which digit (10)."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width // 2, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
            *(Separable(width) for _ in range(3)),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.SiLU(),
        )
        self.head = nn.Conv2d(2 * width, 15, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))  # (n, 15, 8, 8)


def loss_of(model: nn.Module, pictures: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    said = model(pictures).permute(0, 2, 3, 1)  # (n, 8, 8, 15)
    cells = (boxes[..., :2] / CELL).long().clamp(0, GRID - 1)
    n = torch.arange(len(boxes))[:, None].expand(-1, 2)
    there = torch.zeros(said.shape[:3])
    there[n, cells[..., 0], cells[..., 1]] = 1
    own = said[n, cells[..., 0], cells[..., 1]]  # (n, 2, 15)
    wanted = torch.cat([boxes[..., :2] / CELL - cells - 0.5, boxes[..., 2:] / 16], -1)
    centre = F.binary_cross_entropy_with_logits(said[..., 0], there, pos_weight=torch.tensor(8.0))
    return centre + F.l1_loss(own[..., 1:5], wanted) + F.cross_entropy(own[..., 5:].flatten(0, 1), labels.flatten())


@torch.no_grad()
def found_share(model: nn.Module, pictures: Tensor, boxes: Tensor, labels: Tensor) -> float:
    """Share of digits whose half of the canvas has them named rightly in a box that overlaps theirs by half or more."""
    said = model(pictures).permute(0, 2, 3, 1)
    hits = 0
    for k in range(2):
        half = said[:, :, 4 * k : 4 * k + 4].flatten(1, 2)  # (n, 32, 15)
        best = half[..., 0].argmax(1)
        own = half[torch.arange(len(half)), best]
        cell = torch.stack([best // 4, best % 4 + 4 * k], 1)
        box = torch.cat([(cell + 0.5 + own[:, 1:3]) * CELL, own[:, 3:5] * 16], 1)
        hits += int(((overlap(box, boxes[:, k]) >= 0.5) & (own[:, 5:].argmax(1) == labels[:, k])).sum())
    return hits / labels.numel()


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes as centre and size."""
    low = torch.maximum(a[:, :2] - a[:, 2:] / 2, b[:, :2] - b[:, 2:] / 2)
    high = torch.minimum(a[:, :2] + a[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2)
    both = (high - low).clamp(min=0).prod(1)
    return both / (a[:, 2:].clamp(min=0).prod(1) + b[:, 2:].prod(1) - both)


def detector(steps: int, seed: int, make: Make) -> tuple[nn.Module, torch.optim.Optimizer, dict[str, float]]:
    torch.manual_seed(seed)
    model, draw = Detector(), torch.Generator().manual_seed(seed)
    optimizer = make(model)
    for _ in range(steps):
        loss_of(model, *canvases(16, draw, 0, TRAINED)).backward()
        optimizer.step()
        optimizer.zero_grad()
    held = canvases(200, torch.Generator().manual_seed(-1), TRAINED, len(IMAGES))
    with torch.no_grad():
        loss = float(loss_of(model, *held))
    return model, optimizer, {"held-out loss": loss, "found": found_share(model, *held)}


def main() -> None:
    given = arguments(steps=200)
    compared(lambda seed, make: detector(given.steps, seed, make), given.seeds)


if __name__ == "__main__":
    main()
