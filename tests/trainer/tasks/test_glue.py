from __future__ import annotations

from galore.trainer.tasks.glue import TASKS, Task
from galore.trainer.tasks.metrics import METRICS


def test_the_nine_tasks() -> None:
    assert list(TASKS) == ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]
    assert [task.num_labels for task in TASKS.values()] == [2, 2, 2, 1, 2, 3, 2, 2, 2]
    assert [task.name for task in TASKS.values() if task.is_regression] == ["stsb"]
    assert [task.name for task in TASKS.values() if task.text_b is None] == ["cola", "sst2"]


def test_a_task_is_whole(task: Task) -> None:
    assert task.headline in task.metrics
    assert set(task.metrics) <= set(METRICS)
    assert bool(task.headline_note) == (task.name in ("mrpc", "qqp", "stsb"))  # which GLUE scores by two numbers
    assert next(iter(task.sizes)) == "train"


def test_splits() -> None:
    assert TASKS["rte"].evaluation_splits == ("validation",)
    assert TASKS["rte"].test_splits == ("test",)
    assert TASKS["mnli"].evaluation_splits == ("validation_matched", "validation_mismatched")
    assert TASKS["mnli"].test_splits == ("test_matched", "test_mismatched")


def test_entailment_is_class_0_but_in_wnli() -> None:
    """The hub's order, which no two tasks agree on."""
    zero = {name: task.labels[0] for name, task in TASKS.items() if "entailment" in task.labels}
    assert zero == {"mnli": "entailment", "qnli": "entailment", "rte": "entailment", "wnli": "not_entailment"}
