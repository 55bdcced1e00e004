"""The trained model of a run directory, of a folder, or of the hub, with its tokenizer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from galore.trainer.checkpoint import identity
from galore.trainer.checkpoint.checkpoint import Checkpoint, Skipped
from galore.trainer.checkpoint.exported import require_as_exported
from galore.trainer.common.durable import refuse_undecodable
from galore.trainer.common.errors import UserError
from galore.trainer.common.library import WHERE, explained, require_sentencepiece
from galore.trainer.common.printable import listed
from galore.trainer.common.reading import require_plain_folder, user_path
from galore.trainer.common.suggest import refuse_absent
from galore.trainer.losses.build import MODULE
from galore.trainer.models.adapters.adapt import adapted, plain
from galore.trainer.models.adapters.lora import stored_config, without_adapters
from galore.trainer.models.attention import availability
from galore.trainer.models.capacity import check_capacity
from galore.trainer.models.cpu import optimize_decoder
from galore.trainer.models.materialize import adopt_weights
from galore.trainer.models.pretrained import kind_of, load_pretrained, locate, read_config, skeleton
from galore.trainer.optim.int8_linear import int8_layers
from galore.trainer.recipe.load import recipe_of_run
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.recipe.shipped import refuse_as_model
from galore.trainer.record.belonging import is_checkpoint, refuse_part_of_run, run_of
from galore.trainer.record.rundir import RunDir
from galore.trainer.trained.choose import NEWEST, choose
from galore.trainer.trained.generation import drop_idle

SHOWN = 5  # names in a message


@dataclass(frozen=True)
class StoredModel:
    """A plain transformers model (adapters merged, factors multiplied out) in evaluation mode, and where it came from.

    Attributes:
        origin: the checkpoint's path, or the folder or hub name.
        step: optimizer steps behind the weights, `recipe`: what trained them; None for a model that is no run.
        skipped: damaged or unfinished checkpoints that were passed over.
        data: fingerprint of the data it was trained on.
        beside: what a second loss trained, by the names that it has there.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    origin: str
    run: RunDir | None = None
    recipe: Recipe | None = None
    step: int | None = None
    skipped: tuple[Skipped, ...] = ()
    data: str | None = None
    beside: Mapping[str, Tensor] = field(default_factory=dict)


def load_run_model(path: str, device: str = "cpu", checkpoint: str | None = None) -> StoredModel:
    """A verified checkpoint of the run directory `path`, or `path` itself if it is one; or the model of a folder or hub
    name.

    Args:
        checkpoint: of a run: `newest`, which is the default, `best` or a step.

    Raises:
        UserError: no such run or model, no good checkpoint, or weights that do not fit.
    """
    folder = user_path(path)
    if folder.exists():
        refuse_undecodable(folder, "move or rename it")
    if (run := run_of(folder)) is not None:
        named = folder.name if is_checkpoint(folder) else None
        if named is not None and checkpoint is not None:
            raise UserError(
                "chooses a checkpoint of a run, and this is one",
                where="--checkpoint",
                fix=f"name {run.root}, or leave it out",
            )
        return _of_run(run, device, named or checkpoint or NEWEST)
    refuse_as_model(path)
    if checkpoint is not None:
        raise UserError(f"chooses a checkpoint of a run, and {path} is none", where="--checkpoint", fix="leave it out")
    refuse_part_of_run(folder)
    _refuse_several(folder)
    refuse_absent(path)
    try:
        return _of_name(locate(path, Path.cwd()), device)
    except UserError as error:
        if error.where != WHERE:  # that is where a recipe names a model, and here none does
            raise
        absent = "" if folder.exists() else "there is no such run or folder here, and on the hub: "
        raise UserError(absent + error.what, where=path, fix=error.fix) from error


def _refuse_several(folder: Path) -> None:
    """Raise UserError if `folder` is none of a model, but of runs: of a comparison, or of a fine-tuning on GLUE."""
    runs = sorted(file.parent for pattern in ("*/recipe.yaml", "*/*/recipe.yaml") for file in folder.glob(pattern))
    if not runs or (folder / "config.json").exists():
        return
    names = listed((run.relative_to(folder) for run in runs), SHOWN)
    raise UserError(f"holds several runs: {names}", where=str(folder), fix=f"name one of them: {runs[0]}")


def save_model_files(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    run: RunDir,
    trained: identity.Files | None = None,
    tell: Callable[[str], object] = str,
) -> identity.Files:
    """Write what a run's model needs beside its weights: configuration, generation defaults, tokenizer.

    A run can then be evaluated and exported when the model or tokenizer it started from is no longer at hand. Each
    folder is replaced as a whole, and not at all where it is what it should be.

    Args:
        trained: hashes of the files that the run's checkpoints were saved with; `tell` hears of those that are others.

    Returns:
        Their hashes, by path in the run.
    """
    run.require_own()
    base: Any = without_adapters(model)
    defaults = [_defaults(base)] if base.can_generate() else []
    files = identity.keep(run.model, [stored_config(model), *defaults], trained or {}, tell)
    return files | identity.keep(run.tokenizer, [tokenizer], trained or {}, tell)


def _defaults(base: Any) -> Any:
    """Generation defaults without what cannot be saved, which is found before the first step and not after the last."""
    generation = copy.deepcopy(base.generation_config)
    drop_idle(generation)
    return generation


def load_tokenizer(source: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub name.

    Raises:
        UserError: it cannot be read, or would need code of its own.
    """
    require_sentencepiece(Path(source))
    require_as_exported(source, weights=False)
    with explained(source, "read the tokenizer of"):
        require_plain_folder(source)
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source, revision=revision, trust_remote_code=False
        )
    return tokenizer


def _of_run(run: RunDir, device: str, asked: str) -> StoredModel:
    recipe = recipe_of_run(run.recipe)
    checkpoint, skipped = choose(run, asked)
    identity.require_same_recipe(checkpoint.state, recipe, run.root)
    identity.require_same_files(checkpoint.state, run.root)
    tokenizer = load_tokenizer(str(run.tokenizer))
    model, beside = _with_weights(run, recipe, checkpoint, device)
    check_capacity(model.config, len(tokenizer), max_length=1)
    data = checkpoint.state.get("position", {}).get("fingerprint")
    of = (run, recipe, checkpoint.step, tuple(skipped), data, beside)
    return StoredModel(model, tokenizer, str(checkpoint.path), *of)


def _with_weights(
    run: RunDir, recipe: Recipe, checkpoint: Checkpoint, device: str
) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """Built without memory from the stored configuration, then given the checkpoint's tensors; a second loss's too."""
    wanted = recipe.model.attn_implementation  # of the machine that trained; this one may lack it
    kernel = wanted if availability(wanted, device, recipe.model.dtype).available else None
    folder = run.model
    config = read_config(str(folder), None)
    base = skeleton(config, kernel, kind_of(config))
    if (folder / "generation_config.json").is_file():
        with explained(str(folder), "read the generation settings of"):
            base.generation_config = type(base.generation_config).from_pretrained(folder)
    model = adapted(base, recipe.optim, seed=0)
    for layer in int8_layers(model):
        layer.dtype = getattr(torch, recipe.model.dtype)
    tensors, prefix = checkpoint.load("model"), f"{MODULE}."
    beside = {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}
    adopt_weights(model, tensors, device=device)
    return _ready(plain(model), device), beside


def _of_name(source: str, device: str) -> StoredModel:
    config = read_config(source, None)
    stored = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    model = load_pretrained(source, config, revision=None, dtype=stored, attn_implementation=None, kind=kind_of(config))
    if model.can_generate():
        model.config.use_cache = True
    model.to(device)
    return StoredModel(_ready(model, device), load_tokenizer(source), source)


def _ready(model: PreTrainedModel, device: str) -> PreTrainedModel:
    """The model on the paths a run takes on this device, so that a score is the one the run itself computed."""
    if device == "cpu":
        optimize_decoder(model)
    return model.eval()
