"""LoRA adapters through peft: W stays, B·A of rank r is trained beside it (Hu et al., arXiv 2106.09685).

Adapters are kept in the type of the weights. In float32 beside bfloat16 weights they would make peft cast the input of
every adapted layer, and the backward keep that copy: twice the activations to save a few megabytes of rounding, which
stochastic rounding of the update takes care of. They are drawn in float32 and then cast, as all weights are.

Modules trained in full beside the adapters are trained in place, under their own names: peft's `modules_to_save` would
keep a second copy of each.
"""

from __future__ import annotations

import copy
import difflib
import logging
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from galore.trainer.checkpoint.tensors import tensor_names
from galore.trainer.common.errors import UserError
from galore.trainer.common.format import counted
from galore.trainer.models.classifier import head_modules
from galore.trainer.models.linears import plain_linears
from galore.trainer.recipe.extras import require
from galore.trainer.recipe.schema.optim import OptimSection

T = TypeVar("T")


def add_adapters(model: PreTrainedModel, optim: OptimSection, seed: int) -> nn.Module:
    """`model` wrapped by peft: adapters, `optim.train_modules` and a classifying head trainable, all else frozen.

    A is drawn from `seed` (Kaiming uniform), B is zero, so the wrapped model computes what `model` did. The update is
    scaled by lora_alpha / rank, with the recipe's rank also where a layer's own is clamped. State-dict names are
    `base_model.model.<path>.base_layer.weight` and `base_model.model.<path>.lora_{A,B}.default.weight`; what is not
    adapted is `base_model.model.<its name>`. The global random state is left as it was.

    Raises:
        UserError: peft is not installed, a pattern matches nothing, a module is both adapted and trained in full, or
            ReLoRA would merge into a weight that another module shares.
    """
    peft = _peft()
    ranks = adapter_ranks(model, optim)
    if optim.adapter == "relora":
        refuse_tied(model, ranks)
    in_full = _modules_in_full(model, [*optim.train_modules, *head_modules(model)], ranks)
    config = peft.LoraConfig(
        task_type=None if head_modules(model) else "CAUSAL_LM",  # SEQ_CLS would keep a second copy of the head
        r=optim.rank,
        lora_alpha=optim.lora_alpha,
        lora_dropout=optim.lora_dropout,
        target_modules=list(ranks),
        rank_pattern=_patterns({name: rank for name, rank in ranks.items() if rank < optim.rank}),
        alpha_pattern=_patterns(
            {name: optim.lora_alpha * rank / optim.rank for name, rank in ranks.items() if rank < optim.rank}
        ),
    )
    weight = next(model.parameters())  # on meta nothing is drawn
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.default_generator.manual_seed(seed)
        try:
            wrapped: nn.Module = peft.get_peft_model(
                model, config, autocast_adapter_dtype=False, low_cpu_mem_usage=weight.is_meta
            )
        except ValueError as error:  # layers it knows it cannot adapt, such as a Mamba block's
            raise UserError(f"peft refuses: {error}", where="optim.target_modules", fix="leave it out") from error
    if weight.is_meta:
        _cast(wrapped, weight.dtype)
    for module in in_full:
        module.requires_grad_(True)
    return wrapped.train(model.training)


def train_embeddings(model: nn.Module) -> None:
    """Train embedding and head in full, where adapters have frozen them.

    Rows of new tokens begin as all alike, and only a gradient tells them apart.
    """
    base: Any = without_adapters(model)
    for layer in (base.get_input_embeddings(), base.get_output_embeddings()):
        if layer is not None and not hasattr(layer, "lora_A") and layer.weight.is_floating_point():
            layer.requires_grad_(True)


def adapter_ranks(model: nn.Module, optim: OptimSection) -> dict[str, int]:
    """{path of a linear layer: rank of its adapter}, the rank clamped to the smaller side of the layer.

    Of a classifier: without its head, which is trained in full, and its embeddings. `not_adapted` names what they
    matched.

    Raises:
        UserError: one of `optim.target_modules` matches no linear layer; names the nearest.
    """
    left_out = not_adapted(model, optim)
    patterns = [pattern for pattern in optim.target_modules if pattern not in left_out]
    return {name: min(optim.rank, *linear.weight.shape) for name, linear in plain_linears(model, patterns).items()}


def not_adapted(model: nn.Module, optim: OptimSection) -> list[str]:
    """Names of `optim.target_modules` that match only a classifier's embeddings and its head: GaLore projects them."""
    head = tuple(f"{name}." for name in head_modules(model))
    if not head:
        return []
    known = {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Embedding))}
    found = {pattern: [name for name in known if f".{pattern}." in f".{name}."] for pattern in optim.target_modules}
    apart = {name for name, module in known.items() if isinstance(module, nn.Embedding) or f"{name}.".startswith(head)}
    return [pattern for pattern, names in found.items() if names and set(names) <= apart]


def refuse_tied(model: nn.Module, paths: Collection[str]) -> None:
    """Raise UserError if the weight of one of the linear layers at `paths` is another module's too."""
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name.rpartition(".")[0])
    for names in owners.values():
        if len(names) > 1 and (tied := [name for name in names if name in paths]):
            raise UserError(
                f"{tied[0]} has one weight with {next(name for name in names if name != tied[0])}: it cannot change alone",
                where="optim.target_modules",
                fix="leave it out, or set model.tie_word_embeddings: false",
            )


def clamp_note(ranks: dict[str, int], rank: int) -> str | None:
    """What to tell the user where layers are too small for the recipe's rank; None when all are large enough."""
    clamped = {name: own for name, own in ranks.items() if own < rank}
    if not clamped:
        return None
    name, own = next(iter(clamped.items()))
    return f"rank {rank} exceeds the smaller side of {counted(len(clamped), 'layer')} and is clamped there, such as {own} in {name}"


def merged(model: nn.Module) -> PreTrainedModel:
    """The plain transformers model with W + (lora_alpha / rank)·B·A in place of each adapted W.

    Works in place: `model` is used up. A model without adapters is returned as it is. A head that was tied to the
    embedding gets a weight of its own where it alone is adapted, and the configuration says so.
    """
    if isinstance(model, PreTrainedModel):
        return model
    plain: Any = model
    _untie_adapted(without_adapters(model))
    result = plain.merge_and_unload()
    assert isinstance(result, PreTrainedModel)
    return result.requires_grad_(True)


def _untie_adapted(base: PreTrainedModel) -> None:
    """Give every name its own tensor where an adapted layer shares its weight: a merge into one moves no other."""
    adapted = {f"{name}.base_layer.weight" for name, module in base.named_modules() if hasattr(module, "lora_A")}
    tied = [names for names in tensor_names(base) if len(names) > 1]
    if not any(name in adapted for names in tied for name in names):
        return
    for names in tied:
        for name in names[1:]:
            path, _, leaf = name.rpartition(".")
            own = nn.Parameter(base.get_parameter(name).detach().clone())
            setattr(base.get_submodule(path), leaf, own)
    base.config.get_text_config().tie_word_embeddings = base.config.tie_word_embeddings = False


def without_adapters(model: Any) -> PreTrainedModel:
    """The transformers model that peft wraps, its adapters still inside; `model` itself if it is not wrapped."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    assert isinstance(base, PreTrainedModel)
    return base


def _peft() -> Any:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it; it warns about kernels not used here
    return require("peft", "LoRA", "optim.method")


@contextmanager
def _quiet() -> Iterator[None]:
    """A context without what peft's imports say of what plays no part here: 4-bit inference, a renamed attribute."""
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`")  # `merged` parts them
            yield
    finally:
        logger.setLevel(level)


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Give adapters the type of the weights, which peft does everywhere but on meta."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def _patterns(values: dict[str, T]) -> dict[str, T]:
    return {re.escape(name): value for name, value in values.items()}  # peft reads the keys as regular expressions


def _modules_in_full(model: nn.Module, names: Sequence[str], adapted: Iterable[str]) -> list[nn.Module]:
    """The modules whose path ends in one of `names`."""
    modules = {path: module for path, module in model.named_modules() if path}
    chosen: dict[str, nn.Module] = {}
    for name in names:
        found = {path: module for path, module in modules.items() if f".{path}".endswith(f".{name}")}
        if not found:
            _refuse_unknown(name, modules)
        chosen |= found
    for path in chosen:
        if clash := [target for target in adapted if f"{target}.".startswith(f"{path}.")]:
            raise UserError(
                f"{clash[0]} would be adapted and trained in full",
                where="optim.train_modules",
                fix="name it in optim.target_modules or in optim.train_modules, not in both",
            )
    return list(chosen.values())


def _refuse_unknown(name: str, modules: Iterable[str]) -> None:
    parts = sorted({part for path in modules for part in path.split(".") if not part.isdigit()})
    near = difflib.get_close_matches(name, parts, n=3, cutoff=0.3) or parts
    raise UserError(f"{name!r} is no module; the model has: {', '.join(near)}", where="optim.train_modules")


def class_name(model: nn.Module) -> str:
    """What its class is called; FSDP2 puts its own name before that of a model it shards."""
    return type(model).__name__.removeprefix("FSDP")


def stored_config(model: nn.Module) -> PreTrainedConfig:
    """The configuration of what is beneath the adapters, as a run keeps it."""
    base: Any = without_adapters(model)
    config: PreTrainedConfig = copy.deepcopy(base.config)
    config.architectures = [class_name(base)]
    if base.can_generate():
        config.use_cache = True
    return config
