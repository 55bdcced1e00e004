"""Snapshots of weights: those that were asked for, no more than are kept, and after a resumption those of the whole run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from consoles import Quiet
from torch import nn

from galore.trainer import recorder
from galore.trainer.common.errors import UserError
from galore.trainer.machine.hardware import Peak
from galore.trainer.recipe.load import LoadedRecipe, load_recipe
from galore.trainer.record import snapshots as module
from galore.trainer.record.shown import report
from galore.trainer.record.snapshots import Snapshots, read_snapshots, snapshot_files
from galore.trainer.run import run_training


def network() -> nn.Module:
    return nn.ModuleDict({"head": nn.Linear(4, 2), "norm": nn.LayerNorm(4)})


def made(folder: Path, *overrides: str, first_step: int = 0, model: nn.Module | None = None) -> Snapshots | None:
    train = load_recipe("demo", ["train.snapshot_parameters=[norm]", *overrides]).recipe.train
    found = Snapshots.of(train, model or network(), folder / "snapshots")
    if found is not None:
        found.forget_after(first_step)
    return found


def trained(snapshots: Snapshots | None, steps: range) -> None:
    assert snapshots is not None
    for step in steps:
        for tensor in snapshots.chosen.values():
            tensor.data.fill_(step)
        snapshots.on_step({"step": step})  # type: ignore[typeddict-item]


def test_keeps_the_newest_of_every_so_many_steps(tmp_path: Path) -> None:
    trained(made(tmp_path, "train.snapshot_steps=2", "train.snapshot_total_limit=3"), range(1, 12))
    steps, values = read_snapshots(tmp_path)
    assert steps == [6, 8, 10]
    assert values.keys() == {"norm.weight", "norm.bias"}
    assert torch.equal(values["norm.weight"], torch.tensor([6.0, 8.0, 10.0])[:, None].expand(3, 4))


def test_of_steps_that_are_taken_again_only_the_later_values_stay(tmp_path: Path) -> None:
    trained(made(tmp_path), range(1, 6))
    resumed = made(tmp_path, first_step=3)
    assert list(snapshot_files(tmp_path / "snapshots")) == [1, 2, 3]
    trained(resumed, range(4, 6))
    assert read_snapshots(tmp_path)[0] == [1, 2, 3, 4, 5]


def test_nothing_asked_for_is_nothing_kept(tmp_path: Path) -> None:
    assert Snapshots.of(load_recipe("demo").recipe.train, network(), tmp_path) is None


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.snapshot_parameters=[nrom]", "'nrom' matches no parameter.*did you mean norm"),
        ("train.snapshot_parameters=[zzzzzz]", "matches no parameter.*the model has bias, head, norm, weight"),
        ("train.snapshot_parameters=[codes]", "codes.weight is kept in 8 bits"),
    ],
)
def test_refuses_what_it_cannot_keep(tmp_path: Path, override: str, told: str) -> None:
    model = network()
    if "codes" in override:
        model = nn.ModuleDict({"codes": nn.Linear(2, 2)})
        model["codes"].weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(UserError) as error:
        made(tmp_path, override, model=model)
    assert re.search(told, f"{error.value.what} {error.value.fix}")


def test_refuses_more_than_the_disk_has_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_bytes", lambda folder: 1000)
    with pytest.raises(UserError, match=r"300 snapshots of 32 B take 9\.38 KiB, and 1000 B are free"):
        made(tmp_path)
    assert made(tmp_path, "train.snapshot_total_limit=10") is not None


def test_what_is_refused_deletes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(made(tmp_path), range(1, 6))
    monkeypatch.setattr(module, "free_bytes", lambda folder: 10)
    with pytest.raises(UserError):
        made(tmp_path, first_step=2)
    assert list(snapshot_files(tmp_path / "snapshots")) == [1, 2, 3, 4, 5]


def test_absent_or_mixed_snapshots_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are no snapshots"):
        read_snapshots(tmp_path)
    trained(made(tmp_path), range(1, 2))
    trained(made(tmp_path, "train.snapshot_parameters=[head]", first_step=1), range(2, 3))
    with pytest.raises(UserError, match="of different parameters"):
        read_snapshots(tmp_path)


RECIPE = """
model: {hidden_size: 16, intermediate_size: 24, num_hidden_layers: 1, num_attention_heads: 2}
data: {source: local, path: text.txt, tokenizer_vocab_size: 300, max_length: 16, validation_fraction: 0, cache_dir: cache}
optim: {rank: 4, update_proj_gap: 3}
train: {max_steps: 6, global_batch_size: 2, micro_batch_size: 2, save_steps: 2, device: cpu, num_threads: 1,
        snapshot_parameters: [norm]}
eval: {eval_steps: null}
"""


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LoadedRecipe]:
    monkeypatch.setattr(report, "draw", lambda history: {})
    monkeypatch.setattr(recorder, "device_peak", lambda device, dtype: Peak(None, "unknown", "not measured"))
    (tmp_path / "text.txt").write_text("\n\n".join(f"the {n} of a {n * n} and {n % 7}" for n in range(200)))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return lambda *overrides: load_recipe(str(tmp_path / "recipe.yaml"), overrides)


def test_a_streamed_weight_is_its_own_and_not_what_lies_in_its_place(
    loaded: Callable[..., LoadedRecipe], tmp_path: Path
) -> None:
    deep = ("model.num_hidden_layers=4", "train.snapshot_parameters=[q_proj]", "train.max_steps=2")
    for streams in ("true", "false"):
        run_training(loaded(*deep, f"train.stream_weights={streams}"), tmp_path / streams, False, Quiet())
    streamed, resident = (read_snapshots(tmp_path / each)[1] for each in ("true", "false"))
    assert len(streamed) == 4
    assert all(torch.equal(streamed[name], resident[name]) for name in resident)


def test_no_process_of_fsdp_has_a_whole_weight_to_keep() -> None:
    with pytest.raises(UserError, match=r"train\.snapshot_parameters keeps whole weights"):
        load_recipe("demo", ["train.snapshot_parameters=[norm]", "parallel.mode=fsdp"])


def test_a_run_that_is_refused_for_them_leaves_its_place_free(
    loaded: Callable[..., LoadedRecipe], tmp_path: Path, breaking_off: Any
) -> None:
    wrong = "train.snapshot_parameters=[nrom]"
    with pytest.raises(UserError, match="matches no parameter"):
        run_training(loaded(wrong), tmp_path / "run", False, Quiet())
    assert not (tmp_path / "run").exists()
    with breaking_off(3):
        run_training(loaded(), tmp_path / "run", False, Quiet())
    before = (tmp_path / "run/recipe.yaml").read_text()
    with pytest.raises(UserError, match="matches no parameter"):
        run_training(loaded(wrong), tmp_path / "run", True, Quiet())
    assert (tmp_path / "run/recipe.yaml").read_text() == before


def test_a_run_keeps_them_and_a_resumed_one_has_the_same(
    breaking_off: Any, loaded: Callable[..., LoadedRecipe], tmp_path: Path
) -> None:
    run_training(loaded(), tmp_path / "whole", False, Quiet())
    with breaking_off(5):
        run_training(loaded(), tmp_path / "broken", False, Quiet())
    run_training(loaded(), tmp_path / "broken", True, Quiet())
    whole, broken = read_snapshots(tmp_path / "whole"), read_snapshots(tmp_path / "broken")
    assert whole[0] == broken[0] == [1, 2, 3, 4, 5, 6]
    assert all(torch.equal(whole[1][name], broken[1][name]) for name in whole[1])
    assert not torch.equal(*whole[1]["model.norm.weight"][[0, -1]])
