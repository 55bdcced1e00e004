"""What a run has done is kept, whatever breaks between two steps, and no checkpoint is pushed out by one that is worth nothing."""

from __future__ import annotations

import errno
import itertools
import json
import math
import random
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from consoles import Quiet
from safetensors.torch import load_file

from galore.trainer import loop, recorder, run, step
from galore.trainer.checkpoint import checkpoint
from galore.trainer.checkpoint.manifest import verify
from galore.trainer.checkpoint.rotation import step_directories
from galore.trainer.common.errors import Interrupted, RunFailed, UserError
from galore.trainer.data.rows.mapped import MappedData
from galore.trainer.data.stream.stream import StreamedData
from galore.trainer.machine.hardware import Peak
from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optim.projected import ProjectedSlot
from galore.trainer.recipe.load import load_recipe
from galore.trainer.record.callbacks import Callback, Callbacks
from galore.trainer.record.shown import report
from galore.trainer.recorder import Recorder
from galore.trainer.run import run_training
from galore.trainer.trained.runmodel import load_run_model

STEPS = 8
METHODS = {
    "galore": ["optim.method=galore"],
    "galore-8bit": ["optim.method=galore", "optim.state_dtype=8bit", "optim.rank=32"],
    "galore-fp8": ["optim.method=galore", "optim.state_dtype=fp8", "optim.rank=32"],
    "galore-int8": ["optim.method=galore", "optim.weight_dtype=int8"],
    "galore-fp32": ["optim.method=galore", "model.dtype=float32"],
    "sumo": ["optim.method=galore", "optim.inner=sumo"],
    "apollo": ["optim.method=galore", "optim.residual=apollo", "optim.proj_type=random"],
    "lora": ["optim.method=lora"],
    "full": ["optim.method=full"],
    "muon": ["optim.method=full", "optim.inner=muon"],
}
NEEDS = {"galore-8bit": "bitsandbytes", "lora": "peft"}


@pytest.fixture(autouse=True, scope="module")
def _quickly() -> Iterator[None]:
    """Without what takes most of a short run's time, the plots and the measurement of the processor; threads as before."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw", lambda history: {})
        patch.setattr(recorder, "device_peak", lambda device, dtype: Peak(None, "unknown", "not measured"))
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    rng = random.Random(0)
    words = ["".join(rng.choices("aeiourstlnmkp", k=rng.randint(2, 7))) for _ in range(60)]
    (folder / "text.txt").write_text("\n\n".join(" ".join(rng.choices(words, k=30)) for _ in range(200)))
    (folder / "recipe.yaml").write_text(f"""
model: {{hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 64}}
data: {{source: local, path: text.txt, tokenizer_vocab_size: 300, max_length: 16, validation_fraction: 0.05,
       cache_dir: {folder / "cache"}}}
optim: {{rank: 4, update_proj_gap: 3}}
train: {{max_steps: {STEPS}, global_batch_size: 2, micro_batch_size: 2, save_steps: 2, num_threads: 1}}
eval: {{eval_steps: 3, max_tokens: 64, sample_prompt: "a", sample_tokens: 3}}
""")
    return folder / "recipe.yaml"


def execute(
    recipe: Path, out: Path, *overrides: str, resume: bool = False, callbacks: Sequence[Callback] = ()
) -> Quiet:
    console = Quiet()
    run_training(load_recipe(str(recipe), overrides), out, resume, console, callbacks=Callbacks(callbacks))
    return console


def rows(out: Path, kind: str = "train") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in lines if row["kind"] == kind]


def saved(out: Path) -> list[int]:
    return sorted(step for step, _ in step_directories(out / "checkpoints"))


def essence(out: Path) -> Any:
    """All that must be the same in two equal runs."""
    names = ("step", "loss_nats", "grad_norm", "learning_rate", "sample_ids_crc32", "tokens", "mode", "sample")
    told = [[row.get(name) for name in names] for kind in ("train", "eval") for row in rows(out, kind)]
    last = step_directories(out / "checkpoints")[0][1]
    return told, {path.name: path.read_bytes() for path in last.glob("*.safetensors")}


@pytest.fixture(scope="module")
def straight(recipe: Path, tmp_path_factory: pytest.TempPathFactory, _quickly: None) -> Path:
    """A run that nothing happened to."""
    out = tmp_path_factory.mktemp("straight") / "run"
    execute(recipe, out)
    return out


def fails_at(monkeypatch: pytest.MonkeyPatch, place: object, name: str, call: int, error: BaseException) -> None:
    """`place.name` raises at its call number `call`, from 0, once it has done what it does."""
    real, calls = getattr(place, name), itertools.count()

    def fragile(*arguments: Any, **options: Any) -> Any:
        result = real(*arguments, **options)
        if next(calls) == call:
            raise error
        return result

    monkeypatch.setattr(place, name, fragile)


BREAKS = {
    "data": (MappedData, "global_batch", 5, OSError(5, "Input/output error", "tokens.bin"), 5),
    "data, a user's": (MappedData, "global_batch", 5, UserError("no row", where="data.path", fix="look"), 5),
    "data, failed": (MappedData, "global_batch", 5, RunFailed("the hub is gone"), 5),
    "record": (Recorder, "step", 4, ValueError("no such column"), 5),
    "evaluation": (loop, "score_held_out", 0, RuntimeError("device lost"), 3),
    "last evaluation": (loop, "score_held_out", 2, torch.OutOfMemoryError("CUDA out of memory"), 8),
}


@pytest.mark.parametrize("where", BREAKS)
def test_what_breaks_between_steps_ends_the_run_with_all_of_it_saved(
    recipe: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    place, name, call, error, step = BREAKS[where]
    with monkeypatch.context() as patch:
        fails_at(patch, place, name, call, error)
        with pytest.raises(
            RunFailed, match=rf"(?s)after step {step}: .*the {step} steps before it are saved.*--resume"
        ) as it:
            execute(recipe, tmp_path / "run")
    assert it.value.exit_code == 1
    assert str(error) in str(it.value).replace("\n  → ", "") or isinstance(error, OSError | UserError)
    assert saved(tmp_path / "run")[-1] == step
    assert "broken off" in rows(tmp_path / "run", "event")[-1]["message"]
    assert (tmp_path / "run/report.md").exists()
    bug = not isinstance(error, OSError | UserError | torch.OutOfMemoryError)
    assert (tmp_path / "run/error.txt").exists() is bug
    assert ("lower eval.micro_batch_size" in str(it.value)) is isinstance(error, torch.OutOfMemoryError)
    execute(recipe, tmp_path / "run", resume=True)
    assert not (tmp_path / "run/error.txt").exists()
    if where != "record":  # whose row it was that got lost
        assert essence(tmp_path / "run") == essence(straight)


def stop_in_step(patch: pytest.MonkeyPatch, last: int) -> None:
    """Let a hang-up come in step `last`."""
    real, attempt_step = run.StopOnSignal, loop.attempt_step

    class Stopping(real):  # type: ignore[misc, valid-type]
        def __enter__(self) -> Any:
            patch.setattr(loop, "attempt_step", self.attempt)
            return super().__enter__()

        def attempt(self, parts: Any, batch: Any, number: int) -> Any:
            self.requested = signal.SIGHUP if number == last else None
            return attempt_step(parts, batch, number)

    patch.setattr(run, "StopOnSignal", Stopping)


def test_a_signal_saves_first_and_the_evaluation_of_that_step_follows_on_resume(
    recipe: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_in_step(patch, 3)
        with pytest.raises(Interrupted, match="by SIGHUP after step 3; saved"):
            execute(recipe, tmp_path / "run")
    assert (saved(tmp_path / "run"), rows(tmp_path / "run", "eval")) == ([2, 3], [])
    execute(recipe, tmp_path / "run", resume=True)
    assert essence(tmp_path / "run") == essence(straight)


def test_a_signal_whose_save_the_disk_refuses_claims_none(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checkpoint.save

    def full(root: Path, step: int, *rest: Any) -> Path:
        if step == 3:
            raise checkpoint.CheckpointFailed("the disk is full")
        return real(root, step, *rest)

    monkeypatch.setattr(checkpoint, "save", full)
    stop_in_step(monkeypatch, 3)
    with pytest.raises(checkpoint.CheckpointFailed, match="the disk is full"):
        execute(recipe, tmp_path / "run")
    assert saved(tmp_path / "run") == [2]


@pytest.mark.parametrize("stopped", [False, True])
def test_an_older_checkpoint_that_cannot_be_deleted_ends_no_run(
    recipe: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    """The last save, or that of a signal, is the one that meets it."""
    out, last = tmp_path / "run", 5 if stopped else STEPS
    held, real, heard = f".tmp-gone-step-{2 if stopped else 4:08d}", shutil.rmtree, list[int]()

    def rmtree(path: Path, *arguments: Any, **more: Any) -> None:
        if path.name == held:
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))
        real(path, *arguments, **more)

    class Heard(Callback):
        def on_save(self, step: int, folder: Path) -> None:
            heard.append(step)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", rmtree)
        if stopped:
            stop_in_step(patch, last)
        with pytest.raises(Interrupted, match="after step 5; saved") if stopped else nullcontext():
            execute(recipe, out, callbacks=[Heard()])
    assert (saved(out)[-1], heard[-1]) == (last, last)
    (event,) = (row for row in rows(out, "event") if "could not be deleted" in row["message"])
    assert event["step"] == last
    assert f"step-{last:08d} was saved" in event["message"]
    assert f"{held}: Directory not empty" in event["message"]
    if stopped:
        execute(recipe, out, resume=True)
    assert essence(out) == essence(straight)


def test_a_run_killed_before_its_last_evaluation_has_it_after_a_resume(
    recipe: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("score_held_out", "_end"):
        out = tmp_path / place
        with monkeypatch.context() as patch:
            if place == "_end":
                patch.setattr(run, "_end", lambda *arguments: killed())
            else:
                fails_at(patch, loop, place, 2, KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt):
                execute(recipe, out)
        assert saved(out)[-1] == STEPS
        execute(recipe, out, resume=True)
        assert essence(out) == essence(straight)
        final, expected = (json.loads((each / "run.json").read_text())["final"] for each in (out, straight))
        assert final == expected
        execute(recipe, out, resume=True)
        assert len(rows(out, "eval")) == len(rows(straight, "eval")), "what is evaluated is not evaluated again"


def killed() -> None:
    raise KeyboardInterrupt


def test_what_a_step_that_broke_off_had_drawn_is_drawn_again(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dropout of the steps after a resume is that of a run that nothing happened to."""
    pytest.importorskip("peft")
    settings = ["optim.method=lora", "optim.lora_dropout=0.2", "eval.eval_steps=null"]
    execute(recipe, tmp_path / "straight", *settings)
    real, calls = step.summed_losses, itertools.count()

    def fragile(*arguments: Any) -> Any:
        sums = real(*arguments)
        if next(calls) == 4:
            raise RuntimeError("device lost")
        return sums

    with monkeypatch.context() as patch:
        patch.setattr(step, "summed_losses", fragile)
        with pytest.raises(RunFailed, match=r"(?s)RuntimeError: device lost.*the 4 steps before it are saved"):
            execute(recipe, tmp_path / "run", *settings)
    execute(recipe, tmp_path / "run", *settings, resume=True)
    assert essence(tmp_path / "run") == essence(tmp_path / "straight")


def test_nothing_half_applied_is_saved_when_a_step_breaks_off(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ProjectedSlot.apply

    def fragile(slot: ProjectedSlot, update: Any) -> None:
        if slot.subspace.clock() == 5 and "down_proj" in slot.name:
            raise RuntimeError("device lost")
        real(slot, update)

    monkeypatch.setattr(ProjectedSlot, "apply", fragile)
    with pytest.raises(RunFailed, match="some weights had taken the step already: step-00000004 is the last"):
        execute(recipe, tmp_path / "run")
    assert saved(tmp_path / "run") == [2, 4]


def test_a_sample_that_fails_is_an_event(
    recipe: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> str:
        raise RuntimeError("probability tensor contains either inf or nan")

    monkeypatch.setattr(loop, "sample", refuse)
    execute(recipe, tmp_path / "run")
    told = [row["message"] for row in rows(tmp_path / "run", "event")]
    assert [text.partition(": ")[0] for text in told] == [f"no sample after step {step}" for step in (3, 6, 8)]
    losses = [[row["loss_nats"] for row in rows(each, "eval")] for each in (tmp_path / "run", straight)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("sharded", "error", "ends"),
    [
        (True, torch.OutOfMemoryError("here alone"), True),
        (True, UserError("no chat template"), False),
        (False, torch.OutOfMemoryError("here alone"), False),
    ],
)
def test_of_a_sharded_model_a_sample_that_fails_on_one_rank_ends_all(
    monkeypatch: pytest.MonkeyPatch, sharded: bool, error: Exception, ends: bool
) -> None:
    def refuse(*_: Any) -> str:
        raise error

    monkeypatch.setattr(loop, "entered", refuse)
    monkeypatch.setattr(loop, "is_sharded", lambda _: sharded)
    run: Any = SimpleNamespace(recipe=load_recipe("demo").recipe, model=None, writes=True)
    told: list[str] = []
    recorder: Any = SimpleNamespace(event=lambda step, text: told.append(text))
    with pytest.raises(type(error)) if ends else nullcontext():
        assert loop._sample(run, recorder, 3) is None
    assert bool(told) != ends


@pytest.mark.parametrize("error", [RuntimeError("no font"), RunFailed("the disk is full"), KeyError("step")])
def test_a_report_that_fails_leaves_the_run_finished(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(report, "_compose", lambda *arguments: raises(error))
        console = Quiet()
        path = run_training(load_recipe(str(recipe), ["train.max_steps=1"]), tmp_path / "run", False, console)
    assert path is None
    assert "finished" in json.loads((tmp_path / "run/run.json").read_text())
    if not isinstance(error, UserError):
        assert f"galore train {tmp_path}/run --resume writes it anew" in console.messages[-1]
    assert run_training(load_recipe(str(recipe), ["train.max_steps=1"]), tmp_path / "run", True, Quiet())
    assert (tmp_path / "run/report.md").is_file()


def raises(error: BaseException) -> Any:
    raise error


def test_what_can_be_known_before_the_first_step_is_refused_before_it(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"eval.sample_prompt: .*60 new ones exceed the model's 64 positions"):
        execute(recipe, tmp_path / "run", "eval.sample_tokens=60", "eval.sample_prompt=a few words of a language")
    assert not (tmp_path / "run").exists()
    execute(recipe, tmp_path / "run", "eval.sample_tokens=60", "eval.sample_prompt=null", "train.max_steps=1")
    for name, make in (("report.md", Path.mkdir), ("checkpoints", Path.touch)):
        place = tmp_path / "run" / name
        place.rename(tmp_path / "aside")
        make(place)
        with pytest.raises(UserError, match=name):
            execute(recipe, tmp_path / "run", "train.max_steps=1", resume=True)
        place.rmdir() if place.is_dir() else place.unlink()
        (tmp_path / "aside").rename(place)


def poke(monkeypatch: pytest.MonkeyPatch, after: int, name: Callable[[GaLoreAdamW], torch.Tensor]) -> None:
    """One value of what `name` picks becomes nan when `after` steps are done."""
    real = GaLoreAdamW.step

    def step(optimizer: GaLoreAdamW, closure: Any = None) -> Any:
        loss = real(optimizer, closure)
        if optimizer.clock == after:
            with torch.no_grad():
                name(optimizer).view(-1)[0] = math.nan
        return loss

    monkeypatch.setattr(GaLoreAdamW, "step", step)


def a_weight(optimizer: GaLoreAdamW) -> torch.Tensor:
    slot = next(slot for slot in optimizer.slots.values() if "o_proj" in slot.name)
    return slot.parameter.data if slot.weight.scales is None else slot.weight.scales


def a_state(optimizer: GaLoreAdamW) -> torch.Tensor:
    slot = next(slot for slot in optimizer.slots.values() if "o_proj" in slot.name)
    return next(value for key, value in reversed(slot.state.items()) if value.is_floating_point() and value.numel() > 1)


@pytest.mark.parametrize("after", [5, 6])
@pytest.mark.parametrize("method", METHODS)
def test_a_weight_that_becomes_nan_leaves_the_finite_checkpoints(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, after: int
) -> None:
    """After step 6 a save is due; after step 5 only steps follow that are skipped, and the last save."""
    pytest.importorskip(NEEDS.get(method, "torch"))
    with monkeypatch.context() as patch:
        poke(patch, after, a_weight)
        with pytest.raises(RunFailed, match=r"(?s)o_proj.* not finite: not saved; step-00000004 is the last finite"):
            execute(recipe, tmp_path / "run", *METHODS[method])
    assert saved(tmp_path / "run") == [2, 4]
    assert "not finite: not saved" in rows(tmp_path / "run", "event")[-1]["message"]
    execute(recipe, tmp_path / "run", *METHODS[method], resume=True)
    assert saved(tmp_path / "run") == [6, 8]


@pytest.mark.parametrize("method", METHODS)
def test_so_does_a_state(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    pytest.importorskip(NEEDS.get(method, "torch"))
    poke(monkeypatch, 6, a_state)
    with pytest.raises(RunFailed, match=r"(?s)o_proj.* not finite: not saved; step-00000004 is the last finite"):
        execute(recipe, tmp_path / "run", *METHODS[method])
    assert saved(tmp_path / "run") == [2, 4]


def test_updates_too_large_for_the_weights_do_too(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, wild = loop.learning_rates, {"learning_rate": 1e39}
    monkeypatch.setattr(
        loop, "learning_rates", lambda optim, step, total: wild if step == 4 else real(optim, step, total)
    )
    with pytest.raises(RunFailed, match="3 steps in a row had gradients that are not finite") as caught:
        execute(recipe, tmp_path / "run", "optim.method=full", "train.max_skipped_steps=2")
    assert "step-00000004 is the last finite" in str(caught.value)


def test_a_save_that_falls_on_a_skipped_step_comes_with_the_next_good_one(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = step.summed_losses, itertools.count()

    def poisoned(*arguments: Any) -> Any:
        sums = real(*arguments)
        return sums._replace(total=sums.total * math.nan) if next(calls) == 3 else sums

    monkeypatch.setattr(step, "summed_losses", poisoned)
    monkeypatch.setattr("galore.trainer.loop.score_held_out", lambda *arguments: raises(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        execute(recipe, tmp_path / "run", "eval.eval_steps=5", "optim.method=full")
    assert saved(tmp_path / "run") == [2, 5]


def test_a_checkpoint_that_is_not_finite_is_passed_over(recipe: Path, tmp_path: Path) -> None:
    """As earlier versions wrote them."""
    out = tmp_path / "run"
    execute(recipe, out, "train.save_total_limit=3")
    for step_of in (8, 6):
        poison(out / "checkpoints", step_of)
    console = execute(recipe, out, "train.save_total_limit=3", resume=True)
    assert [text for text in console.messages if text.startswith(("skipped", "resuming"))] == [
        "skipped step-00000008: lm_head.weight holds values that are not finite",
        "skipped step-00000006: lm_head.weight holds values that are not finite",
        "resuming from step-00000004, verified",
    ]
    for step_of in (4, 6, 8):
        poison(out / "checkpoints", step_of)
    told = (out / "metrics.jsonl").read_text()
    with pytest.raises(RunFailed, match="no checkpoint in it is good"):
        execute(recipe, out, "train.save_total_limit=3", resume=True)
    assert (out / "metrics.jsonl").read_text() == told


def poison(root: Path, number: int) -> None:
    """Save the checkpoint of step `number` again, with a nan in it."""
    found = next(path for step_of, path in step_directories(root) if step_of == number)
    tensors = {path.stem: load_file(path) for path in found.glob("*.safetensors")}
    tensors["model"]["lm_head.weight"][3, 3] = math.nan
    checkpoint.save(root, number, tensors, json.loads((found / "state.json").read_text()), keep=9)


RATES = ("optim.head_learning_rate=0.03", "optim.embedding_learning_rate=0.003")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [([], True), (["optim.refresh=first-micro-batch"], False), (["model.router_aux_loss=0.01"], False)],
)
@pytest.mark.parametrize("counts", [None, True, False])
def test_rows_of_like_length_are_put_together_where_the_split_is_execution(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], expected: bool, counts: bool | None
) -> None:
    """And where a second loss, if there is one, counts targets."""
    asked = list[bool]()
    monkeypatch.setattr(loop, "train_step", lambda *how: asked.append(how[-1]))
    monkeypatch.setattr(loop, "in_stage", lambda *how: nullcontext((how[2], 1)))
    loaded = load_recipe(str(recipe), settings).recipe
    router = object() if loaded.model.router_aux_loss else None
    standing = SimpleNamespace(recipe=loaded, router=router, group=None, lengths=(), model=None, optimizer=None)
    standing.extra, standing.total_steps = None if counts is None else SimpleNamespace(counts_targets=counts), STEPS
    loop.take_step(standing, SimpleNamespace(), 1)  # type: ignore[arg-type]
    assert asked == [expected and counts is not False]


def test_head_and_embeddings_are_trained_at_their_rates_and_so_they_go_on(recipe: Path, tmp_path: Path) -> None:
    flat = ("optim.lr_scheduler_type=constant", "optim.warmup_steps=0")
    execute(recipe, tmp_path / "whole", *flat, *RATES)
    execute(recipe, tmp_path / "parts", *flat, *RATES, "train.max_steps=3")
    with pytest.raises(UserError, match=r"optim\.head_learning_rate: 0\.03 → 0\.02"):
        execute(recipe, tmp_path / "parts", *flat, RATES[1], "optim.head_learning_rate=0.02", resume=True)
    execute(recipe, tmp_path / "parts", *flat, *RATES, resume=True)
    assert essence(tmp_path / "whole")[1] == essence(tmp_path / "parts")[1]
    row = rows(tmp_path / "whole")[-1]
    assert [row[f"{name}learning_rate"] for name in ("", "head_", "embedding_")] == [0.01, 0.03, 0.003]


def test_a_rate_of_its_own_moves_the_head_by_as_much_more(recipe: Path, tmp_path: Path) -> None:
    once = ("optim.method=full", "train.max_steps=1", "model.dtype=float32", "optim.learning_rate=0.001")
    moved = {}
    for name, more in {
        "none": ["optim.learning_rate=1e-12"],
        "same": [],
        "own": ["optim.head_learning_rate=0.004"],
    }.items():
        execute(recipe, tmp_path / name, *once, *more)
        moved[name] = load_file(step_directories(tmp_path / name / "checkpoints")[0][1] / "model.safetensors")
    by = {each: {key: moved[each][key] - moved["none"][key] for key in moved["none"]} for each in ("same", "own")}
    for key, small in by["same"].items():
        factor = 4.0 if key.startswith("lm_head") else 1.0
        torch.testing.assert_close(by["own"][key], factor * small, rtol=1e-3, atol=1e-7)


def test_what_a_killed_rotation_left_is_removed_by_a_resume(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    execute(recipe, out, "train.save_total_limit=3")
    left = [
        out / "checkpoints" / name for name in (".tmp-gone-step-00000002", ".tmp-step-00000008", ".old-step-00000008")
    ]
    for path in left:
        shutil.copytree(out / "checkpoints/step-00000008", path)
    assert saved(out) == [4, 6, 8, 8]
    execute(recipe, out, "train.save_total_limit=3", resume=True)
    assert (saved(out), any(path.exists() for path in left)) == ([4, 6, 8], False)
    execute(recipe, out, "train.save_total_limit=2", resume=True)
    assert saved(out) == [6, 8]


@pytest.mark.parametrize("breaks", ["read", "memory"])
def test_a_stream_goes_on_with_the_rows_of_the_step_that_broke_off(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks: str
) -> None:
    """They were read from it already."""
    pytest.importorskip("datasets")
    (tmp_path / "hub").mkdir()
    texts = (recipe.parent / "text.txt").read_text().split("\n\n")
    for name, part in (("train-00000-of-00001", texts[20:]), ("validation-00000-of-00001", texts[:20])):
        lines = [json.dumps({"text": text}) for text in part]
        (tmp_path / "hub" / f"{name}.jsonl").write_text("\n".join(lines))
    settings = ["data.source=hub", f"data.path={tmp_path / 'hub'}", "data.shuffle_buffer_size=16"]
    if breaks == "memory":  # in a mixture with files
        files = recipe.parent / "text.txt"
        settings = [f"data.sources=[{{name: {tmp_path / 'hub'}, weight: 2}}, {{path: {files}}}]", settings[2]]
    execute(recipe, tmp_path / "straight", *settings)
    with monkeypatch.context() as patch:
        if breaks == "read":
            fails_at(patch, StreamedData, "global_batch", 4, OSError(5, "Input/output error", "train-00000"))
        else:
            fails_at(patch, GaLoreAdamW, "clip_grad_norm_", 4, torch.OutOfMemoryError("CUDA out of memory"))
        with pytest.raises(RunFailed, match="the 4 steps before it are saved"):
            execute(recipe, tmp_path / "run", *settings)
    execute(recipe, tmp_path / "run", *settings, resume=True)
    assert essence(tmp_path / "run") == essence(tmp_path / "straight")


BEST = ("train.save_best=true", "eval.eval_steps=1", "train.save_steps=4", "eval.sample_prompt=null")


def scores(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """The evaluation after step n finds `losses[n - 1]`."""
    real, step = loop.evaluate_run, [0]
    score = loop.score_held_out

    def evaluate_run(run: Any, recorder: Any, at: int) -> Any:
        step[0] = at
        return real(run, recorder, at)

    monkeypatch.setattr(loop, "evaluate_run", evaluate_run)
    monkeypatch.setattr(loop, "score_held_out", lambda *a: replace(score(*a), loss_nats=losses[step[0] - 1]))


def test_the_best_checkpoint_stays_beside_the_newest_and_is_known_after_a_restart(
    recipe: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores(monkeypatch, [5.0, 3.0, 4.0, 4.0, 4.0, 4.0, math.nan, 4.0])
    with monkeypatch.context() as patch:
        fails_at(patch, MappedData, "global_batch", 4, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            execute(recipe, tmp_path / "run", *BEST)
    assert saved(tmp_path / "run") == [2, 4], "1 was the best once"
    execute(recipe, tmp_path / "run", *BEST, resume=True)
    assert saved(tmp_path / "run") == [2, 4, 8]
    assert load_run_model(str(tmp_path / "run"), checkpoint="best").step == 2
    assert load_run_model(str(tmp_path / "run/checkpoints/step-00000004")).step == 4
    with pytest.raises(UserError, match="chooses a checkpoint of a run, and this is one"):
        load_run_model(str(tmp_path / "run/checkpoints/step-00000004"), checkpoint="best")
    assert essence(tmp_path / "run")[1] == essence(straight)[1]
    assert "nothing was changed" in execute(recipe, tmp_path / "run", *BEST, resume=True).messages[-1]
    execute(recipe, tmp_path / "run", *BEST, "train.save_best=false", resume=True)
    assert saved(tmp_path / "run") == [4, 8]


def test_where_the_best_checkpoint_is_damaged_the_best_of_the_good_ones_is_kept(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, often = tmp_path / "run", (*BEST[:2], "train.save_steps=1", BEST[3])
    scores(monkeypatch, [1.0, 3.0, 3.5, 2.0, 3.0, 3.0, 3.0, 3.0])

    class Damaging(Callback):
        def on_save(self, step: int, folder: Path) -> None:
            if step == 3:
                damaged = folder.with_name("step-00000001") / "model.safetensors"
                damaged.write_bytes(damaged.read_bytes()[:-1])

    execute(recipe, out, *often, callbacks=[Damaging()])
    assert saved(out) == [4, 7, 8]
    assert load_run_model(str(out), checkpoint="best").step == 4


def test_early_stopping_ends_the_run_saved_and_a_resumption_respects_it(
    recipe: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, patient = tmp_path / "run", (*BEST, "train.early_stopping_patience=3")
    scores(monkeypatch, [5.0, 3.0, 4.0, 4.0, 4.0, 2.0, 2.0, math.nan])
    told = execute(recipe, out, *patient)
    assert saved(out) == [2, 4, 5]
    facts = json.loads((out / "run.json").read_text())
    assert (facts["stopped_early"], facts["final"]["step"], "finished" in facts) == (5, 5, True)
    message = "stopped early after step 5: the lowest held-out loss was that after step 2, 3 evaluations ago"
    assert rows(out, "event")[-1]["message"] == message
    assert message in told.messages
    assert "stopped early of 8: the held-out loss fell no more" in (out / "report.md").read_text()
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    assert "nothing was changed" in execute(recipe, out, *patient, resume=True).messages[-1]
    assert {path: path.read_bytes() for path in before} == before
    (out / "report.md").unlink()
    execute(recipe, out, *patient, resume=True)
    assert rows(out)[-1]["step"] == 5, "mended, and not trained on"
    execute(recipe, out, *BEST, "train.early_stopping_patience=4", resume=True)
    assert saved(out) == [6, 8]
    assert "stopped_early" not in json.loads((out / "run.json").read_text())
    assert essence(out)[1] == essence(straight)[1]


@pytest.mark.parametrize("after", [4.0, 2.0])
def test_a_damaged_checkpoint_of_a_step_is_none_when_that_step_comes_again(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: float
) -> None:
    """Step 5 ends the run, or brings the lowest loss; its checkpoint is damaged, and the run repeats it."""
    out, patient = tmp_path / "run", (*BEST, "train.early_stopping_patience=3", "train.save_total_limit=9")
    scores(monkeypatch, [5.0, 3.0, 4.0, 4.0, after, after + 1, after + 1, after + 1])
    execute(recipe, out, *patient)
    damaged = out / "checkpoints/step-00000005/model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    for later in out.glob("checkpoints/step-0000000[6-8]"):
        shutil.rmtree(later)
    execute(recipe, out, *patient, resume=True)
    verify(damaged.parent)
    assert load_run_model(str(out), checkpoint="best").step == (2 if after == 4.0 else 5)


@pytest.mark.parametrize("key", ["save_best=true", "early_stopping_patience=1"])
def test_what_chooses_by_held_out_losses_needs_some(recipe: Path, tmp_path: Path, key: str) -> None:
    with pytest.raises(UserError, match="asks for held-out losses, and nothing is held out"):
        execute(recipe, tmp_path / "run", f"train.{key}", "data.validation_fraction=0")
    with pytest.raises(UserError, match=r"train\.early_stopping_patience counts evaluations: set eval\.eval_steps"):
        load_recipe(str(recipe), ["train.early_stopping_patience=1", "eval.eval_steps=null"])


def test_held_out_rows_without_a_target_are_refused_before_the_first_step(recipe: Path, tmp_path: Path) -> None:
    """Of three rows the first alone is scored, a document of one token."""
    (tmp_path / "held-out.jsonl").write_text('{"text": "a"}\n{"text": "a stone"}\n{"text": "an alarm"}\n')
    settings = ["data.packing=paper", f"data.validation_path={tmp_path / 'held-out.jsonl'}", "eval.max_tokens=16"]
    with pytest.raises(UserError, match=r"no held-out token to score\n.*raise eval\.max_tokens"):
        execute(recipe, tmp_path / "run", *settings)
    assert not (tmp_path / "run/metrics.jsonl").exists()
