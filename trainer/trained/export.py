"""Write a trained model as a Hugging Face folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from transformers import CONFIG_NAME, PreTrainedModel

from galore.trainer.checkpoint.checkpoint import Skipped
from galore.trainer.checkpoint.exported import sign
from galore.trainer.checkpoint.tensors import refuse_different, some
from galore.trainer.common.durable import (
    make_directory,
    refuse_below_file,
    refuse_undecodable,
    remove,
    save_pretrained,
    sync_directory,
    synced,
    temporary,
    write_file,
)
from galore.trainer.common.errors import RunFailed, UserError, system_error, to_write
from galore.trainer.common.legible import writable
from galore.trainer.common.lock import alone_in
from galore.trainer.common.reading import user_path
from galore.trainer.data.tokens.tokenizer import is_trained_here
from galore.trainer.models.pretrained import kind_of, load_pretrained, read_config
from galore.trainer.models.retnet.code import brings_code, code_files
from galore.trainer.models.rope.scaling import START
from galore.trainer.record.history import History
from galore.trainer.trained.generation import drop_idle
from galore.trainer.trained.modelcard import model_card
from galore.trainer.trained.modelfile import NAME as MODELFILE
from galore.trainer.trained.modelfile import modelfile
from galore.trainer.trained.olderreaders import add_older_keys
from galore.trainer.trained.onward.target import Target
from galore.trainer.trained.onward.targets import hand_over
from galore.trainer.trained.runmodel import StoredModel, load_run_model
from galore.trainer.trained.specialtokens import name_special_tokens

PART = "export"  # of a folder that is there, until it is whole
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR)  # to make a folder there


@dataclass(frozen=True)
class Exported:
    """What was written: the folder, what it was made from, the step of its weights (None if it was no run), bytes, and
    transformers' class that loads it, and what is to be known of the Modelfile."""

    folder: Path
    origin: str
    step: int | None
    bytes: int
    loads: str
    skipped: tuple[Skipped, ...] = ()
    note: str = ""
    no_gguf: str = ""  # why llama.cpp's converter does not take it
    left: tuple[str, ...] = ()  # what of the recipe the toolkit to go on with does not say


@dataclass(frozen=True)
class ExportOptions:
    """What an export has beside what every one has.

    Args:
        max_shard_size: of a file of weights, as transformers takes it; None leaves that to transformers.
        ollama: write a Modelfile.
        name: of the model in its card.
        license: an identifier of the hub, in the card.
        onward: a toolkit to go on with, whose configuration is written, too.
    """

    max_shard_size: str | None = None
    ollama: bool = False
    name: str = ""
    license: str = ""
    onward: Target | None = None


def export(run: str, out: Path, options: ExportOptions = ExportOptions(), checkpoint: str | None = None) -> Exported:
    """Write the model of `run` to the folder `out`: config, generation config, safetensors, tokenizer, model card.

    `AutoModelForCausalLM.from_pretrained(out)`, or of a classifier `AutoModelForSequenceClassification`, and
    `AutoTokenizer.from_pretrained(out)` load it, with equal logits; a RetNet, whose code the folder then holds, if that
    is trusted.
    Adapters are merged. The folder appears whole or not at all, with digests that galore compares when it reads it
    again.

    Args:
        run: run directory (its newest verified checkpoint), checkpoint, model folder or hub name.
        checkpoint: of a run directory: newest, best or a step.

    Raises:
        UserError: `out` is a file, a folder that is not empty, or cannot be written; or `run` cannot be loaded, or
            holds nan.
        RunFailed: the disk refused it, as a full one does.
    """
    out = Path(os.path.realpath(user_path(str(out))))
    refuse_undecodable(out, "choose another folder")
    _refuse_used(out)
    stored = load_run_model(run, checkpoint=checkpoint)
    _refuse_start_tokens(stored)
    _refuse_nan(stored)
    try:
        with _private(_beside(out)) as folder:
            size, note, left = _write(stored, folder, options)
            _publish(folder, out)
    except Exception as error:
        refused = system_error(error)
        if refused is None and not isinstance(error, SafetensorError):
            raise
        if refused is not None and refused.errno in FORBIDDEN:
            what = f"cannot be written: {refused.strerror}"
            raise UserError(what, where=str(out), fix="choose a folder you may write to") from error
        fix = f"{to_write(refused)}, or choose a folder on another disk" if refused is not None else ""
        raise RunFailed(f"cannot export: {refused.strerror if refused else error}", where=str(out), fix=fix) from error
    loads = kind_of(stored.model.config).__name__
    return Exported(
        out, stored.origin, stored.step, size, loads, stored.skipped, note, _unconvertible(stored), tuple(left)
    )


def _unconvertible(stored: StoredModel) -> str:
    """Why llama.cpp's converter does not take the model, be it a run's or an export's; "" where nothing is known."""
    if brings_code(stored.model.config):
        return "llama.cpp knows no RetNet"
    if is_trained_here(stored.tokenizer):
        return "llama.cpp's converter knows no tokenizer that was trained on a run's own corpus"
    return ""


def _refuse_start_tokens(stored: StoredModel) -> None:
    """transformers would rotate the first tokens as all others, and compute other logits."""
    if count := getattr(stored.model.config.get_text_config(), START, None):
        raise UserError(
            f"{stored.origin} leaves the positions of its first {count} tokens unscaled, which transformers cannot",
            where="model.rope, start_tokens",
            fix="tune it some steps with start_tokens: 0, or search factors without them: galore rope-search --start-tokens 0",
        )


def _refuse_nan(stored: StoredModel) -> None:
    if odd := [name for name, tensor in stored.model.state_dict().items() if tensor.isnan().any()]:
        fix = "export an earlier checkpoint, with --checkpoint, or train anew with a lower rate"
        raise UserError(f"the weights hold nan, in {some(odd)}", where=stored.origin, fix=fix)


def _beside(out: Path) -> Path:
    """Where an export is written until it is whole: beside `out`, or in it, for a folder that is there may be a mount
    point, or where a shell works, and keeps its place."""
    if out.is_dir():
        return temporary(out / PART)
    make_directory(out.parent)
    return temporary(out)


def _publish(folder: Path, out: Path) -> None:
    """Give the whole and synced `folder` its place.

    Of files that are moved the configuration is the last, without which nothing takes them for a model.
    """
    if folder.parent != out:
        folder.rename(out)
        sync_directory(out.parent)
        return
    _refuse_used(out)  # it may have been filled meanwhile
    files, moved = sorted(folder.iterdir(), key=lambda path: (path.name == CONFIG_NAME, path.name)), list[Path]()
    try:
        for path in files:
            if path.name == CONFIG_NAME:
                sync_directory(out)
            moved.append(path.rename(out / path.name))
    except BaseException:
        for path in moved:
            remove(path)
        raise
    folder.rmdir()
    sync_directory(out)


@contextmanager
def _private(folder: Path) -> Iterator[Path]:
    """The folder, empty and this process's alone; what a killed export left in it goes, and it goes after an error."""
    folder.mkdir(exist_ok=True)
    with alone_in(folder):
        for leftover in folder.iterdir():
            remove(leftover)
        try:
            yield folder
        except BaseException:
            remove(folder)
            raise


def _refuse_used(out: Path) -> None:
    fix = "choose a folder that does not exist yet"
    if out.is_symlink():
        raise UserError("is a link that leads nowhere", where=str(out), fix=fix)
    refuse_below_file(out, fix)
    if out.exists() and not out.is_dir():
        raise UserError("is a file", where=str(out), fix=fix)
    if out.is_dir() and any(path != temporary(out / PART) for path in out.iterdir()):
        raise UserError("is not empty", where=str(out), fix=fix)


def _write(stored: StoredModel, folder: Path, options: ExportOptions) -> tuple[int, str, list[str]]:
    model = stored.model
    if model.can_generate():
        model.config.use_cache = True
    name_special_tokens(model, stored.tokenizer, stored.recipe)
    if model.can_generate():
        drop_idle(model.generation_config)
    text, note = modelfile(model, stored.tokenizer) if options.ollama else ("", "")
    for name, source in code_files(model.config):
        write_file(folder / name, [source.encode()])
    files = save_pretrained(folder, model, stored.tokenizer, max_shard_size=options.max_shard_size)
    again = add_older_keys(folder)
    files = synced(folder, {name: written for name, written in files.items() if name not in again})
    _verify(model, folder)
    card = folder / "README.md"
    write_file(card, [writable(model_card(stored, options.name, options.license)).encode()])
    if text:
        write_file(folder / MODELFILE, [text.encode()])
    for weights in folder.glob("*.safetensors"):  # the library lets only their owner read them
        weights.chmod(card.stat().st_mode)
    left = _hand_over(stored, folder, options.onward) if options.onward is not None else []
    sign(folder, files)
    return sum(path.stat().st_size for path in folder.iterdir()), note, left


def _hand_over(stored: StoredModel, folder: Path, target: Target) -> list[str]:
    steps = 1 if stored.run is None else History.read(stored.run).total_steps
    return hand_over(target, stored.recipe, stored.model.config, steps, folder)


def _verify(model: PreTrainedModel, folder: Path) -> None:
    """Raise RunFailed unless what was written reads back as `model`: every tensor, and what is computed of the rest."""
    try:
        config = read_config(str(folder), None)
        written = load_pretrained(
            str(folder), config, revision=None, dtype=model.dtype, attn_implementation=None, kind=kind_of(config)
        )
        refuse_different(written, model)
    except RunFailed:  # of a disk that no longer answers
        raise
    except UserError as error:
        raise RunFailed(f"the export does not read back as the model: {error.what}", where=str(folder)) from error
