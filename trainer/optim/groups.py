"""Parameter groups, strictly: every pattern matches, every trainable parameter is in exactly one group."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from galore.kernels.family import InnerRule
from galore.trainer.optim.settings import PER_GROUP

GROUP_OPTIONS = set(PER_GROUP) - {"weight_decay"}
NamedParameter = tuple[str, nn.Parameter]
Chooses = Callable[[str, nn.Module], bool]
TARGETS = ("self_attn", "mlp")
UNDECAYED = ("A_log", "time_mix_")  # how rates are called that Mamba and RWKV keep as more than a vector
SHOWN = 20  # names in a message, where layers have numbers only


Rank = int | float


def target_modules(model: nn.Module, patterns: Sequence[str], kinds: type[nn.Module] = nn.Module) -> dict[str, Any]:
    """Modules with a weight of two or more dimensions (linear, convolution, embedding) whose dotted path contains one
    of `patterns` as consecutive components.

    Raises:
        ValueError: a pattern matches no such module of `kinds`; names the nearest path components.
    """
    found = {
        name: module for name, module in model.named_modules() if isinstance(module, kinds) and _has_matrix(module)
    }
    noun = "linear layer" if kinds is nn.Linear else "weight matrix"
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in found):
            parts = sorted({part for name in found for part in name.split(".")[-2:] if not part.isdigit()})
            near = difflib.get_close_matches(pattern, parts, n=1, cutoff=0.5)
            nearest = f"did you mean {near[0]}? " if near else ""
            known = ", ".join(parts or sorted(found)[:SHOWN]) or "none"
            raise ValueError(f"{pattern!r} matches no {noun}; {nearest}the model has: {known}")
    return {name: module for name, module in found.items() if is_under(name, patterns)}


def shared_weights(model: nn.Module) -> dict[int, list[str]]:
    """{id of a parameter: paths of its modules}, of parameters that two or more modules of `model` have."""
    owners: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for parameter in set(module.parameters(recurse=False)):
            owners.setdefault(id(parameter), []).append(path)
    return {parameter: paths for parameter, paths in owners.items() if len(paths) > 1}


def large_matrices(least: int = 32, without: Sequence[str] = ()) -> Chooses:
    """Targets for networks that are no language models: which weights are worth a subspace, by shape alone.

    Linear layers, and convolutions (transposed ones, too) whose kernel as a matrix (outputs, inputs × kernel) has both
    sides of `least` or more. Depthwise and grouped convolutions are left alone, as every group is a small matrix of its
    own; and so are embeddings, whose rows are looked up.

    Args:
        least: of the smaller side.
        without: parts of module paths that are left alone all the same, such as a time embedding.
    """
    kinds = (nn.Linear, nn.modules.conv._ConvNd)

    def chooses(name: str, module: nn.Module) -> bool:
        if not isinstance(module, kinds) or getattr(module, "groups", 1) > 1 or is_under(name, without):
            return False
        return min(module.weight.flatten(1).shape) >= least

    return chooses


def rank_for(rank: Rank, shape: Sequence[int]) -> int:
    """r for a matrix (m, n): the number itself, or a fraction below 1 of min(m, n), at least 1."""
    return max(1, round(rank * min(shape))) if rank < 1 else int(rank)


def is_trained(parameter: nn.Parameter) -> bool:
    """Whether an optimizer has to take it: it needs a gradient, or holds codes, whose layer hands over factors."""
    return parameter.requires_grad or parameter.dtype == torch.int8


def is_under(name: str, patterns: Iterable[str]) -> bool:
    """Whether the dotted path `name` contains one of `patterns` as consecutive components."""
    return any(_matches(name, pattern) for pattern in patterns)


def _has_matrix(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and weight.ndim >= 2


def _matches(name: str, pattern: str) -> bool:
    return f".{pattern}." in f".{name}."


def adamw_groups(named: Iterable[NamedParameter], weight_decay: float | None, **options: Any) -> list[dict[str, Any]]:
    """Two groups: matrices with `weight_decay`, None leaves it to the optimizer's keyword; vectors (norms, biases) and
    decay rates without; both with the `options`."""
    matrices: list[NamedParameter] = []
    vectors: list[NamedParameter] = []
    for name, parameter in named:
        (matrices if _is_decayed(name, parameter) else vectors).append((name, parameter))
    groups = [
        {"params": matrices, **_decayed(weight_decay), **options},
        {"params": vectors, "weight_decay": 0.0, **options},
    ]
    return [group for group in groups if group["params"]]


def galore_groups(
    model: nn.Module,
    rank: Rank | None,
    *,
    targets: Sequence[str] | Chooses | None = None,
    rank_pattern: Mapping[str, Rank] | None = None,
    weight_decay: float | None = None,
    head_inner: InnerRule | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Groups for `GaLoreAdamW`: the weights of the target modules by rank, and the full-rank rest.

    Args:
        rank: subspace dimension r of the target weights, or a fraction of min(m, n) below 1; None keeps them full-rank,
            with the same `options`.
        targets: parts of module paths, `("self_attn", "mlp")` if left out; see the function `target_modules`. Its name,
            which recipes have for them, is taken as a keyword, too. Convolutions and embeddings count. Or a function of
            path and module that chooses, such as `large_matrices()`.
        rank_pattern: other ranks for targets whose path contains a key; of several the last one that matches.
        weight_decay: of matrices, None leaves it to the optimizer's keyword; vectors (norms, biases) and decay rates of
            state-space models have none.
        head_inner: rule of the matrix that makes logits; None is AdamW, and with `inner="scale"` its momentum.
        options: further settings of the target groups, such as `scale` or `update_proj_gap`. `inner="adafactor"` goes
            for the rest too, other inner rules are for the targets.

    Raises:
        ValueError: a pattern matches nothing, or no target weight is trainable. TypeError: an option is unknown.
    """
    as_in_recipes = options.pop("target_modules", None)
    unknown = set(options) - GROUP_OPTIONS
    if unknown:
        known = sorted(GROUP_OPTIONS | {"targets", "rank_pattern", "weight_decay"})
        raise TypeError(f"unknown group options {sorted(unknown)}; a group takes {known}")
    if targets is not None and as_in_recipes is not None:
        raise TypeError("target_modules is targets under its recipe's name: give one")
    targets = targets or as_in_recipes or TARGETS
    if isinstance(targets, str):
        raise TypeError(f"targets is a sequence of parts of module paths: write ({targets!r},)")
    modules = _chosen(model, targets)
    under = "" if callable(targets) else f" under {', '.join(targets)}"
    ranks: dict[int, Rank | None] = {id(module.weight): rank for module in modules.values()}
    for pattern, own in (rank_pattern or {}).items():
        chosen = [module for name, module in modules.items() if _matches(name, pattern)]
        if not chosen:
            raise ValueError(
                f"{pattern!r} of rank_pattern matches none of the {'modules' if under else 'chosen modules'}{under}"
            )
        ranks |= {id(module.weight): own for module in chosen}
    by_rank: dict[Rank | None, list[NamedParameter]] = {}
    rest: list[NamedParameter] = []
    for name, parameter in model.named_parameters():
        if is_trained(parameter):
            members = by_rank.setdefault(ranks[id(parameter)], []) if id(parameter) in ranks else rest
            members.append((name, parameter))
    if not by_rank:
        raise ValueError(f"no {'weight' if under else 'chosen weight'}{under} is trainable")
    shared = {**_decayed(weight_decay), **options}
    target = [
        {"params": members, **shared, **({} if own is None else {"rank": own})} for own, members in by_rank.items()
    ]
    head = _head(model, rest, head_inner, options.get("inner"))
    if head is not None:
        of_head = [each for each in rest if each[1] is head[0]]
        rest = [each for each in rest if each[1] is not head[0]]
        target += [{"params": of_head, **_decayed(weight_decay), "inner": head[1]}]
    return [*target, *adamw_groups(rest, weight_decay, **_for_the_rest(options))]


def named_apart(groups: Iterable[dict[str, Any]], names: Mapping[nn.Parameter, str]) -> list[dict[str, Any]]:
    """`groups`, and in one of its own, called so and with the same options, what `names` has of each."""
    found = []
    for group in groups:
        members: dict[str | None, list[NamedParameter]] = {}
        for name, parameter in group["params"]:
            members.setdefault(names.get(parameter), []).append((name, parameter))
        for called, own in members.items():
            found.append({**group, "params": own, **({} if called is None else {"name": called})})
    return found


def _is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Whether it is a matrix by what it does: experts stack their biases, decay rates may have a row per channel."""
    leaf = name.rpartition(".")[2]
    return parameter.ndim >= 2 and not leaf.endswith("bias") and not leaf.startswith(UNDECAYED)


def _chosen(model: nn.Module, targets: Sequence[str] | Chooses) -> dict[str, Any]:
    """{path: module} of the targets. Raises ValueError where there are none."""
    if not callable(targets):
        return target_modules(model, targets)
    found = {name: each for name, each in model.named_modules() if _has_matrix(each) and targets(name, each)}
    if not found:
        raise ValueError("targets chooses none of the model's weight matrices")
    return found


def _decayed(weight_decay: float | None) -> dict[str, float]:
    return {} if weight_decay is None else {"weight_decay": weight_decay}


def _head(
    model: nn.Module, rest: Sequence[NamedParameter], asked: InnerRule | None, inner: str | None
) -> tuple[nn.Parameter, str] | None:
    """The weight that makes logits, of those that are no targets, and its rule, where it has one of its own.

    Raises:
        ValueError: a rule is asked for, and there is no such weight.
    """
    ends = [getattr(model, f"get_{name}_embeddings", lambda: None)() for name in ("output", "input")]
    head, embedding = (getattr(end, "weight", None) for end in ends)
    found = next((each for _, each in rest if each is head), None)
    if asked is not None and found is None:
        raise ValueError(f"head_inner={asked!r} is for a head that makes logits and is no target, and none is trained")
    rule = asked or ("scale-momentum" if inner == "scale" and head is not embedding else None)
    return None if found is None or rule is None else (found, rule)


def _for_the_rest(options: Mapping[str, Any]) -> dict[str, Any]:
    """Rules of whole matrices are for those of hidden layers: embeddings, head and vectors take AdamW beside them."""
    inner = options.get("inner")
    return {} if inner is None else {"inner": "adafactor" if inner == "adafactor" else "adamw"}


def check_complete(model: nn.Module, groups: Iterable[dict[str, Any]]) -> None:
    """Raise ValueError unless every trainable parameter of `model` is in exactly one group."""
    grouped = Counter(id(parameter) for group in groups for parameter in _members(group))
    trainable = {id(p): name for name, p in model.named_parameters() if is_trained(p)}
    missing = [name for key, name in trainable.items() if key not in grouped]
    twice = [name for key, name in trainable.items() if grouped[key] > 1]
    problems = [f"no group updates {', '.join(missing)}"] if missing else []
    problems += [f"in two groups: {', '.join(twice)}"] if twice else []
    if problems:
        raise ValueError("; ".join(problems))


def _members(group: Mapping[str, Any]) -> list[Tensor]:
    """The parameters of a group, with or without names."""
    params = group["params"]
    given = [params] if isinstance(params, Tensor) else params
    return [each if isinstance(each, Tensor) else each[1] for each in given]
