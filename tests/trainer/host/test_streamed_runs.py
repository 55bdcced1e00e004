"""A streamed run leaves what a resident one does, wherever it broke off, and each goes on with the other's checkpoints."""

from __future__ import annotations

import inspect
import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
from consoles import Quiet

from galore.trainer import loop
from galore.trainer.checkpoint.parts import files
from galore.trainer.checkpoint.rotation import step_directories
from galore.trainer.common.errors import Ended, UserError
from galore.trainer.host.blocks import StreamedBlocks
from galore.trainer.optim import GaLoreAdamW
from galore.trainer.recipe.load import load_recipe
from galore.trainer.run import run_training
from galore.trainer.trained.runmodel import load_run_model

STEPS = 5
STREAMED, RESIDENT = "train.stream_weights=true", "train.stream_weights=false"
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    rng = random.Random(0)
    words = ["".join(rng.choices("aeiourstlnmkp", k=rng.randint(2, 7))) for _ in range(60)]
    (folder / "text.txt").write_text("\n\n".join(" ".join(rng.choices(words, k=30)) for _ in range(200)))
    (folder / "recipe.yaml").write_text(f"""
model: {{hidden_size: 32, intermediate_size: 48, num_hidden_layers: 3, num_attention_heads: 2, max_position_embeddings: 64}}
data: {{source: local, path: text.txt, tokenizer_vocab_size: 300, max_length: 16, validation_fraction: 0.05,
       cache_dir: {folder / "cache"}}}
optim: {{rank: 4, update_proj_gap: 3, weight_dtype: int8, state_dtype: 8bit}}
train: {{max_steps: {STEPS}, global_batch_size: 2, micro_batch_size: 1, save_steps: 2, num_threads: 1, stream_weights: true}}
eval: {{eval_steps: 3, max_tokens: 64, sample_prompt: "a", sample_tokens: 3}}
""")
    return folder / "recipe.yaml"


def execute(recipe: Path, out: Path, *overrides: str, resume: bool = False) -> None:
    run_training(load_recipe(str(recipe), overrides), out, resume, Quiet())


def essence(out: Path) -> Any:
    """All that must be the same in two equal runs."""
    names = ("kind", "step", "loss_nats", "grad_norm", "tokens", "sample")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    told = [[row.get(name) for name in names] for row in rows if row["kind"] in ("train", "eval")]
    last = step_directories(out / "checkpoints")[0][1]
    return told, {path.name: path.read_bytes() for path in last.glob("*.safetensors")}


@pytest.fixture(scope="module")
def resident(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("resident") / "run"
    execute(recipe, out, RESIDENT)
    return out


def test_a_streamed_run_is_the_resident_one(recipe: Path, resident: Path, tmp_path: Path) -> None:
    execute(recipe, tmp_path / "run")
    assert essence(tmp_path / "run") == essence(resident)
    assert load_run_model(str(tmp_path / "run"), "cpu").model is not None


@pytest.mark.parametrize(("first", "then"), [(STREAMED, RESIDENT), (RESIDENT, STREAMED)])
def test_each_goes_on_where_the_other_stopped(
    recipe: Path, resident: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, then: str
) -> None:
    broken_off(recipe, tmp_path / "run", monkeypatch, (loop, "take_step"), 3, first)
    execute(recipe, tmp_path / "run", then, resume=True)
    assert essence(tmp_path / "run") == essence(resident)


MOMENTS = [
    ((loop, "take_step"), 1),
    ((GaLoreAdamW, "take"), 50),  # in the middle of a backward
    ((GaLoreAdamW, "before_write"), 25),  # in the middle of an update, of which nothing may be saved
    ((files, "write_file"), 2),
]


@pytest.mark.parametrize(("place", "call"), MOMENTS)
def test_it_goes_on_wherever_it_broke_off(
    recipe: Path, resident: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Any, call: int
) -> None:
    broken_off(recipe, tmp_path / "run", monkeypatch, place, call)
    execute(recipe, tmp_path / "run", resume=True)
    assert essence(tmp_path / "run") == essence(resident)


def test_what_breaks_after_the_update_is_not_saved_as_the_step_before(
    recipe: Path, resident: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a copy to the host may, which begins once all weights have moved."""
    calls, flush = itertools.count(1), StreamedBlocks.flush

    def fragile(blocks: StreamedBlocks) -> None:
        if inspect.stack()[1].function == "<lambda>" and next(calls) == 4:  # the hook's, not a save's
            raise RuntimeError("the device is lost")
        flush(blocks)

    with monkeypatch.context() as patch:
        patch.setattr(StreamedBlocks, "flush", fragile)
        with pytest.raises(Ended, match="some weights had taken the step already: step-00000002 is the last"):
            execute(recipe, tmp_path / "run")
    execute(recipe, tmp_path / "run", resume=True)
    assert essence(tmp_path / "run") == essence(resident)


def broken_off(
    recipe: Path, out: Path, monkeypatch: pytest.MonkeyPatch, place: Any, call: int, *overrides: str
) -> None:
    """A run in which the call number `call` of something raises, as a signal or a full disk would."""
    of, name = place
    calls = itertools.count()
    with monkeypatch.context() as patch:
        if name == "before_write":
            made = GaLoreAdamW._apply

            def torn(self: Any, slot: Any, update: Any) -> None:
                if next(calls) == call:
                    self.before_write(slot.parameter)
                    raise KeyboardInterrupt
                made(self, slot, update)

            patch.setattr(GaLoreAdamW, "_apply", torn)
        else:
            real = getattr(of, name)

            def fragile(*arguments: Any, **options: Any) -> Any:
                if next(calls) == call:
                    raise KeyboardInterrupt
                return real(*arguments, **options)

            patch.setattr(of, name, fragile)
        with pytest.raises((KeyboardInterrupt, Exception)):
            execute(recipe, out, *overrides)
    saved = [step for step, _ in step_directories(out / "checkpoints")]
    assert max(saved, default=0) < STEPS


def test_too_few_blocks_are_refused(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the model has 3 blocks to stream, and 3 are to lie on the device") as error:
        execute(recipe, tmp_path / "run", "train.stream_weights=3")
    assert error.value.fix == "write true for two of them"
    with pytest.raises(UserError, match="2 blocks to stream"):
        execute(recipe, tmp_path / "other", "model.num_hidden_layers=2")
