"""What the GaLore paper reports for RoBERTa-base on GLUE, and the setting it holds for.

Source: arXiv 2403.03507v2, table 4. All scores are of the validation split, one number per task: of MRPC the F1; of
STS-B and QQP they are taken to be Pearson and accuracy, as in LoRA's paper; of MNLI it is not said which validation
split. Memory is that of weights and optimizer state at two bytes a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from galore.trainer.recipe.schema.optim import Method
from galore.trainer.tasks.glue import TASKS

SOURCE = "GaLore, arXiv 2403.03507v2"
MEGABYTE = 10**6


@dataclass(frozen=True)
class Setting:
    """What a run must share with the paper for its score to stand beside the paper's; None: the paper does not say."""

    model: str = "roberta-base"
    epochs: int = 30
    max_length: int = 512
    batch_size: int = 16
    lr_schedule: str = "linear"
    min_lr_ratio: float = 0.0
    warmup_ratio: float = 0.0
    warmup_steps: int = 0  # in place of the ratio
    learning_rate: float | None = None
    scale: float | None = None  # GaLore's α

    def differences(self, ours: Mapping[str, Any]) -> list[str]:
        """What `ours`, values by field, has otherwise: "epochs 3, not 30". Fields it leaves out are not compared."""
        pairs = [
            (field.name, ours[field.name], getattr(self, field.name)) for field in fields(self) if field.name in ours
        ]
        return [f"{name} {own}, not {papers}" for name, own, papers in pairs if papers is not None and own != papers]


@dataclass(frozen=True)
class Published:
    """One number of the paper."""

    task: str
    method: Method
    rank: int | None  # None: full fine-tuning
    metric: str  # scikit-learn's name; the headline of the task
    score: float  # 0 to 1
    setting: Setting


@dataclass(frozen=True)
class Average:
    """Mean over the eight tasks (all but WNLI), and memory where the paper has it."""

    method: Method
    rank: int | None
    score: float  # 0 to 1
    memory_bytes: int | None


_TASKS = ("mnli", "sst2", "mrpc", "cola", "qnli", "qqp", "rte", "stsb")
# In the order of _TASKS; the learning rates are GaLore's, by rank.
_PERCENT: Mapping[tuple[Method, int | None], tuple[float, ...]] = {
    ("full", None): (87.18, 94.57, 91.30, 62.24, 92.33, 92.28, 79.42, 90.92),
    ("galore", 4): (87.00, 94.04, 92.25, 60.35, 92.24, 91.06, 79.42, 90.73),
    ("lora", 4): (86.82, 92.89, 91.07, 61.38, 92.18, 91.29, 78.70, 90.57),
}
_LEARNING_RATES: Mapping[int, tuple[float, ...]] = {
    4: (1e-5, 1e-5, 3e-5, 3e-5, 1e-5, 1e-5, 1e-5, 1e-5),
    8: (1e-5, 2e-5, 2e-5, 1e-5, 1e-5, 2e-5, 2e-5, 3e-5),
}
_SCALES = {4: 4.0, 8: 2.0}
_BATCH_SIZES = {"cola": 32}


def galore_setting(task: str, rank: int) -> Setting:
    """The paper's hyper-parameters of GaLore. Raises KeyError: it has none for this task or rank."""
    learning_rate = dict(zip(_TASKS, _LEARNING_RATES[rank], strict=True))[task]
    return Setting(batch_size=_batch_size(task), learning_rate=learning_rate, scale=_SCALES[rank])


def _batch_size(task: str) -> int:
    return _BATCH_SIZES.get(task, Setting.batch_size)


def _setting(task: str, method: Method, rank: int | None) -> Setting:
    if method == "galore" and rank is not None:
        return galore_setting(task, rank)
    return Setting(batch_size=_batch_size(task))


PUBLISHED: Mapping[tuple[str, Method, int | None], Published] = MappingProxyType(
    {
        (task, method, rank): Published(
            task, method, rank, TASKS[task].headline, round(percent / 100, 4), _setting(task, method, rank)
        )
        for (method, rank), percents in _PERCENT.items()
        for task, percent in zip(_TASKS, percents, strict=True)
    }
)

AVERAGES: tuple[Average, ...] = (
    Average("full", None, 0.8628, 747 * MEGABYTE),
    Average("galore", 4, 0.8589, 253 * MEGABYTE),
    Average("lora", 4, 0.8561, 257 * MEGABYTE),
    Average("galore", 8, 0.8594, None),
    Average("lora", 8, 0.8593, None),
)


def published(task: str, method: Method, rank: int | None) -> Published | None:
    """The paper's number, or None where it has none: WNLI, other ranks, 8-bit states."""
    return PUBLISHED.get((task, method, rank))
