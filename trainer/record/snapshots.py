"""Chosen weights of a run, kept every few steps: what a network of weights is trained on. One safetensors file each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from galore.trainer.checkpoint.diskspace import free_bytes
from galore.trainer.checkpoint.tensorfile import stream, tensor_bytes
from galore.trainer.common.durable import replace_file
from galore.trainer.common.errors import UserError
from galore.trainer.common.format import size
from galore.trainer.common.suggest import nearest
from galore.trainer.host.blocks import at_rest
from galore.trainer.optim.groups import is_under
from galore.trainer.recipe.schema.train import TrainSection
from galore.trainer.record.callbacks import Callback
from galore.trainer.record.row import TrainRow

NAME = re.compile(r"step-(\d+)\.safetensors")
WHERE = "train.snapshot_parameters"


@dataclass(frozen=True)
class Snapshots(Callback):
    """Keeps `chosen` in `folder` after every `every` steps, the newest `keep` of them."""

    folder: Path
    model: nn.Module
    chosen: Mapping[str, nn.Parameter]
    every: int
    keep: int

    @classmethod
    def of(cls, train: TrainSection, model: nn.Module, folder: Path) -> Snapshots | None:
        """What the recipe asks for, if it does. Nothing is written or deleted.

        Raises:
            UserError: a name matches no parameter, or the disk has no room for all that are to be kept.
        """
        if not train.snapshot_parameters:
            return None
        chosen = _chosen(model, train.snapshot_parameters)
        snapshots = cls(folder, model, chosen, train.snapshot_steps, train.snapshot_total_limit)
        wanted, free = snapshots.bytes * snapshots.keep, free_bytes(folder.parent)
        if free is not None and wanted > free + sum(path.stat().st_size for path in snapshot_files(folder).values()):
            raise UserError(
                f"{snapshots.keep} snapshots of {size(snapshots.bytes)} take {size(wanted)}, and {size(free)} are free",
                where="train.snapshot_total_limit",
                fix="keep fewer, or name fewer parameters in train.snapshot_parameters",
            )
        return snapshots

    def forget_after(self, step: int) -> None:
        """Delete those of later steps, which the run will take again."""
        for taken, path in snapshot_files(self.folder).items():
            if taken > step:
                path.unlink()

    @property
    def bytes(self) -> int:
        """Size of one snapshot."""
        return tensor_bytes(self.chosen)

    def on_step(self, row: TrainRow) -> None:
        """Keep the weights after this step, if it is one of them; the oldest beyond `keep` goes."""
        if row["step"] % self.every:
            return
        held = at_rest(self.model)
        now = {name: held(parameter).detach() for name, parameter in self.chosen.items()}
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"step-{row['step']:08d}.safetensors"
        replace_file(path, b"".join(bytes(part) for part in stream(now)))
        for old in list(snapshot_files(self.folder).values())[: -self.keep]:
            with suppress(FileNotFoundError):
                old.unlink()


def snapshot_files(folder: Path) -> dict[int, Path]:
    """{step: file} of the snapshots in `folder`, the oldest first; {} where there is none."""
    found = ((NAME.fullmatch(path.name), path) for path in folder.iterdir()) if folder.is_dir() else ()
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def read_snapshots(run: str | Path) -> tuple[list[int], dict[str, Tensor]]:
    """(steps, {parameter: its values after each of them, stacked along a first dimension}) of a run directory.

    Raises:
        UserError: it has no snapshots, or they are not of the same parameters.
    """
    folder = Path(run) / "snapshots"
    files = snapshot_files(folder)
    if not files:
        raise UserError("there are no snapshots", where=str(folder), fix=f"train with {WHERE}=[…]")
    kept = [load_file(path) for path in files.values()]
    if any(each.keys() != kept[-1].keys() for each in kept):
        raise UserError(
            "the snapshots are of different parameters",
            where=str(folder),
            fix=f"a resumption changed {WHERE}: move the older ones away",
        )
    return list(files), {name: torch.stack([each[name] for each in kept]) for name in kept[-1]}


def _chosen(model: nn.Module, patterns: tuple[str, ...]) -> dict[str, nn.Parameter]:
    """{name: parameter} of those whose dotted name has one of `patterns` as consecutive components."""
    named = dict(model.named_parameters())
    for pattern in patterns:
        if not any(is_under(name, [pattern]) for name in named):
            parts = sorted({part for name in named for part in name.split(".") if not part.isdigit()})
            near = nearest(pattern, parts, 2)
            told = f"did you mean {' or '.join(near)}?" if near else f"the model has {', '.join(parts)}"
            raise UserError(f"{pattern!r} matches no parameter", where=WHERE, fix=told)
    chosen = {name: each for name, each in named.items() if is_under(name, patterns)}
    if codes := [name for name, each in chosen.items() if each.dtype == torch.int8]:
        raise UserError(f"{codes[0]} is kept in 8 bits, codes without their scales", where=WHERE, fix="leave it out")
    return chosen
