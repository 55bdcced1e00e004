"""From a loaded recipe to the parts of a run, ready for the loop; or to the tables of a dry run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from galore.kernels.cuda import prepare_cuda
from galore.kernels.ops.dispatch import ENVIRONMENT, BackendError
from galore.kernels.ops.paths import momenta, summary
from galore.kernels.storage import blockwise
from galore.trainer.checkpoint import identity
from galore.trainer.checkpoint.checkpoint import Checkpoint, newest_state, newest_verified, tidy, told
from galore.trainer.checkpoint.finite import agreed, not_finite, trained_tensors
from galore.trainer.checkpoint.rotation import first_undamaged, step_directories
from galore.trainer.checkpoint.state import restore
from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.common.format import counted
from galore.trainer.data.batch import Data, Progress, silent
from galore.trainer.data.prepare import read_data
from galore.trainer.data.tokens.tokenizer import id_bound
from galore.trainer.losses.build import build_extra
from galore.trainer.losses.extra import About, ExtraLoss
from galore.trainer.losses.router import RouterLoss, build_router, router_note
from galore.trainer.machine.device import choose_device, choose_threads
from galore.trainer.machine.process import ask_for_expandable_segments, prepare_process
from galore.trainer.models.adapters.adapt import adapted
from galore.trainer.models.adapters.lora import stored_config, train_embeddings
from galore.trainer.models.capacity import TokenFacts
from galore.trainer.models.changes.compiled import compile_blocks
from galore.trainer.models.changes.table import BARE, WHOLE, change
from galore.trainer.models.classifier import build_classifier
from galore.trainer.models.decoder import build_decoder, refuse_encoder
from galore.trainer.models.linears import left_alone
from galore.trainer.models.rope.stages import Stage, stages_of
from galore.trainer.optim import GaLoreAdamW, kinds_with_own_forward
from galore.trainer.optimizer import attach_optimizer, attach_sharded, cut_along
from galore.trainer.parallel.group import Group, meeting, refuse_in_group
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.record.continued import refuse_other_mathematics, trained_schedule
from galore.trainer.record.heldout import HeldOut
from galore.trainer.record.metrics import Console, read_rows
from galore.trainer.record.rundir import RunDir
from galore.trainer.schedule import refuse_other_rates, refuse_outlasting, total_steps
from galore.trainer.tasks.glue import TASKS


@dataclass
class Run:
    """The parts of one training run. `first_step` is 0, or the number of steps done before a resumption."""

    recipe: Recipe
    directory: RunDir
    console: Console
    data: Data
    model: nn.Module
    optimizer: GaLoreAdamW
    device: torch.device
    total_steps: int
    first_step: int
    kernels: list[str]
    checkpoint: Checkpoint | None
    made_with: dict[str, Any] = field(default_factory=dict)  # see `identity`
    stopped_early: int | None = None  # the step after which held-out losses ended it
    group: Group | None = None  # the processes that carry it out together
    lengths: Sequence[Stage] = ()  # of shorter sequences, before those of the whole length
    extra: ExtraLoss | None = None
    router: RouterLoss | None = None

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes what the run leaves."""
        return self.group is None or self.group.is_first

    def is_to_evaluate(self, done: int) -> bool:
        """Whether an evaluation follows `done` optimizer steps: every so many of them, or passes over the data."""
        steps, epochs = self.recipe.eval.eval_steps, self.recipe.eval.eval_epochs
        if epochs is None or self.data.num_sequences is None:
            return steps is not None and done % steps == 0
        rows, batch = epochs * self.data.num_sequences, self.recipe.train.global_batch_size
        return done * batch // rows > (done - 1) * batch // rows


def build(
    loaded: LoadedRecipe,
    directory: RunDir,
    console: Console,
    progress: Progress = silent,
    group: Group | None = None,
) -> Run:
    """Read the data, build model and optimizer, and restore the newest verified checkpoint of a resumed run.

    Raises:
        UserError: the recipe cannot be carried out here, or differs from the run's in more than its execution.
    """
    recipe = loaded.recipe
    if not directory.fresh:
        refuse_other_mathematics(directory, recipe)
    refuse_in_group(recipe, group)
    device = choose_device(recipe.train.device)
    choose_threads(recipe.train.num_threads)
    if recipe.data.task is None:
        refuse_encoder(recipe.model, loaded.base_dir)  # before hours of tokenizing
    data = read_data(recipe, loaded.base_dir, progress)
    for note in data.notes:
        console.message(note)
    total = total_steps(recipe, data.num_sequences)
    if directory.fresh:
        refuse_outlasting(recipe, total)
    torch.manual_seed(recipe.train.seed)  # dropout draws from the global generator, whose state checkpoints hold
    tokens = TokenFacts.of(data.tokenizer, data.summary.get("new_tokens", {}))
    sharded = group if recipe.parallel.mode == "fsdp" else None
    home = None if sharded is None else "cpu"  # the whole may be too large for a card
    model, kernels = build_model(recipe, id_bound(data.tokenizer), str(device), loaded.base_dir, tokens, home)
    lengths = stages_of(recipe, stored_config(model), loaded.base_dir)
    if not directory.fresh:
        trained = newest_state(directory.checkpoints)
        identity.require_same_config(trained, stored_config(model), directory.root)
        identity.require_same_stages(trained, [each.positions for each in lengths], directory.root)
    extra = build_extra(About(recipe, model, str(device), loaded.base_dir, id_bound(data.tokenizer), data.tokenizer))
    kernels += extra.told() if extra is not None else []
    losses: dict[str, Any] = {"extra": extra, "router": build_router(recipe, model)}
    if sharded is not None:
        along = cut_along(model, recipe, sharded)
        if sharded.is_first:  # the data are in the cache by now, and to cut the weights takes all
            sharded.from_first({"root": str(directory.root.resolve()), "fresh": directory.fresh, "begins": True})
        optimizer = attach_sharded(model, recipe, recipe.train.accumulation, sharded, device, along)
    else:
        optimizer = attach_optimizer(model, recipe, recipe.train.accumulation, group)
    kernels += _told(recipe, model, optimizer, device)
    kernels += compile_blocks(model) if recipe.train.compile else []
    checkpoint = None if directory.fresh else _resume(directory, console, model, optimizer, data, recipe, group)
    first_step = checkpoint.step if checkpoint else 0
    parts = (recipe, directory, console, data, model, optimizer, device)
    return Run(*parts, total, first_step, kernels, checkpoint, group=group, lengths=lengths, **losses)


def build_model(
    recipe: Recipe,
    vocab_size: int,
    device: str,
    base_dir: Path,
    tokens: TokenFacts | None = None,
    home: str | None = None,
) -> tuple[nn.Module, list[str]]:
    """The network in training form (adapters or factors, checkpointing, CPU paths), and lines that name its paths.

    Args:
        tokens: of the tokenizer.
        home: where the weights lie at first, if not on `device`.
    """
    kind = torch.device(device)
    settled = prepare_cuda(recipe.train.deterministic) if kind.type == "cuda" else []
    network = _network(recipe, vocab_size, device, base_dir, tokens or TokenFacts(), home)
    kernels = settled + change(network, BARE, recipe, kind)
    kernels += prepare_process() if device == "cpu" else []
    if recipe.optim.method == "lora" or recipe.optim.weight_dtype is not None:
        kernels += left_alone(network, recipe.optim.target_modules)
    kernels += router_note(recipe, network)
    model = adapted(network, recipe.optim, recipe.train.seed)
    if recipe.model.new_tokens and recipe.optim.method == "lora":
        train_embeddings(model)
    kernels += change(model, WHOLE, recipe, kind)
    return model, kernels


def _network(
    recipe: Recipe, vocab_size: int, device: str, base_dir: Path, tokens: TokenFacts, home: str | None
) -> PreTrainedModel:
    """A classifier where the recipe has a task, else a decoder. Blocks that are streamed are left on the CPU."""
    made_on = "cpu" if recipe.train.stream_weights and device != "meta" else home or device
    if recipe.data.task is not None:
        return build_classifier(
            recipe.model,
            TASKS[recipe.data.task],
            vocab_size,
            device=made_on,
            seed=recipe.train.seed,
            max_length=recipe.data.max_length,
            base_dir=base_dir,
            tokens=tokens,
        )
    return build_decoder(
        recipe.model,
        vocab_size,
        device=device,
        made_on=made_on,
        seed=recipe.train.seed,
        max_length=recipe.data.max_length,
        base_dir=base_dir,
        in_int8=recipe.optim.target_modules if recipe.optim.weight_dtype == "int8" else (),
        tokens=tokens,
    )


def _told(recipe: Recipe, model: nn.Module, optimizer: GaLoreAdamW, device: torch.device) -> list[str]:
    inside = sum(slot.factored for slot in optimizer.projected)
    lines = [f"projection: of {counted(inside, 'matrix', 'matrices')} inside their layers' backward"] if inside else []
    own = kinds_with_own_forward(optimizer, model)
    lines += [f"projection: in the hook for {', '.join(own)}, which have a forward of their own"] if own else []
    lines += _paths(optimizer, device)
    if recipe.optim.state_dtype in ("8bit", "4bit"):
        lines.append("8-bit states: {} ({})".format(*blockwise.path()))
    lines += _momenta(optimizer, device)
    if device.type == "cuda":
        lines.append(ask_for_expandable_segments(recipe.train.expandable_segments))
    return lines


def _momenta(optimizer: GaLoreAdamW, device: torch.device) -> list[str]:
    """Numbers of matrices whose momenta are in 4 bits, and are not though that was asked for; what stores them."""
    asked = {slot for slot in optimizer.slots.values() if slot.inner.state_dtype == "4bit"}
    asked |= {slot for slot in optimizer.projected if slot.weight.group["residual"] == "joint-4bit"}
    if not asked:
        return []
    coded = sum(any(name.endswith("_rows") for name in slot.planned_state()) for slot in asked)
    rest = f", of {len(asked) - coded} that are small or odd in more bits" if coded < len(asked) else ""
    _, path, why = momenta(device.type)
    return [f"4-bit momenta: of {counted(coded, 'matrix', 'matrices')}{rest}; {path} ({why})"]


def _paths(optimizer: GaLoreAdamW, device: torch.device) -> list[str]:
    """Which kernels the projected matrices take; one that was asked for and cannot run is refused at once."""
    try:
        return summary(device.type, (slot.problem for slot in optimizer.projected))
    except BackendError as error:
        raise UserError(
            str(error), where=f"environment variable {ENVIRONMENT}", fix="unset it, or set torch"
        ) from error


def _resume(
    directory: RunDir,
    console: Console,
    model: nn.Module,
    optimizer: GaLoreAdamW,
    data: Data,
    recipe: Recipe,
    group: Group | None,
) -> Checkpoint | None:
    """Restore the newest checkpoint that is whole and finite; None for a run that was killed before its first.

    Raises:
        UserError: the steps before it would have had other learning rates. RunFailed: there are checkpoints, and none
            is good.
    """
    checkpoint = _restored(directory, console, model, optimizer, group)
    if checkpoint is None:
        console.message("no checkpoint to resume from: starting at step 0")
        return None
    if group is None or group.is_first:  # who tells it; the others hear of it next
        trained = trained_schedule(directory, checkpoint.state, recipe)
        before, after = ((each.optim, total_steps(each, data.num_sequences)) for each in (trained, recipe))
        refuse_other_rates(before, after, checkpoint.step, str(directory.root))
    data.seek(checkpoint.state["position"], checkpoint.step)
    console.message(f"resuming from {checkpoint.path.name}, verified")
    if group is not None and not group.is_first:
        return checkpoint
    try:
        best = _best(directory, checkpoint, recipe)
        tidy(directory.checkpoints, recipe.train.save_total_limit, checkpoint.path, best)
    except OSError as error:
        console.message(f"{error.filename or directory.checkpoints} could not be deleted: {error.strerror}")
    return checkpoint


def _best(directory: RunDir, resumed: Checkpoint, recipe: Recipe) -> int | None:
    """The step of the checkpoint that stays for its held-out loss, of those the run goes on from; no damaged one."""
    if not recipe.train.save_best:
        return None
    held_out = HeldOut.of(read_rows(directory.metrics), until=resumed.step)
    return first_undamaged(directory.checkpoints, held_out.ranked())


def _restored(
    directory: RunDir, console: Console, model: nn.Module, optimizer: GaLoreAdamW, group: Group | None
) -> Checkpoint | None:
    below = None
    while True:
        with meeting(group):
            checkpoint = _taken(directory, console, model, optimizer, below)
        if checkpoint is None:
            return None
        bad = agreed(not_finite(trained_tensors(model, optimizer)), optimizer)
        if not bad:
            return checkpoint
        console.message(f"skipped {checkpoint.path.name}: {bad[0]} holds values that are not finite")
        below = checkpoint.step


def _taken(
    directory: RunDir, console: Console, model: nn.Module, optimizer: GaLoreAdamW, below: int | None
) -> Checkpoint | None:
    """Restore the newest checkpoint that is whole, of those `below` a step."""
    checkpoint, skipped = newest_verified(directory.checkpoints, below)
    for line in told(skipped):
        console.message(line)
    if checkpoint is not None:
        try:
            restore(checkpoint, model, optimizer)
        except (ValueError, UserError) as error:
            if isinstance(error, RunFailed):  # of a disk that no longer answers
                raise
            raise RunFailed(str(error), where=str(checkpoint.path), fix="resume with the code that wrote it") from error
        return checkpoint
    if step_directories(directory.checkpoints):
        raise RunFailed(
            "no checkpoint in it is good, and to begin anew would throw away the run's metrics",
            where=str(directory.checkpoints),
            fix="see above what is wrong with each; move the folder away to begin anew, or choose another --output-dir",
        )
    return None
