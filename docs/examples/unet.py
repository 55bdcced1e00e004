"""A diffusion UNet on 8×8 digits with GaLore, and its progressive distillation to 4 steps (arXiv 2202.00512).

python docs/examples/unet.py [--steps 300] [--seeds 2]; unet_diffusers.py is the same on a network of diffusers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial

import torch
from beside import Make, adamw, arguments, compared, galore
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from torch import Tensor, nn
from torch.nn import functional as F

FINEST, FEWEST, TRAINED = 32, 4, 1500  # steps of the teacher and of the last student; pictures, the rest is held out
digits = load_digits()
IMAGES = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1  # (n, 1, 8, 8) in −1 … 1
LABELS = torch.tensor(digits.target)
HELD = IMAGES[TRAINED:].repeat(4, 1, 1, 1), LABELS[TRAINED:].repeat(4)
tuned = partial(adamw, rate=3e-3)
JUDGE = SVC().fit(IMAGES[:TRAINED].flatten(1).numpy(), digits.target[:TRAINED])


class Block(nn.Module):
    """Two convolutions around what the time and the label say, beside a shortcut."""

    def __init__(self, inputs: int, width: int, told: int) -> None:
        super().__init__()
        self.norm, self.first = nn.GroupNorm(1, inputs), nn.Conv2d(inputs, width, 3, padding=1)
        self.told, self.second = nn.Linear(told, width), nn.Conv2d(width, width, 3, padding=1)
        self.beside = nn.Conv2d(inputs, width, 1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        hidden = self.first(F.silu(self.norm(x))) + self.told(told)[:, :, None, None]
        return self.beside(x) + self.second(F.silu(hidden))


class UNet(nn.Module):
    """8×8 and 4×4; in: noisy pictures, times in 0 … 1, labels; out: v."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.time, self.label = nn.Linear(32, 64), nn.Embedding(10, 64)
        self.first, self.last = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)
        self.down, self.shrink = Block(width, width, 64), nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.middle, self.grow = Block(2 * width, 2 * width, 64), nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.up = Block(2 * width, width, 64)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        waves = time[:, None] * 2.0 ** torch.arange(16) * math.pi / 8
        told = F.silu(self.time(torch.cat([waves.sin(), waves.cos()], 1)) + self.label(label))
        fine = self.down(self.first(x), told)
        coarse = self.middle(self.shrink(fine), told)
        return self.last(F.silu(self.up(torch.cat([fine, self.grow(coarse)], 1), told)))


def signal(time: Tensor) -> tuple[Tensor, Tensor]:
    """How much is picture and how much is noise: the cosine schedule."""
    angle = time[:, None, None, None] * math.pi / 2 * 0.99
    return angle.cos(), angle.sin()


def loss_of(model: nn.Module, pictures: Tensor, labels: Tensor, draw: torch.Generator) -> Tensor:
    time, noise = torch.rand(len(pictures), generator=draw), torch.randn(pictures.shape, generator=draw)
    a, b = signal(time)
    return F.mse_loss(model(a * pictures + b * noise, time, labels), a * noise - b * pictures)


def moved(v: Tensor, x: Tensor, time: Tensor, to: Tensor) -> Tensor:
    """One deterministic step (DDIM) from `time` to `to`."""
    (a, b), (c, d) = signal(time), signal(to)
    return c * (a * x - b * v) + d * (b * x + a * v)


@torch.no_grad()
def right(model: nn.Module, steps: int, seed: int = 0) -> float:
    """Share of drawn digits that the judge takes for what was asked for."""
    labels, draw = torch.arange(10).repeat(20), torch.Generator().manual_seed(seed)
    x = torch.randn(200, 1, 8, 8, generator=draw)
    for step in range(steps, 0, -1):
        time, to = (torch.full((200,), each / steps) for each in (step, step - 1))
        x = moved(model(x, time, labels), x, time, to)
    return float((JUDGE.predict(x.flatten(1).numpy()) == labels.numpy()).mean())


def teacher(
    steps: int, seed: int, make: Make, network: Callable[[], nn.Module] = UNet
) -> tuple[nn.Module, torch.optim.Optimizer, dict[str, float]]:
    torch.manual_seed(seed)
    model = network()
    optimizer, draw = make(model), torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(TRAINED, (64,), generator=draw)
        loss_of(model, IMAGES[rows], LABELS[rows], draw).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        held = loss_of(model, *HELD, torch.Generator().manual_seed(0))
    return model, optimizer, {"held-out loss": float(held), f"right in {FINEST} steps": right(model, FINEST)}


@torch.no_grad()
def one_for_two(model: nn.Module, x: Tensor, labels: Tensor, time: Tensor, to: Tensor) -> Tensor:
    """The v whose one step from `time` to `to` ends where two of the model's do."""
    half = (time + to) / 2
    x_half = moved(model(x, time, labels), x, time, half)
    end = moved(model(x_half, half, labels), x_half, half, to)
    (a, b), (c, d) = signal(time), signal(to)
    picture = (b * end - d * x) / (b * c - d * a)
    return (a * x - picture) / b


def distilled(model: nn.Module, steps: int, make: Make) -> nn.Module:
    """Students that make one step of two of their teacher's, until `FEWEST` are left; each starts as its teacher."""
    draw, count = torch.Generator().manual_seed(1), FINEST
    while count > FEWEST:
        count //= 2
        student = copy.deepcopy(model)
        optimizer = make(student)
        for _ in range(steps):
            rows = torch.randint(TRAINED, (64,), generator=draw)
            time = torch.randint(1, count + 1, (64,), generator=draw) / count
            a, b = signal(time)
            x = a * IMAGES[rows] + b * torch.randn(64, 1, 8, 8, generator=draw)
            v = one_for_two(model, x, LABELS[rows], time, time - 1 / count)
            F.mse_loss(student(x, time, LABELS[rows]), v).backward()
            optimizer.step()
            optimizer.zero_grad()
        model = student
    return model


def main(network: Callable[[], nn.Module] = UNet) -> None:
    given = arguments(steps=300, seeds=2)
    found = compared(lambda seed, make: teacher(given.steps, seed, make, network), given.seeds, tuned)
    first = found["GaLore"][0][0]
    print(f"undistilled, in {FEWEST} steps: {right(first, FEWEST):.3f} right")
    for name, make in (("AdamW", tuned), ("GaLore", galore)):
        student = distilled(first, given.steps // 3, make)
        print(f"distilled from it with {name}, in {FEWEST} steps: {right(student, FEWEST):.3f} right")


if __name__ == "__main__":
    main()
