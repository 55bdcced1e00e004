"""Shared by all tests: one thread each, since they run side by side; no hub, no disk; the processor is measured once."""

import functools
import gc
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that they start

import pytest
import torch

from galore.trainer.machine import hardware

torch.set_num_threads(1)
gc.disable()  # until everything is collected
MEMORY = Path("/dev/shm")
frozen = set[str]()  # modules


def pytest_configure() -> None:
    """Runs are synced thousands of times, and what a disk loses no test here can see: bench/prove does."""
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4 << 30:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_collection_finish() -> None:
    """What the libraries and thousands of tests are made of is no garbage: every run and every trace collects."""
    gc.freeze()
    gc.enable()
    frozen.update(sys.modules)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Nor is what a test was the first to import."""
    if len(sys.modules) > len(frozen) + 50:
        gc.collect()
        gc.freeze()
        frozen.update(sys.modules)


@pytest.fixture(scope="session", autouse=True)
def _measured_once() -> Iterator[None]:
    """Every run measures the processor, for longer than most of the runs here take."""
    measure = functools.cache(hardware.measure_gemm)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware, "measure_gemm", measure)
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and sweeps without plots: they take longer than the training, and nothing fails by them."""
    from galore.trainer.record.shown import report
    from galore.trainer.sweep import compare, glue

    monkeypatch.setattr(report, "draw", lambda history: {})
    for sweep in (compare, glue):
        monkeypatch.setattr(f"{sweep.__name__}.plot.render", lambda *_: b"")


@pytest.fixture
def drawn(undrawn: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Beside `undrawn`: once it was called, a sweep has its plot."""
    from galore.trainer.sweep import compare, glue, plot

    def draw() -> None:
        for sweep in (compare, glue):
            monkeypatch.setattr(f"{sweep.__name__}.plot.render", plot.render)

    return draw


WORDS = [
    "good",
    "bad",
    "fine",
    "dull",
    "film",
    "plot",
    "song",
    "it",
    "was",
    "the",
    "a",
    "very",
    "quite",
    "not",
    "same",
    "other",
    "[PAD]",
    "[UNK]",
    "<s>",
    "</s>",
]


@pytest.fixture(scope="session")
def tiny_roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random RoBERTa without a head that classifies, 2 layers of width 32, and its word tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

    vocabulary = {word: number for number, word in enumerate(WORDS)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [(word, vocabulary[word]) for word in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=special
    )
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "[PAD]"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        model_max_length=64,
        model_input_names=["input_ids", "attention_mask"],
        **names,
    )
    pad = vocabulary["[PAD]"]
    config = RobertaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64 + pad + 1, type_vocab_size=1, pad_token_id=pad, bos_token_id=vocabulary["<s>"],
        eos_token_id=vocabulary["</s>"],
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny-roberta")
    torch.manual_seed(0)
    RobertaForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def glue_folder(tmp_path: Path) -> Path:
    """Hand-made SST-2, RTE, MNLI and STS-B: 24 rows to train on, 24 to score, 3 to answer."""
    folder = tmp_path / "glue"
    rows: dict[str, Callable[[int], dict[str, object]]] = {
        "sst2": lambda n: {"sentence": f"the film was {'very ' * (n % 5)}{('bad', 'good')[n % 2]}", "label": n % 2},
        "rte": lambda n: _pair(n, n % 2),
        "mnli": lambda n: {
            "premise": _pair(n, 0)["sentence1"],
            "hypothesis": _pair(n, n % 3)["sentence2"],
            "label": n % 3,
        },
        "stsb": lambda n: _pair(n, 5.0 * (n % 2)),
    }
    for task, row in rows.items():
        (folder / task).mkdir(parents=True)
        splits = ("validation_matched", "validation_mismatched") if task == "mnli" else ("validation",)
        for split, first, count in [("train", 0, 24), *((name, 24, 24) for name in splits)]:
            lines = [json.dumps({**row(n), "idx": n - first}) for n in range(first, first + count)]
            (folder / task / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
        for split in ("test_matched", "test_mismatched") if task == "mnli" else ("test",):
            lines = [json.dumps({**row(n), "label": -1, "idx": n}) for n in range(3)]
            (folder / task / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def _pair(n: int, label: float) -> dict[str, object]:
    word = ("fine", "dull", "good")[n % 3]
    return {"sentence1": f"a {word} song", "sentence2": f"the {'other' if label else 'same'} {word}", "label": label}
