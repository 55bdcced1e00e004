"""What a checkpoint needs beside its tensors, and is used with no other: recipe, configuration and tokenizer.

    state.json: made_with: {mathematics: {section.key: value}, config: {key: value}, files: {path in the run: SHA-256},
                            stages: [{key: value}]}

Checkpoints that were saved before they knew are taken as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from galore.trainer.checkpoint.manifest import Damaged, check_hashes
from galore.trainer.common.durable import Saved, leftovers, remove, replace_folder, save_pretrained, synced, temporary
from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.recipe.schema.resume import mathematics, other_mathematics

KEY = "made_with"
OF_TOKENS = {"vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"}  # of a configuration, by the tokenizer
NO_MATHEMATICS = (
    "transformers_version",
    "_name_or_path",
    "dtype",
    "torch_dtype",
    "use_cache",
)  # keys of a configuration

State = Mapping[str, Any]
Files = dict[str, str]
Positions = Mapping[str, Any]  # keys of a configuration that say how positions rotate, as JSON has them


def identity(
    recipe: Recipe, config: PreTrainedConfig, files: Files, router: bool = False, stages: Sequence[Positions] = ()
) -> dict[str, Any]:
    """What a checkpoint's state holds of them.

    Args:
        router: whether the loss has that of a router in it.
        stages: positions of shorter sequences, by stage.
    """
    known = {"mathematics": mathematics(recipe, router), "config": values(config), "files": files}
    return {KEY: known | ({"stages": list(stages)} if stages else {})}


def files_of(state: State) -> Files:
    """The files that the checkpoint was saved with; empty if it does not know."""
    return dict(state.get(KEY, {}).get("files", {}))


def require_same_recipe(state: State, recipe: Recipe, run: Path) -> None:
    """Raise UserError, with both values, if the recipe computes something else than what was trained."""
    changed = other_mathematics(state.get(KEY, {}).get("mathematics", {}), recipe)
    if changed:
        raise UserError(
            "the recipe computes something else than this run: " + "; ".join(changed),
            where=str(run),
            fix="give them the values that the run was started with, or start anew in another --output-dir",
        )


def require_same_config(state: State, config: PreTrainedConfig, run: Path) -> None:
    """Raise UserError, with both values, if the model that was built is another function than the trained one."""
    changed = _changed(state.get(KEY, {}).get("config", {}), values(config))
    if changed:
        told = "; ".join(changed.values())
        # a tokenizer that is made of the text is another one when the text is
        of_text = "text (data.path) or tokenizer that the run was started with"
        what = of_text if changed.keys() <= OF_TOKENS else "folder that model.name_or_path names"
        raise UserError(
            f"the configuration of the model is not the one that was trained: {told}",
            where=str(run),
            fix=f"restore the {what}, or start anew in another --output-dir",
        )


def require_same_stages(state: State, stages: Sequence[Positions], run: Path) -> None:
    """Raise UserError, with both values, if positions rotate otherwise in a stage than those of the trained one."""
    for number, (trained, here) in enumerate(zip(state.get(KEY, {}).get("stages", ()), stages, strict=False)):
        if changed := _changed(trained, here):
            key = f"train.length_stages[{number}].rope"
            raise UserError(
                f"positions of {key} are not those that were trained: {'; '.join(changed.values())}",
                where=str(run),
                fix="restore the file that its `factors` names, or start anew in another --output-dir",
            )


def require_same_files(state: State, run: Path) -> None:
    """Raise UserError unless configuration and tokenizer are, byte for byte, those that were trained with."""
    try:
        _check(run, files_of(state))
    except Damaged as damage:
        raise UserError(
            f"{damage}, so the checkpoint is not used with it",
            where=str(run),
            fix="continue the run with --resume, which writes model/ and tokenizer/ anew",
        ) from None
    except OSError as error:
        raise RunFailed(
            f"cannot be read: {error.strerror}", where=str(error.filename or run), fix="make it readable and try again"
        ) from error


def keep(folder: Path, parts: Sequence[Saved], trained: Files, tell: Callable[[str], object]) -> Files:
    """Let `parts` be the content of `folder`, in one step; hashes by path in the run.

    Files that are those a checkpoint was `trained` with stay: another version of a library may write the same
    otherwise. `tell` hears of others.
    """
    own = {name: sha for name, sha in trained.items() if name.startswith(f"{folder.name}/")}
    try:
        if own:
            _check(folder.parent, own)
            return own
    except Damaged as damage:
        tell(f"{damage}: {folder} is written anew")
    for leftover in leftovers(folder):
        remove(leftover)
    private = temporary(folder)
    private.mkdir()
    files = save_pretrained(private, *parts)
    if not own and folder.is_dir() and synced(folder) == files:
        remove(private)
    else:
        replace_folder(folder, private)
    return {f"{folder.name}/{name}": written.sha256 for name, written in files.items()}


def _check(run: Path, files: Files) -> None:
    """Raise Damaged unless the folders that `files` name hold just these; hidden files do not count."""
    check_hashes(run, files)
    for folder in {name.partition("/")[0] for name in files}:
        found = (path for path in (run / folder).rglob("*") if path.is_file() and not path.name.startswith("."))
        more = sorted({path.relative_to(run).as_posix() for path in found} - files.keys())
        if more:
            raise Damaged(f"{more[0]} was not there")


def values(config: PreTrainedConfig) -> dict[str, Any]:
    """All values that a model of `config` computes by as JSON holds them, defaults included."""
    every: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in every.items() if key not in NO_MATHEMATICS}


def _changed(trained: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, str]:
    """Which keys of both have other values, and these in words."""
    before, now = dict(_flat(trained)), dict(_flat(here))
    return {
        key: f"{key}: {before[key]} → {now[key]}"
        for key in sorted(before.keys() & now.keys())
        if before[key] != now[key]
    }


def _flat(every: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in every.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value
