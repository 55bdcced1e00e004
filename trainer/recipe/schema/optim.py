"""A recipe's `optim` section: how weights move, by subspace, transport, inner rule, residual and precision."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from galore.kernels.contradiction import contradiction, lacks_momentum
from galore.kernels.family import (
    LARGEST,
    SMALLEST,
    InnerRule,
    Options,
    RefreshMode,
    Transport,
    refresh_of,
    scale_of,
    transport_of,
)
from galore.trainer.recipe.schema.section import (
    FloatType,
    Fraction,
    Multiple,
    NonNegative,
    Positive,
    Section,
    Share,
    Steps,
    StepsOrNone,
    Width,
    execution,
    with_options,
)

Method = Literal["galore", "lora", "full"]
ScheduleName = Literal[
    "cosine",
    "linear",
    "constant",
    "constant_with_warmup",
    "warmup_stable_decay",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
]
DecayType = Literal["cosine", "linear", "1-sqrt"]
RATES = ("learning_rate", "head_learning_rate", "embedding_learning_rate")


class _Targets(Section):
    """What is trained, at which rates, and which matrices in a subspace."""

    method: Method = Field(
        "galore", description="galore: low-rank gradient projection; lora: adapters through peft; full: full-rank AdamW"
    )
    learning_rate: Positive = Field(0.01, description="Peak learning rate, per optimizer step")
    head_learning_rate: Positive | Multiple | None = Field(
        None,
        description="Peak learning rate of the output head, of a language model or a classifier, or a multiple of `learning_rate` such as 0.5x; null is the same",
    )
    head_inner: InnerRule | None = Field(
        None,
        description="galore, full: rule of the update of a language model's output head, one of those of `inner`, such as soap; null is adamw, and scale-momentum with scale",
    )
    embedding_learning_rate: Positive | Multiple | None = Field(
        None,
        description="Peak learning rate of all embedding tables, or a multiple of `learning_rate` such as 5x; null is the same. Tied to the head they are one matrix, which either key sets",
    )
    lr_scheduler_type: ScheduleName = Field(
        "cosine", description="Shape of the schedule after warm-up, as transformers calls it (docs/runs.md)"
    )
    warmup_steps: StepsOrNone | None = Field(
        None, description="Linear warm-up, optimizer steps; null uses `warmup_ratio`"
    )
    warmup_ratio: Fraction = Field(0.1, description="Warm-up as a share of all optimizer steps")
    min_lr_ratio: Fraction = Field(
        0.1, description="Final learning rate as a share of the peak; not for constant and inverse_sqrt"
    )
    lr_decay_steps: Steps | None = Field(
        None, description="warmup_stable_decay: optimizer steps of the decay at the end; null uses `lr_decay_ratio`"
    )
    lr_decay_ratio: Fraction = Field(
        0.1, description="warmup_stable_decay: the decay as a share of all optimizer steps"
    )
    lr_decay_type: DecayType | None = Field(
        None, description="warmup_stable_decay: how the rate falls at the end; null is cosine"
    )
    lr_num_cycles: Steps | None = Field(None, description="cosine_with_restarts: cycles after warm-up; null is 1")
    lr_power: Positive | None = Field(None, description="polynomial: power of what is left of the run; null is 1")
    weight_decay: NonNegative = Field(0.0, description="Decoupled weight decay; norms and biases are never decayed")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the first moment")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="Decay of the second moment")
    adam_epsilon: Positive = Field(1e-8, description="Added to the square root of the second moment")
    max_grad_norm: Positive | None = Field(
        1.0, description="Global norm of what is applied is clipped to this; null never clips"
    )
    rank: Width | Share = Field(
        128,
        description="Rank r of the projection (galore) or of the adapters (lora), clamped to min(m, n); galore: or a share of min(m, n), below 1",
    )
    rank_pattern: dict[str, Width | Share] = Field(
        {},
        description="galore: other ranks of some target matrices, by parts of their path: {mlp: 0.125}; the last match counts",
    )
    target_modules: tuple[str, ...] = Field(
        ("self_attn", "mlp"),
        description="Layers to project or adapt: parts of their module path; each must match (galore: convolutions and embeddings too)",
    )


if TYPE_CHECKING:

    class _Composition(_Targets, Options):
        """The options of the family, as they are declared there."""
else:
    _Composition = with_options(_Targets, Options)


class OptimSection(_Composition):
    """How weights move. `galore` trains all weights; `lora` trains adapters or factors; `full` is the AdamW control."""

    projection: Literal["backward", "hook"] = execution(
        "backward",
        "Where gradients are projected: from their factors inside the linear layers' backward, where that saves work, or in a hook",
    )
    accumulator_dtype: FloatType = Field("float32", description="Storage of gradient sums over micro-batches")
    weight_dtype: Literal["int8"] | None = Field(
        None,
        description="galore: how target matrices are stored; null as model.dtype says; int8: 8-bit codes and a scale per group of a row, updates rounded stochastically",
    )
    adapter: Literal["lora", "relora", "factors"] | None = Field(
        None,
        description="lora: what is trained; null is lora; relora: adapters merged and restarted; factors: W = B·A with no W (docs/optimizer.md)",
    )
    relora_gap: Steps | None = Field(
        None, description="relora: optimizer steps between two restarts; null is a quarter of the run"
    )
    relora_warmup_steps: StepsOrNone | None = Field(
        None, description="relora: linear warm-up after a restart, optimizer steps; null is a tenth of the gap"
    )
    lora_alpha: Positive = Field(32.0, description="lora: adapters are scaled by lora_alpha / rank")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="lora: dropout before the adapter")
    train_modules: tuple[str, ...] = Field(
        (), description="lora: modules trained in full beside the adapters, such as embed_tokens, lm_head, norm"
    )

    @property
    def peak_rates(self) -> dict[str, float]:
        """Peak learning rates by key: `learning_rate`, and those that some parameters have in its place."""
        return {name: self._rate(given) for name in RATES if (given := getattr(self, name)) is not None}

    def _rate(self, given: float | str) -> float:
        if not isinstance(given, str):
            return given
        # in decimals, so that a multiple is the number that somebody would write
        return float(Decimal(repr(self.learning_rate)) * Decimal(given.removesuffix("x")))

    @property
    def effective_scale(self) -> float:
        return scale_of(self, self.method == "galore")

    @property
    def effective_refresh(self) -> RefreshMode:
        return refresh_of(self)

    @property
    def effective_transport(self) -> Transport:
        return transport_of(self)

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        check_optimizer(self)
        return self


def check_optimizer(optim: OptimSection) -> None:
    """Raise ValueError for the first contradiction."""
    _check_rates(optim)
    _check_schedule(optim)
    rules = [optim.inner, *([optim.head_inner] if optim.head_inner is not None else [])]
    if said := contradiction(optim, optim.method == "galore", _written) or lacks_momentum(
        optim.state_dtype, rules, _written
    ):
        raise ValueError(said)
    if optim.head_inner is not None:
        _check_head(optim, optim.head_inner)
    if optim.method == "galore":
        _check_subspace(optim)
    else:
        _check_without_subspace(optim)
    if optim.residual != "none" and optim.method != "galore":
        raise ValueError(f"residual: {optim.residual} exists for method: galore only")
    if optim.update == "immediate" and optim.method != "galore":
        raise ValueError("update: immediate exists for method: galore only")
    _check_adapter(optim)


OF_SCHEDULE: dict[str, ScheduleName] = {
    "lr_decay_steps": "warmup_stable_decay",
    "lr_decay_type": "warmup_stable_decay",
    "lr_num_cycles": "cosine_with_restarts",
    "lr_power": "polynomial",
}


def _check_rates(optim: OptimSection) -> None:
    for name, rate in optim.peak_rates.items():
        if not SMALLEST <= rate <= LARGEST:
            raise ValueError(f"{name}: {getattr(optim, name)} is {rate:g} at learning_rate: {optim.learning_rate:g}")


def _check_schedule(optim: OptimSection) -> None:
    for name, schedule in OF_SCHEDULE.items():
        if getattr(optim, name) is not None and optim.lr_scheduler_type != schedule:
            raise ValueError(f"{name} is of another schedule: set lr_scheduler_type: {schedule}, or leave it out")


def _written(name: str, value: object) -> str:
    """An option and its value as a recipe has them."""
    return f"{name}: {json.dumps(value) if isinstance(value, bool | None) else value}"


def _written_of_head(name: str, value: object) -> str:
    return _written("head_inner" if name == "inner" else name, value)


def _check_head(optim: OptimSection, rule: InnerRule) -> None:
    if optim.method == "lora":
        raise ValueError(f"head_inner: {rule} is not for method: lora: adapters take adamw")
    if said := contradiction(optim.model_copy(update={"inner": rule}), False, _written_of_head):
        raise ValueError(said)


def _check_subspace(optim: OptimSection) -> None:
    if optim.weight_dtype == "int8" and optim.weight_rounding == "compensated":
        raise ValueError(
            "weight_rounding: compensated is for bfloat16 weights: with weight_dtype: int8 write stochastic"
        )


def _check_without_subspace(optim: OptimSection) -> None:
    if optim.inner != "adamw" and optim.method == "lora":
        raise ValueError(f"inner: {optim.inner} is not for method: lora: adapters take adamw")
    if optim.weight_dtype is not None:
        raise ValueError(
            "weight_dtype: int8 is trained through projected gradients: write weight_dtype: null, or method: galore"
        )
    if optim.method == "lora" and optim.rank < 1:
        raise ValueError("rank as a share of min(m, n) is for method: galore; adapters take a whole number")


def _check_adapter(optim: OptimSection) -> None:
    if optim.adapter is not None and optim.method != "lora":
        raise ValueError(f"adapter: {optim.adapter} exists for method: lora only")
    gap, warmup = optim.relora_gap, optim.relora_warmup_steps
    if optim.adapter != "relora" and (gap is not None or warmup is not None):
        name = "relora_warmup_steps" if gap is None else "relora_gap"
        raise ValueError(f"{name} says when adapters restart: set method: lora and adapter: relora, or leave it out")
    if gap is not None and warmup is not None and warmup >= gap:
        raise ValueError(
            f"relora_warmup_steps: {warmup} would end after the next restart: set it below relora_gap: {gap}"
        )
    if optim.adapter == "factors" and optim.lora_dropout > 0:
        raise ValueError("lora_dropout is of adapters: set it to 0 with adapter: factors")
