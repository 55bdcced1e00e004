"""`galore train` against transformers' Trainer with galore-torch: LLaMA-60M, bf16, the same rows, in one run.

    python bench/speed.py [--steps 400] [--block 25]

Two processes take turns, `block` steps each, so that both see the same machine. Both refresh every 200 steps. A step is
timed with all that belongs to it: data, forward, backward, clipping, update, refresh, logging. Between the turns the bf16
GEMM peak is measured. FLOPs are 6 per weight of a linear layer and token, and causal attention (half of PaLM's count).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

VOCABULARY, LENGTH, ROWS, LAYERS, WIDTH, INNER = 32_000, 256, 512, 8, 512, 1376
WEIGHTS = LAYERS * (4 * WIDTH**2 + 3 * WIDTH * INNER) + WIDTH * VOCABULARY
FLOPS_PER_TOKEN = 6 * WEIGHTS + 6 * LAYERS * WIDTH * LENGTH


class Baton:
    """A child's side: wait for `go N`, count N steps, report their seconds, wait again."""

    def __init__(self) -> None:
        self.left, self.started = 0, 0.0

    def begin(self) -> None:
        if self.left == 0:
            line = sys.stdin.readline()
            if not line:
                os._exit(0)
            self.left, self.started, self.steps = int(line), time.perf_counter(), int(line)

    def end(self, loss: float) -> None:
        self.left -= 1
        if self.left == 0:
            print(
                json.dumps({"seconds": time.perf_counter() - self.started, "steps": self.steps, "loss": loss}),
                flush=True,
            )


def rows() -> Any:
    """(ROWS, LENGTH) int64: Zipf-distributed ids, the same for both sides."""
    import numpy as np

    rng = np.random.default_rng(0)
    return np.minimum(rng.zipf(1.3, (ROWS, LENGTH)), VOCABULARY - 1).astype(np.int64)


def ours(batch: int, steps: int) -> None:
    """`galore train` with its loop, records and optimizer."""
    from galore.kernels.host import prepare_process

    prepare_process()  # as `galore train` does

    import torch

    from galore.trainer.build import Run, build_model
    from galore.trainer.data.batch import Batch
    from galore.trainer.loop import train
    from galore.trainer.metrics import Metrics
    from galore.trainer.optim import project_in_backward
    from galore.trainer.parameters import build_optimizer
    from galore.trainer.recipe.load import load_recipe
    from galore.trainer.record import Meter, Recorder
    from galore.trainer.rundir import RunDir
    from galore.trainer.signals import StopOnSignal

    baton, ids = Baton(), torch.from_numpy(rows())

    class Data:
        num_sequences = ROWS

        def global_batch(self, step: int) -> Batch:
            baton.begin()
            numbers = [(step * batch + row) % ROWS for row in range(batch)]
            return Batch(ids[numbers], ids[numbers], tuple(numbers))

        def validation_batches(self, *args: Any) -> Any:
            return iter(())

        def position(self) -> dict[str, Any]:
            return {}

    class Console:
        def step(self, row: dict[str, Any]) -> None:
            baton.end(row["loss_nats"])

        def __getattr__(self, name: str) -> Any:
            return lambda *args: None

    settings = [
        f"train.global_batch_size={batch}",
        f"train.micro_batch_size={batch}",
        f"train.max_steps={steps}",
        "train.save_steps=null",
        "data.source=packaged",
        "data.path=null",
        "data.packing=packed",
        "optim.max_grad_norm=1.0",
        "log.report_to=none",
    ]
    recipe = load_recipe("llama-60m-galore", settings).recipe
    model, kernels = build_model(recipe, VOCABULARY, "cpu", Path())
    optimizer = build_optimizer(model, recipe.optim, accumulation=1, seed=0)
    kernels.append(f"projection: {project_in_backward(model, optimizer)} matrices inside the backward")
    print(json.dumps({"ready": kernels}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDir.create(Path(folder) / "run", resume=False)
        device = torch.device("cpu")
        run = Run(recipe, directory, Console(), Data(), model, optimizer, device, steps, 0, kernels, None)
        recorder = Recorder(
            Metrics.open(directory.metrics, None), Console(), Meter.of(model, device, torch.bfloat16, LENGTH), device, 0
        )
        train(run, recorder, StopOnSignal())


def theirs(batch: int, steps: int) -> None:
    """transformers.Trainer with optim="galore_adamw", the same settings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    baton, ids = Baton(), torch.from_numpy(rows())

    class Turns(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            baton.begin()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            baton.end(0.0)

    class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return batch * steps

        def __getitem__(self, index: int) -> Any:
            return {"input_ids": ids[index % ROWS], "labels": ids[index % ROWS]}

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=8,
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
            max_steps=steps,
            per_device_train_batch_size=batch,
            optim="galore_adamw",
            optim_target_modules=["self_attn", "mlp"],
            optim_args="rank=128, update_proj_gap=200, scale=0.25",
            learning_rate=0.01,
            lr_scheduler_type="cosine",
            warmup_steps=steps // 10,
            weight_decay=0.0,
            max_grad_norm=1.0,
            logging_steps=10,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            seed=0,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=Rows(), callbacks=[Turns()])
        print(json.dumps({"ready": ["transformers.Trainer, galore_adamw"]}), flush=True)
        trainer.train()


class Child:
    """A side that runs when told."""

    def __init__(self, name: str, batch: int, steps: int) -> None:
        command = [sys.executable, __file__, "--side", name, "--batch", str(batch), "--steps", str(steps)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.batch, self.seconds, self.steps = batch, 0.0, 0
        print(name, self._read()["ready"], flush=True)

    def take(self, steps: int) -> float:
        """Run `steps` steps; returns tokens per second."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        block = self._read()
        self.seconds, self.steps = self.seconds + block["seconds"], self.steps + steps
        return steps * self.batch * LENGTH / block["seconds"]

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while True:
            line = self.process.stdout.readline()
            if not line:
                sys.exit("a side ended early")
            if line.startswith("{") and ("ready" in line or "seconds" in line):
                row: dict[str, Any] = json.loads(line)
                return row

    @property
    def tokens_per_second(self) -> float:
        return self.steps * self.batch * LENGTH / self.seconds


def gemm_peak() -> float:
    """bf16 GEMM of 2048³ in FLOP/s, best of ten."""
    import torch

    a = torch.randn(2048, 2048).bfloat16()
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - started)
    return 2 * 2048**3 / best


def versus(steps: int, block: int) -> None:
    """Both sides in turns at 1,024 tokens per step; then ours alone at 8,192."""
    galore, trainer = Child("ours", 4, steps), Child("theirs", 4, steps)
    peaks, ratios, fractions = [], [], []
    for _ in range(steps // block):
        peaks.append(gemm_peak())
        fast, slow = galore.take(block), trainer.take(block)
        ratios.append(fast / slow)
        fractions.append(fast * FLOPS_PER_TOKEN / peaks[-1])
        print(
            f"galore {fast:7.0f} tok/s   Trainer {slow:7.0f} tok/s   ratio {ratios[-1]:.2f}   "
            f"of GEMM peak {fractions[-1]:.3f} / {slow * FLOPS_PER_TOKEN / peaks[-1]:.3f}",
            flush=True,
        )
    print(
        f"\n{steps} steps of 1,024 tokens: galore {galore.tokens_per_second:.0f} tok/s, Trainer + galore-torch "
        f"{trainer.tokens_per_second:.0f} tok/s, ratio {galore.tokens_per_second / trainer.tokens_per_second:.2f} "
        f"(blocks: median {median(ratios):.2f}, {min(ratios):.2f}–{max(ratios):.2f})"
    )
    print(
        f"GEMM peak {median(peaks) / 1e9:.0f} GFLOP/s (median); galore forward + backward + step: median {median(fractions):.3f} of it"
    )
    trainer.process.kill()
    galore.process.kill()
    large, fractions = Child("ours", 32, 40), []
    large.take(4)
    for _ in range(5):
        peak = gemm_peak()
        fractions.append(large.take(5) * FLOPS_PER_TOKEN / peak)
    print(
        f"8,192 tokens per step: median {median(fractions):.3f} of the GEMM peak ({min(fractions):.3f}–{max(fractions):.3f})"
    )
    large.process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--block", type=int, default=25)
    parser.add_argument("--side", choices=["ours", "theirs"])
    parser.add_argument("--batch", type=int, default=4)
    arguments = parser.parse_args()
    if arguments.side:
        {"ours": ours, "theirs": theirs}[arguments.side](arguments.batch, arguments.steps)
    else:
        versus(arguments.steps, arguments.block)


if __name__ == "__main__":
    main()
