"""Two ways to train the same model on the same rows, in processes that take turns, so that both see the same machine.

A step is timed with all that belongs to it: data, forward, backward, clipping, update, refresh, logging.

    python turns.py SIDE TASK      one side, a child: SIDE is ours or theirs, TASK a `Task` as JSON
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROWS = 512  # different rows; Zipf-distributed token ids
STANDING = ["data.source=packaged", "data.path=null", "data.hub_config=null", "data.packing=packed"]
STANDING += ["train.save_steps=null", "optim.max_grad_norm=1.0", "log.report_to=none"]


@dataclass(frozen=True)
class Task:
    """A recipe with `settings`, `rows` sequences per step in micro-batches of `micro`, `steps` at most.

    `cheap_basis`: the reference's full SVD is replaced by an orthonormal basis drawn at random, where ordinary steps alone
    are to be timed; ours are then no refresh steps either. The weights of both come out of a pool of numbers.
    """

    recipe: str
    rows: int
    micro: int
    steps: int
    device: str = "cpu"
    settings: tuple[str, ...] = ()
    cheap_basis: bool = False

    def loaded(self) -> Any:
        """The recipe."""
        from galore.trainer.recipe.load import load_recipe

        sizes = [f"train.global_batch_size={self.rows}", f"train.micro_batch_size={self.micro}"]
        sizes += [f"train.max_steps={self.steps}", f"train.device={self.device}"]
        return load_recipe(self.recipe, [*STANDING, *sizes, *self.settings]).recipe

    def tokens(self, recipe: Any) -> int:
        """Per optimizer step."""
        return self.rows * int(recipe.data.max_length)


class Child:
    """A side that runs when told."""

    def __init__(self, side: str, task: Task, environment: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, __file__, side, json.dumps(asdict(task))]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | dict(environment or {})
        )
        self.side, self.seconds, self.steps = side, 0.0, 0
        self.tokens = task.tokens(task.loaded())
        self._ready: list[str] | None = None

    @property
    def ready(self) -> list[str]:
        """Waits until it is; which paths it takes."""
        if self._ready is None:
            self._ready = self._read()["ready"]
        return self._ready

    def take(self, steps: int) -> float:
        """Run `steps` steps; returns tokens per second."""
        assert self.ready is not None
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        block = self._read()
        self.seconds, self.steps = self.seconds + block["seconds"], self.steps + steps
        return steps * self.tokens / float(block["seconds"])

    @property
    def tokens_per_second(self) -> float:
        return self.steps * self.tokens / self.seconds

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while True:
            line = self.process.stdout.readline()
            if not line:
                raise RuntimeError(f"{self.side} ended early")
            if line.startswith("{") and ("ready" in line or "seconds" in line):
                row: dict[str, Any] = json.loads(line)
                return row


class Baton:
    """A child's side: wait for `go N`, count N steps, report their seconds, wait again."""

    def __init__(self, device: str) -> None:
        self.device, self.left, self.started = device, 0, 0.0

    def begin(self) -> None:
        if self.left == 0:
            line = sys.stdin.readline()
            if not line:
                os._exit(0)
            self.left, self.started = int(line), self._now()

    def end(self) -> None:
        self.left -= 1
        if self.left == 0:
            print(json.dumps({"seconds": self._now() - self.started}), flush=True)

    def _now(self) -> float:
        """The clock, once the device has done all it was asked for."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()


def token_ids(vocabulary: int, length: int) -> Any:
    """(ROWS, length) int64, the same for both sides."""
    import numpy as np
    import torch

    rng = np.random.default_rng(0)
    return torch.from_numpy(np.minimum(rng.zipf(1.3, (ROWS, length)), vocabulary - 1).astype(np.int64))


def _draw_as_told(task: Task) -> None:
    if task.cheap_basis:
        from gpu.cheap import draw_cheaply

        draw_cheaply()


def ours(task: Task) -> None:
    """`galore train` with its loop, records and optimizer."""
    _draw_as_told(task)
    if task.device == "cpu":
        from galore.trainer.machine.process import prepare_process

        prepare_process()  # as `galore train` does
    import torch

    from galore.trainer.build import Run, build_model
    from galore.trainer.data.rows.tokenbatch import TokenBatch
    from galore.trainer.loop import train
    from galore.trainer.machine.signals import StopOnSignal
    from galore.trainer.optimizer import attach_optimizer
    from galore.trainer.record.metrics import Metrics
    from galore.trainer.record.rundir import RunDir
    from galore.trainer.recorder import Meter, Recorder

    recipe, baton = task.loaded(), Baton(task.device)
    vocabulary = recipe.model.vocab_size
    ids = token_ids(vocabulary, recipe.data.max_length)

    class Data:
        num_sequences = ROWS

        def global_batch(self, step: int) -> TokenBatch:
            baton.begin()
            numbers = [(step * task.rows + row) % ROWS for row in range(task.rows)]
            return TokenBatch(ids[numbers], ids[numbers], tuple(numbers))

        has_validation = False

        def position(self) -> dict[str, Any]:
            return {}

    class Console:
        def step(self, row: dict[str, Any]) -> None:
            baton.end()

        def __getattr__(self, name: str) -> Any:
            return lambda *args: None

    model, lines = build_model(recipe, vocabulary, task.device, Path())
    optimizer = attach_optimizer(model, recipe, recipe.train.accumulation)
    lines.append(f"projection: of {sum(slot.factored for slot in optimizer.projected)} matrices inside the backward")
    print(json.dumps({"ready": lines}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        directory, device = RunDir.create(Path(folder) / "run", resume=False), torch.device(task.device)
        for beside in (directory.model, directory.tokenizer):  # what the last checkpoint is a model folder with
            beside.mkdir()
        run = Run(recipe, directory, Console(), Data(), model, optimizer, device, task.steps, 0, lines, None)  # type: ignore[arg-type]
        meter = Meter.of(model, device, torch.bfloat16)
        recorder = Recorder(Metrics.open(directory.metrics, None), Console(), meter, device, 0)
        train(run, recorder, StopOnSignal())


def theirs(task: Task) -> None:
    """transformers.Trainer with optim="galore_adamw", the same settings."""
    _import_without_bitsandbytes()
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    recipe, baton = task.loaded(), Baton(task.device)
    section, optim = recipe.model, recipe.optim
    ids = token_ids(section.vocab_size, recipe.data.max_length)
    _draw_as_told(task)
    if task.cheap_basis:
        torch.linalg.svd = _random_basis

    class Turns(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            baton.begin()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            baton.end()

    class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return task.rows * task.steps

        def __getitem__(self, index: int) -> Any:
            return {"input_ids": ids[index % ROWS], "labels": ids[index % ROWS]}

    config = LlamaConfig(
        vocab_size=section.vocab_size,
        hidden_size=section.hidden_size,
        intermediate_size=section.intermediate_size,
        num_hidden_layers=section.num_hidden_layers,
        num_attention_heads=section.num_attention_heads,
        num_key_value_heads=section.num_attention_heads,
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        use_cache=False,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=task.steps,
            per_device_train_batch_size=task.micro,
            gradient_accumulation_steps=task.rows // task.micro,
            optim="galore_adamw",
            optim_target_modules=["self_attn", "mlp"],
            optim_args=f"rank={optim.rank}, update_proj_gap={optim.update_proj_gap}, scale=0.25",
            learning_rate=0.01,
            lr_scheduler_type="cosine",
            warmup_steps=task.steps // 10,
            weight_decay=0.0,
            max_grad_norm=1.0,
            logging_steps=10,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=task.device == "cpu",
            seed=0,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=Rows(), callbacks=[Turns()])
        print(json.dumps({"ready": ["transformers.Trainer, galore_adamw"]}), flush=True)
        trainer.train()


def _random_basis(matrix: Any, full_matrices: bool = False) -> Any:
    """Of the shapes of an SVD, with orthonormal factors that know nothing of `matrix`."""
    import torch

    least = min(matrix.shape)
    u = torch.linalg.qr(torch.randn(matrix.shape[0], least, device=matrix.device))[0]
    v = torch.linalg.qr(torch.randn(matrix.shape[1], least, device=matrix.device))[0]
    return u, torch.ones(least, device=matrix.device), v.mT


def _import_without_bitsandbytes() -> None:
    """galore_torch imports bitsandbytes for its 8-bit optimizer, which is not used here: a name is enough."""
    import importlib.util
    import types

    if importlib.util.find_spec("bitsandbytes") is not None:
        return
    names = ("bitsandbytes", "bitsandbytes.optim", "bitsandbytes.optim.optimizer")
    modules = {name: types.ModuleType(name) for name in names}
    modules[names[-1]].Optimizer2State = object  # type: ignore[attr-defined]
    sys.modules |= modules
    importlib.import_module("galore_torch")
    for name in names:
        del sys.modules[name]


if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    {"ours": ours, "theirs": theirs}[sys.argv[1]](Task(**given | {"settings": tuple(given["settings"])}))
