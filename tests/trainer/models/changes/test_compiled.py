"""Blocks by torch.compile: the numbers of those that are not, in training alone, and what a compiler's failure says."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.utils as dynamo
from consoles import Quiet
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException

from galore.trainer.build import build_model
from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.data.batch import Objective
from galore.trainer.data.prepare import fullest_batch
from galore.trainer.models.changes import compiled
from galore.trainer.models.changes.compiled import compile_blocks, refusal, seconds_told
from galore.trainer.models.checkpointing import blocks_of
from galore.trainer.optimizer import attach_optimizer
from galore.trainer.parameters import assumptions
from galore.trainer.recipe.load import load_recipe
from galore.trainer.record.metrics import read_rows
from galore.trainer.run import run_training
from galore.trainer.shortage import is_out_of_memory
from galore.trainer.step import train_step

TINY = [
    "model.hidden_size=32", "model.intermediate_size=48", "model.num_hidden_layers=3", "model.num_attention_heads=4",
    "model.dtype=float32", "data.max_length=16", "optim.rank=4", "train.global_batch_size=4",
    "train.micro_batch_size=2", "train.device=cpu",
]  # fmt: skip


def trained(compiling: bool, *settings: str) -> tuple[list[float], nn.Module]:
    """Losses of three steps, with a refresh in the third, and the model."""
    loaded = load_recipe("demo", [*TINY, "optim.update_proj_gap=2", *settings])
    recipe = loaded.recipe
    torch.manual_seed(0)
    model, _ = build_model(recipe, 64, "cpu", loaded.base_dir)
    optimizer = attach_optimizer(model, recipe, recipe.train.accumulation, None)
    if compiling:
        (line,) = compile_blocks(model)
        assert line.startswith("blocks: 3 by torch.compile")
    losses = []
    for step in range(3):
        for group in optimizer.param_groups:
            group["clock"] = step
        ids = torch.randint(64, (4, 16), generator=torch.Generator().manual_seed(step))
        losses.append(train_step(model, optimizer, fullest_batch(recipe, ids), 2, 1.0, Objective()).loss_nats)
    return losses, model


def traced(function: Any, options: Any) -> Any:
    """Compiled as it is traced: no operation is fused, and no compiler is needed."""
    return COMPILE(function, backend="aot_eager")


COMPILE = torch.compile
RECOMPUTED = "train.gradient_checkpointing=true"


@pytest.mark.parametrize(
    "settings",
    [(), (RECOMPUTED,), (RECOMPUTED, "optim.weight_dtype=int8", "train.matmul=int8", "model.dtype=bfloat16")],
)
def test_a_compiled_step_is_that_of_the_same_operations(
    monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]
) -> None:
    """In recomputed blocks as well, whose forward is called again."""
    monkeypatch.setattr(torch, "compile", traced)
    plain, expected = trained(False, *settings)
    dynamo.counters.clear()
    losses, found = trained(True, *settings)
    assert losses == pytest.approx(plain, rel=1e-6)
    for (name, weight), other in zip(expected.state_dict().items(), found.state_dict().values(), strict=True):
        torch.testing.assert_close(other, weight, msg=name)
    assert dynamo.counters["stats"]["unique_graphs"] >= 8
    assert dynamo.counters["frames"]["ok"] < 40  # blocks of a kind share their graphs


def test_another_run_in_the_process_is_compiled_and_timed_as_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    reset = []
    monkeypatch.setattr(torch, "compile", lambda function, options: function)
    monkeypatch.setattr(torch.compiler, "reset", lambda: reset.append(True))
    taken = iter([5.0, 12.0])
    monkeypatch.setattr(compiled, "_seconds", lambda: next(taken))
    _, model = trained(True)
    assert (reset, seconds_told(model)) == ([True], "torch.compile took 7 s")


def test_the_kind_of_a_block_keeps_its_name_and_what_it_is() -> None:
    _, plain = trained(False)
    kind = type(blocks_of(plain)[0])
    compile_blocks(plain)
    first, second, _ = blocks_of(plain)
    assert isinstance(first, kind)
    assert type(first) is type(second) is not kind
    assert (type(first).__name__, type(first).__module__) == (kind.__name__, kind.__module__)


def test_only_training_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def noted(function: Any, options: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            asked.append(function)
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(torch, "compile", noted)
    _, model = trained(True, "optim.projection=hook")
    blocks = len(blocks_of(model))
    assert len(asked) >= 3 * 2 * blocks
    assert len(asked) % blocks == 0
    linears = [each for block in blocks_of(model) for each in block.modules() if isinstance(each, nn.Linear)]
    assert all(vars(each)["forward"]._torchdynamo_disable for each in linears)
    asked.clear()
    model.eval()
    model(torch.zeros(1, 4, dtype=torch.long))
    assert not asked


def test_a_run_says_how_long_it_compiled_and_what_a_plan_leaves_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, options: function)
    settings = [*TINY, "train.compile=true", "train.max_steps=2", "eval.sample_prompt=null", "eval.max_tokens=50"]
    loaded = load_recipe("demo", settings)
    assert any("not compiled" in note for note in assumptions(loaded))
    run_training(loaded, tmp_path / "run", False, Quiet())
    rows = read_rows(tmp_path / "run/metrics.jsonl")
    said = [row["step"] for row in rows if "torch.compile took" in row.get("message", "")]
    assert said == [1]
    assert "by torch.compile" in (tmp_path / "run/run.json").read_text()


def test_a_compiler_that_fails_ends_the_run_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_compiler(function: Any, options: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            raise TorchDynamoException("no g++")

        return call

    monkeypatch.setattr(torch, "compile", no_compiler)
    settings = [*TINY, "train.compile=true", "train.max_steps=2"]
    with pytest.raises(RunFailed, match=r"(?s)torch.compile failed: no g.*nothing is lost") as caught:
        run_training(load_recipe("demo", settings), tmp_path / "run", False, Quiet())
    assert "a CPU takes g++" in str(caught.value)


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(UserError, match="Linear has no blocks to compile"):
        compile_blocks(nn.Linear(2, 2))


def test_what_a_compiler_says_is_told_with_what_to_do() -> None:
    found = refusal(TorchDynamoException("no g++\nand a page of C++"))
    assert found is not None
    assert "torch.compile failed: no g++" in str(found)
    assert "a page of" not in str(found)
    assert refusal(RuntimeError("of something else")) is None
    inner = BackendCompilerFailed(compile_blocks, torch.OutOfMemoryError("no room"), None)
    assert "failed: no room" in str(refusal(inner))
    assert is_out_of_memory(inner)
