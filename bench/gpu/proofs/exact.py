"""Exactness on the device: micro-batches, kill -9 and resume, a step that is not finite."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kill9

from gpu.records import Records
from gpu.scale import BATCH, Scale

INT8 = ["optim.state_dtype=8bit", "optim.weight_dtype=int8", "optim.projector_dtype=int8"]
BESIDE = {"galore, INT8 weights and P": ["optim.method=galore", *INT8]}  # what no method of the table has
REHEARSED = ("galore", "lora", "full")  # methods
ROWS, STEPS = 8, 3
TOLERANCE = 1e-3  # of the movement of all weights, fp32: sums of other shapes are rounded otherwise
KILLED = ("galore", "full")
LONG = ["data.max_length=2048", "model.max_position_embeddings=2048"]  # rows whose order of sums takes time


def prove(scale: Scale, records: Records) -> None:
    """The killed runs go on beside the steps that are compared, and are over before any step is timed."""
    with ThreadPoolExecutor(1) as beside:
        killed = beside.submit(_killed, scale, records)
        for name, settings in _methods(scale).items():
            try:
                _nan_step(name, settings, scale, records)
            except Exception as error:  # a finding about one method
                records.note(f"{name} broke off: {type(error).__name__}: {str(error)[:300]}", ok=False)
        _micro_batches(scale, records)
        try:
            killed.result()
        finally:
            _order_of_sums(scale, records)


def _methods(scale: Scale) -> dict[str, list[str]]:
    """Each method that a recipe can name, with its settings."""
    from galore.trainer.recipe.methods import METHODS

    found = {name: list(METHODS[name].settings) for name in (REHEARSED if scale.rehearsal else METHODS)}
    return found | BESIDE


def loaded(scale: Scale, *settings: str, layers: int = 2) -> Any:
    """The recipe of a small model."""
    from galore.trainer.recipe.load import load_recipe

    sizes = {"train__global_batch_size": ROWS, "train__micro_batch_size": ROWS, "model__num_hidden_layers": layers}
    return load_recipe("llama-60m", [*scale.settings(**sizes), "train.deterministic=true", *settings]).recipe


@dataclass
class Trial:
    """A small model and its optimizer on the device, with rows of random tokens."""

    recipe: Any
    model: Any
    optimizer: Any
    rows: Any

    @classmethod
    def of(cls, scale: Scale, *settings: str, layers: int = 2, ranks: Any = None) -> Trial:
        import torch

        from galore.trainer.build import build_model
        from galore.trainer.data.rows.tokenbatch import TokenBatch
        from galore.trainer.optimizer import attach_optimizer

        recipe = loaded(scale, *settings, layers=layers)
        model, _ = build_model(recipe, recipe.model.vocab_size or 1, scale.device, Path())
        optimizer = attach_optimizer(model, recipe, recipe.train.accumulation, ranks)
        ids = torch.randint(recipe.model.vocab_size or 1, (ROWS, recipe.data.max_length), generator=_generator())
        return cls(recipe, model, optimizer, TokenBatch(ids, ids, tuple(range(ROWS))))

    def step(self, micro_batch_size: int = ROWS) -> Any:
        from galore.trainer.step import train_step

        return train_step(self.model, self.optimizer, self.rows, micro_batch_size, 1.0).report

    def tensors(self) -> Iterator[tuple[str, Any]]:
        """Weights, buffers, and what the optimizer keeps between steps."""
        yield from self.model.state_dict().items()
        yield from self.optimizer.state_tensors().items()


def _generator() -> Any:
    import torch

    return torch.Generator().manual_seed(0)


def _nan_step(name: str, settings: list[str], scale: Scale, records: Records) -> None:
    """One gradient of one weight becomes infinite: the step is skipped, and no bit of weights and states moves."""
    import torch

    trial = Trial.of(scale, *settings)
    trial.step()
    before = {key: tensor.clone() for key, tensor in trial.tensors()}
    poisoned = next(weight for weight in trial.model.parameters() if weight.requires_grad)
    handle = poisoned.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
    report = trial.step()
    handle.remove()
    moved = [key for key, tensor in trial.tensors() if not _equal(before[key], tensor)]
    records.note(
        f"a step that is not finite, {name}: skipped, no bit moved",
        ok=report.skipped and not moved,
        tensors=len(before),
        **({"moved": ", ".join(moved[:5])} if moved else {}),
    )
    trial.step()
    changed = sum(not _equal(before[key], tensor) for key, tensor in trial.tensors())
    records.note(f"the step after it, {name}: the weights move again", ok=changed > 0, tensors=changed)


def _equal(x: Any, y: Any) -> bool:
    import torch

    return bool(torch.equal(x.reshape(-1).view(torch.uint8), y.reshape(-1).view(torch.uint8)))


def _micro_batches(scale: Scale, records: Records) -> None:
    """8 micro-batches of 1 against 1 of 8, fp32 and bf16, after some steps with clipping."""
    for dtype in ("float32", "bfloat16"):
        begun, *ends = [Trial.of(scale, f"model.dtype={dtype}") for _ in range(3)]
        for trial, size in zip(ends, (ROWS, 1), strict=True):
            for _ in range(STEPS):
                trial.step(size)
        moved = apart = 0.0
        start, one, eight = (dict(each.model.named_parameters()) for each in (begun, *ends))
        for name, weight in start.items():
            moved += float((one[name].detach().double() - weight.detach().double()).square().sum())
            apart += float((one[name].detach().double() - eight[name].detach().double()).square().sum())
        share = (apart / moved) ** 0.5
        ok = share <= TOLERANCE if dtype == "float32" else None
        records.note(f"8 × 1 against 1 × 8, {dtype}: of the weights' movement", ok=ok, share=share)


def _order_of_sums(scale: Scale, records: Records) -> None:
    """The same steps twice, in one order of sums and in any: equal bits, and what it costs."""
    long = [] if scale.rehearsal else LONG
    seconds = {}
    for deterministic in (True, False):
        wanted = f"train.deterministic={str(deterministic).lower()}"
        twice = [Trial.of(scale, wanted, *long, layers=8) for _ in range(2)]
        seconds[deterministic] = min(_timed(trial, scale) for trial in twice)
        same = all(_equal(x, y) for (_, x), (_, y) in zip(twice[0].tensors(), twice[1].tensors(), strict=True))
        records.note(f"the same steps twice, {wanted}: equal bits", ok=same if deterministic else None, equal=same)
    records.note("a step in one order of sums, 60M, 2,048 tokens", ratio=seconds[True] / seconds[False])


def _timed(trial: Trial, scale: Scale) -> float:
    """Seconds of the fastest of some steps."""
    import torch

    found = []
    for _ in range(STEPS):
        started = time.perf_counter()
        trial.step()
        if not scale.rehearsal:
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return min(found)


def to_be_killed(scale: Scale, folder: Path) -> list[kill9.Trial]:
    """Runs in folders of their own below `folder`."""
    settings = [f"train.device={scale.device}", "train.deterministic=true", "eval.sample_prompt=null"]
    settings += scale.tiny(but=BATCH)
    steps, kills = (6, 1) if scale.rehearsal else (60, 2)
    methods = KILLED[:1] if scale.rehearsal else KILLED
    return [kill9.Trial(method, 4, kills, folder / method, steps=steps, settings=settings) for method in methods]


def _killed(scale: Scale, records: Records) -> None:
    """`kill -9` at random steps, resume, and compare every bit with the run nobody killed."""
    os.environ |= scale.environment()
    with tempfile.TemporaryDirectory(dir=scale.folder) as folder, ThreadPoolExecutor() as pool:
        trials = to_be_killed(scale, Path(folder))
        for trial, found in zip(trials, pool.map(lambda trial: trial.survive(random.Random(0)), trials), strict=True):
            records.note(
                f"kill -9 and resume, {trial.method}: every bit as in the run nobody killed",
                ok=found.same and found.kills > 0,
                kills=found.kills,
            )
