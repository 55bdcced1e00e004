"""The nine tasks of GLUE: columns, labels, metrics, splits and sizes, as `nyu-mll/glue` has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

LOWEST_SCORE, HIGHEST_SCORE = 0.0, 5.0  # of the one regression task, STS-B


@dataclass(frozen=True)
class Task:
    """One task. Metrics carry their scikit-learn names; see `metrics.score`."""

    name: str  # the configuration of the hub
    folder: str  # GLUE's own name, of its folder and of its submission file
    text_a: str  # column of the first sentence
    text_b: str | None  # column of the second; None where there is one only
    labels: tuple[str, ...]  # label strings in the order of their ids; empty: a score between 0 and 5
    metrics: tuple[str, ...]
    headline: str  # the one of `metrics` that stands for the task where there is room for one number
    headline_note: str  # why that one, where GLUE itself averages two; else empty
    sizes: Mapping[str, int]  # split: rows of the official data

    @property
    def is_regression(self) -> bool:
        return not self.labels

    @property
    def num_labels(self) -> int:
        """Outputs of the classification head: one per label, or one for a score."""
        return len(self.labels) or 1

    @property
    def evaluation_splits(self) -> tuple[str, ...]:
        return tuple(split for split in self.sizes if split.startswith("validation"))

    @property
    def test_splits(self) -> tuple[str, ...]:
        return tuple(split for split in self.sizes if split.startswith("test"))


def _sizes(train: int, validation: int, test: int) -> Mapping[str, int]:
    return MappingProxyType({"train": train, "validation": validation, "test": test})


_ENTAILMENT = ("entailment", "not_entailment")
_MNLI_SIZES = MappingProxyType(
    {
        "train": 392_702,
        "validation_matched": 9_815,
        "validation_mismatched": 9_832,
        "test_matched": 9_796,
        "test_mismatched": 9_847,
    }
)

_ALL = (
    Task(
        "cola",
        "CoLA",
        "sentence",
        None,
        ("unacceptable", "acceptable"),
        ("matthews_correlation", "accuracy"),
        "matthews_correlation",
        "",
        _sizes(8_551, 1_043, 1_063),
    ),
    Task(
        "sst2",
        "SST-2",
        "sentence",
        None,
        ("negative", "positive"),
        ("accuracy",),
        "accuracy",
        "",
        _sizes(67_349, 872, 1_821),
    ),
    Task(
        "mrpc",
        "MRPC",
        "sentence1",
        "sentence2",
        ("not_equivalent", "equivalent"),
        ("accuracy", "f1"),
        "f1",
        "F1 alone, as in the GaLore paper; GLUE averages it with accuracy",
        _sizes(3_668, 408, 1_725),
    ),
    Task(
        "stsb",
        "STS-B",
        "sentence1",
        "sentence2",
        (),
        ("pearson", "spearman"),
        "pearson",
        "Pearson alone; GLUE averages it with Spearman",
        _sizes(5_749, 1_500, 1_379),
    ),
    Task(
        "qqp",
        "QQP",
        "question1",
        "question2",
        ("not_duplicate", "duplicate"),
        ("accuracy", "f1"),
        "accuracy",
        "accuracy alone; GLUE averages it with F1",
        _sizes(363_846, 40_430, 390_965),
    ),
    Task(
        "mnli",
        "MNLI",
        "premise",
        "hypothesis",
        ("entailment", "neutral", "contradiction"),
        ("accuracy",),
        "accuracy",
        "",
        _MNLI_SIZES,
    ),
    Task(
        "qnli",
        "QNLI",
        "question",
        "sentence",
        _ENTAILMENT,
        ("accuracy",),
        "accuracy",
        "",
        _sizes(104_743, 5_463, 5_463),
    ),
    Task(
        "rte",
        "RTE",
        "sentence1",
        "sentence2",
        _ENTAILMENT,
        ("accuracy",),
        "accuracy",
        "",
        _sizes(2_490, 277, 3_000),
    ),
    Task(
        "wnli",
        "WNLI",
        "sentence1",
        "sentence2",
        ("not_entailment", "entailment"),
        ("accuracy",),
        "accuracy",
        "",
        _sizes(635, 71, 146),
    ),
)

TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in _ALL})
