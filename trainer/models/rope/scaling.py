"""`model.rope` in a model's configuration: transformers' `rope_parameters`, and the longest sequence that follows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from transformers import PreTrainedConfig

from galore.trainer.common.errors import UserError
from galore.trainer.common.reading import NotReadable, read_bounded
from galore.trainer.recipe.schema.rope import RopeSection

WHERE = "model.rope"
KEPT = ("rope_theta", "partial_rotary_factor", "mrope_section", "mrope_interleaved")  # of what a model has, no scaling
ORIGINAL = "original_max_position_embeddings"
START = "rope_start_tokens"  # in the configuration, see `rotary.py`
PLAIN = ("default", "linear", "dynamic")  # types whose parameters do not name the length of training
LARGEST = 1 << 20  # bytes of a file of factors


def scale_rope(config: PreTrainedConfig, rope: RopeSection, base_dir: Path, *, built: bool) -> None:
    """Write `rope` into `config`, in place: of a model by name its longest sequence becomes `factor` times what it was.

    Args:
        base_dir: folder that a relative file of factors is seen from.
        built: the dimensions are the recipe's, whose max_position_embeddings is the longest sequence already.

    Raises:
        UserError: the model has no rotary positions, too few of them, or another number than there are factors.
    """
    text = config.get_text_config()
    own = own_parameters(config)
    rope = with_factors(rope, base_dir)
    longest, factor = int(text.max_position_embeddings), rope.factor or 1.0
    dynamic = rope.type == "dynamic"
    before = int(longest / factor) if built and not dynamic else trained_length(config)
    original = rope.original_max_position_embeddings or before
    if original < 1:
        what = f"factor {factor:g} leaves nothing of model.max_position_embeddings {longest}"
        raise UserError(what, where=WHERE, fix="lower factor, or set original_max_position_embeddings")
    parameters: dict[str, Any] = {name: own[name] for name in KEPT if name in own}
    parameters |= {
        key: value for key, value in rope.settings.items() if key not in ("factors", "start_tokens", ORIGINAL)
    }
    parameters["rope_type"] = rope.type
    if rope.type not in PLAIN:
        parameters[ORIGINAL] = original
    if rope.type == "default":
        parameters.pop("factor", None)
    if rope.type == "longrope":
        _check_factors(parameters, pairs(config))
    _set_parameters(text, parameters)
    if dynamic:
        text.max_position_embeddings = original
    elif not built:
        text.max_position_embeddings = round(original * factor)
    if hasattr(text, ORIGINAL):
        setattr(text, ORIGINAL, original)
    if rope.start_tokens or getattr(text, START, None):
        setattr(text, START, rope.start_tokens or 0)


def by_kind_of_layer(parameters: Mapping[str, Any]) -> bool:
    """Whether rotary `parameters` are a mapping for each kind of layer, as of models whose windows have their own."""
    return any(isinstance(each, Mapping) for each in parameters.values())


def own_parameters(config: PreTrainedConfig, where: str = WHERE) -> dict[str, Any]:
    """The rotary parameters a model has; of one that has some for each kind of layer, those of its global attention.

    Raises:
        UserError: there are none, or none that could be scaled.
    """
    text = config.get_text_config()
    parameters = getattr(text, "rope_parameters", None)
    if isinstance(parameters, dict) and by_kind_of_layer(parameters):
        parameters = parameters.get("full_attention")
    room = getattr(text, "max_position_embeddings", None)
    if not isinstance(parameters, dict) or "rope_theta" not in parameters or not isinstance(room, int):
        what = f"{config.name_or_path or config.model_type} has no rotary positions that could be scaled"
        raise UserError(what, where=where, fix=f"leave {where} out, or choose a model with RoPE, such as LLaMA or Qwen")
    return dict(parameters)


def trained_length(config: PreTrainedConfig) -> int:
    """The length that a model was trained at, which one that is scaled already tells apart."""
    text, own = config.get_text_config(), own_parameters(config)
    scaled = own.get("factor", 1.0) if own["rope_type"] == "linear" else 1.0
    return int(own.get(ORIGINAL) or getattr(text, ORIGINAL, None) or round(text.max_position_embeddings / scaled))


def pairs(config: PreTrainedConfig) -> int:
    """Pairs of dimensions of a head that rotate: as many factors longrope takes."""
    text = config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(head * own_parameters(config).get("partial_rotary_factor", 1.0)) // 2


def with_factors(rope: RopeSection, base_dir: Path) -> RopeSection:
    """`rope` with what the file that it names holds, which its own keys go before; without the name.

    Raises:
        UserError: the file cannot be read, or holds no such values.
    """
    if rope.factors is None:
        return rope
    file = base_dir / rope.factors
    fix = "write one with `galore rope-search MODEL RECIPE`, whose rope.json it is"
    try:
        values = json.loads(read_bounded(file, LARGEST))
    except (OSError, NotReadable, ValueError, RecursionError) as error:
        raise UserError(f"cannot be read as JSON: {error}", where=str(file), fix=fix) from None
    if not isinstance(values, dict):
        raise UserError("holds no mapping of rotary factors", where=str(file), fix=fix)
    known = {key: value for key, value in values.items() if key in RopeSection.model_fields and key != "factors"}
    own = {key: value for key, value in rope.settings.items() if key != "factors"}
    try:
        return RopeSection.model_validate({**known, **own, "type": "longrope"}, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        what = ".".join(map(str, first["loc"])) + ": " * bool(first["loc"]) + first["msg"].removeprefix("Value error, ")
        raise UserError(f"holds no factors of longrope: {what}", where=str(file), fix=fix) from None


def _check_factors(parameters: dict[str, Any], count: int) -> None:
    parameters.setdefault("short_factor", [1.0] * len(parameters["long_factor"]))
    for name in ("long_factor", "short_factor"):
        if len(parameters[name]) != count:
            raise UserError(
                f"{name} has {len(parameters[name])} numbers, and the heads of the model rotate {count} pairs of dimensions",
                where=WHERE,
                fix=f"give {count} numbers, or search them with `galore rope-search`",
            )


def _set_parameters(text: Any, parameters: dict[str, Any]) -> None:
    nested = by_kind_of_layer(text.rope_parameters)
    text.rope_parameters = text.rope_parameters | {"full_attention": parameters} if nested else parameters
