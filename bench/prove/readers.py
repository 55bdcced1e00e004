"""What galore makes of files that may be damaged: each reader prints a digest of what it was given, or is refused (exit 2)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from galore.cli.errors import as_user_error

REFUSED = 2


def asking(read: Callable[[], str]) -> Callable[[], int]:
    """The work of a child: `read` and print its digest, or the refusal as the command line tells it."""

    def work() -> int:
        try:
            print(read())
        except Exception as error:
            print(as_user_error(error))
            return REFUSED
        return 0

    return work


def of_checkpoints(root: Path) -> str:
    """Step, state and tensors of the newest good one; the older one counts where it is told why."""
    from galore.trainer.checkpoint.checkpoint import newest_verified

    found, skipped = newest_verified(root)
    if found is None:
        return f"none, {len(skipped)} skipped" if skipped else "none, and nothing said"
    tensors = ((f"{group}/{name}", tensor) for group in found.groups for name, tensor in found.load(group).items())
    told = "told" if skipped else "nothing said"
    return f"{found.step} {_digest(_tensors(tensors), repr(found.state).encode())} {told}"


def of_model(folder: Path) -> str:
    """Weights, configuration, tokenizer and, of a run, what its recipe computes."""
    from galore.trainer.recipe.load import load_recipe
    from galore.trainer.recipe.schema.resume import changed_mathematics
    from galore.trainer.trained.runmodel import load_run_model

    stored = load_run_model(str(folder))
    words = stored.tokenizer.backend_tokenizer.to_str() + repr(sorted(stored.tokenizer.special_tokens_map.items()))
    config = {name: value for name, value in stored.model.config.to_dict().items() if name != "_name_or_path"}
    computed = changed_mathematics(load_recipe("demo").recipe, stored.recipe) if stored.recipe else []
    parts = [words, stored.tokenizer.chat_template or "", repr(sorted(config.items(), key=str)), repr(computed)]
    generation = stored.model.generation_config.to_json_string()
    return _digest(_tensors(stored.model.state_dict().items()), *(part.encode() for part in [*parts, generation]))


def of_folders(root: Path) -> str:
    """Each checkpoint as a model to begin with: weights, configurations and tokenizer of the folder, not of its run."""
    from galore.trainer.models.pretrained import kind_of, load_pretrained, read_config
    from galore.trainer.trained.runmodel import load_tokenizer

    parts: list[bytes] = []
    for folder in sorted(root.glob("step-*")):
        config = read_config(str(folder), None)
        model = load_pretrained(
            str(folder), config, revision=None, dtype=config.dtype, attn_implementation=None, kind=kind_of(config)
        )
        words = load_tokenizer(str(folder)).backend_tokenizer.to_str()
        values = {name: value for name, value in model.config.to_dict().items() if name != "_name_or_path"}
        told = [words, repr(sorted(values.items(), key=str)), model.generation_config.to_json_string()]
        parts += [*_tensors(model.state_dict().items()), *(each.encode() for each in told)]
    return _digest(parts)


def of_data(overrides: Sequence[str]) -> str:
    """All rows, and the tokenizer, of the data that a recipe reads."""
    from galore.trainer.data.prepare import read_data
    from galore.trainer.recipe.load import load_recipe

    loaded = load_recipe("demo", list(overrides))
    data = read_data(loaded.recipe, loaded.base_dir)
    parts = [data.tokenizer.backend_tokenizer.to_str().encode()]
    for rows in (data.train, data.validation):
        for start in range(0, len(rows), 64):
            parts += [np.asarray(each).tobytes() for each in rows.read(np.arange(start, min(start + 64, len(rows))))]
    return _digest(parts)


def of_report(run: Path) -> str:
    """The report of a run is written, whatever is in the files it is made of."""
    from galore.trainer.record.rundir import RunDir
    from galore.trainer.record.shown import report

    report.draw = lambda _: {}
    report.write_report(RunDir(run))
    return "written"


def _tensors(named: Iterable[tuple[str, torch.Tensor]]) -> list[bytes]:
    return [name.encode() + tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() for name, tensor in named]


def _digest(parts: Iterable[bytes], *more: bytes) -> str:
    digest = hashlib.sha256()
    for part in [*parts, *more]:
        digest.update(part)
    return digest.hexdigest()[:16]
