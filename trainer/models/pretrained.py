"""Causal language models and classifiers from a local folder or the hub: safetensors only, and never code of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from galore.trainer.errors import UserError
from galore.trainer.exported import require_as_exported
from galore.trainer.offline import spare_retries

logging.disable_progress_bar()  # a bar per file would tear the console's own display

WHERE = "model.name_or_path"


def locate(name: str, base_dir: Path) -> str:
    """The folder `name` means, seen from `base_dir`; a name that is no folder is left to the hub.

    Raises:
        UserError: a path that does not exist, or a folder that no model can be read from.
    """
    folder = base_dir / Path(name).expanduser()
    if folder.is_dir():
        return str(folder.resolve())
    beside_others = "/" in name and folder.parent.is_dir()  # runs/nope where runs/ is: a typo, not a hub name
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or folder.exists() or beside_others:
        raise UserError(
            f"{folder} is not a folder", where=WHERE, fix="give a folder with config.json and *.safetensors"
        )
    spare_retries()
    return name


def read_config(source: str, revision: str | None) -> PreTrainedConfig:
    """The configuration of a model folder or hub name.

    Raises:
        UserError: it cannot be read, would need code of its own, or describes quantised weights.
    """
    require_as_exported(source, weights=False)
    with explained(source):
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    if quantised := getattr(config, "quantization_config", None):
        kind = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else "unknown"
        raise UserError(
            f"{source} holds quantised weights ({kind}), which cannot be trained",
            where=WHERE,
            fix="start from the float weights",
        )
    return config


def kind_of(config: PreTrainedConfig) -> Any:
    """transformers' class for the kind of model that `config` was saved from: with a head that classifies, or causal."""
    classifies = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    return AutoModelForSequenceClassification if classifies else AutoModelForCausalLM


def skeleton(config: PreTrainedConfig, attn_implementation: str, kind: Any = AutoModelForCausalLM) -> PreTrainedModel:
    """The model of `config` on the meta device: shapes and names, no memory, float32.

    Raises:
        UserError: there is no model of that `kind` for the configuration, or it refuses the attention kernel.
    """
    source = config.name_or_path or config.model_type
    with explained(source), _quiet(), torch.device("meta"):
        model = kind.from_config(
            config, dtype=torch.float32, attn_implementation=attn_implementation, trust_remote_code=False
        )
    return _checked(model)


def load_pretrained(
    source: str,
    config: PreTrainedConfig,
    *,
    revision: str | None,
    dtype: torch.dtype,
    attn_implementation: str,
    kind: Any = AutoModelForCausalLM,
    drawn: Callable[[str], bool] = lambda name: False,
) -> PreTrainedModel:
    """The model with its stored weights, cast to `dtype`, on the CPU.

    Args:
        drawn: whether a tensor may be missing, or have another shape: it is then drawn from the global random state.

    Raises:
        UserError: no safetensors, weights that do not fit, or weights missing.
    """
    require_as_exported(source, weights=True)
    _refuse_pickles(source)
    with explained(source), _quiet():
        model, info = kind.from_pretrained(
            source,
            config=config,
            revision=revision,
            dtype=dtype,
            attn_implementation=attn_implementation,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    if unfit := sorted(name for name, *_ in info["mismatched_keys"] if not drawn(name)):
        raise UserError(
            f"{source} has {len(unfit)} tensors of another shape than its model, such as {unfit[0]}", where=WHERE
        )
    if missing := sorted(name for name in info["missing_keys"] if not drawn(name)):
        raise UserError(f"{source} lacks {len(missing)} tensors of its model, such as {missing[0]}", where=WHERE)
    return _checked(model)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' table of tensors that are missing or left over: what matters of it is an error here."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _checked(model: Any) -> PreTrainedModel:
    assert isinstance(model, PreTrainedModel)
    return model


def _refuse_pickles(source: str) -> None:
    folder = Path(source)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickles:
        raise UserError(
            f"{folder} holds its weights as {pickles[0]}, a pickle, which can run any code when it is read",
            where=WHERE,
            fix="convert it once to safetensors with save_pretrained, on a machine where you trust its origin",
        )
    raise UserError(f"{folder} has no *.safetensors file", where=WHERE, fix="or set model.random_init: true")


class explained:  # noqa: N801 - reads as a statement: `with explained(source):`
    """Turn what transformers raises for an unusable model into one UserError."""

    def __init__(self, source: str) -> None:
        self.source = source

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, (OSError, ValueError, ImportError, RuntimeError, KeyError)):
            return
        if "trust_remote_code" in str(error):
            raise UserError(f"{self.source} needs code of its own, which galore never runs", where=WHERE) from error
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), kind.__name__ if kind else "")
        what = self.source if Path(self.source).is_dir() else f"{self.source}, which is no folder here but a hub name"
        raise UserError(
            f"cannot use {what}: {reason}",
            where=WHERE,
            fix="give a folder with config.json and *.safetensors, or the hub name of such a model",
        ) from error
