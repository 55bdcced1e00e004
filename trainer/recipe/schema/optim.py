"""A recipe's `optim` section: how weights move, as a composition of subspace, transport, inner rule, residual and precision."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from galore.trainer.recipe.schema.section import (
    Fraction,
    NonNegative,
    Positive,
    Section,
    Share,
    Steps,
    StepsOrNone,
    Width,
    execution,
)

RefreshMode = Literal["delayed", "two-pass", "summed", "first-micro-batch"]


class OptimSection(Section):
    """How weights move. `galore` trains all weights; `lora` trains adapters or factors; `full` is the AdamW control."""

    method: Literal["galore", "lora", "full"] = Field(
        "galore", description="galore: low-rank gradient projection; lora: adapters through peft; full: full-rank AdamW"
    )
    learning_rate: Positive = Field(0.01, description="Peak learning rate, per optimizer step")
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="Shape of the schedule after warm-up"
    )
    warmup_steps: StepsOrNone | None = Field(
        None, description="Linear warm-up, optimizer steps; null uses `warmup_ratio`"
    )
    warmup_ratio: Fraction = Field(0.1, description="Warm-up as a share of all optimizer steps")
    min_lr_ratio: Fraction = Field(0.1, description="Final learning rate as a share of the peak (cosine, linear)")
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
    scale: Positive | None = Field(
        None,
        description="α: factor on the update of the target matrices; null is 0.25 for galore and fira, 1 for the others",
    )
    update_proj_gap: Steps = Field(200, description="T: optimizer steps between two refreshes of one layer's subspace")
    proj_type: Literal["svd", "randomized", "power", "dct", "random"] = Field(
        "randomized",
        description="How the subspace is found: full SVD, randomized range finder, one warm power step, columns of a DCT, or drawn from the seed and never stored",
    )
    side: Literal["auto", "left", "right"] = Field(
        "auto", description="Which side of a weight (m, n) is projected: left is m, right is n, auto the smaller one"
    )
    refresh_overlap: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Lazy refresh: a layer whose subspace kept this share of itself waits twice as long for its next refresh; null never waits",
    )
    inner: Literal["adamw", "adafactor", "muon", "sumo"] = Field(
        "adamw",
        description="Rule of the update (docs/optimizer.md): AdamW, Adafactor, orthogonalised momentum by Newton-Schulz (muon) or exactly (sumo)",
    )
    momentum: float = Field(0.95, ge=0, lt=1, description="muon, sumo: decay of the momentum")
    transport: Literal["keep", "reset", "rotate"] | None = Field(
        None,
        description="What the moments do when a layer's subspace changes: keep (GaLore's paper), start at 0, or rotate into the new one; null rotates, and keeps with a random subspace or convention: reference",
    )
    residual: Literal["none", "fira", "apollo", "apollo-mini", "frugal"] = Field(
        "none",
        description="What is added from outside the subspace (docs/optimizer.md); all but none keep the whole gradient until the step",
    )
    projector_dtype: Literal["float32", "bfloat16", "int8", "int4"] | None = Field(
        None, description="How the projectors are kept; null is the type of the weights, int4 is Q-GaLore's"
    )
    refresh: RefreshMode | None = Field(
        None,
        description="Which gradient a refresh sees (docs/optimizer.md); null is delayed, and summed for svd and with a residual",
    )
    stagger: bool = Field(
        True,
        description="Spread the refreshes of the layers over the gap; false refreshes all in one step, as the official code does",
    )
    update: Literal["accumulate", "immediate"] = Field(
        "accumulate",
        description="accumulate: step after the backward; immediate: inside the hook, no accumulation and no clipping",
    )
    projection: Literal["backward", "hook"] = execution(
        "backward",
        "Where gradients are projected: from their factors inside the linear layers' backward, where that saves work, or in a hook",
    )
    convention: Literal["paper", "reference"] = Field(
        "paper",
        description="reference: arithmetic order of the official code (epsilon before bias correction, decay after the update, synchronous refresh)",
    )
    state_dtype: Literal["float32", "8bit", "fp8"] = Field(
        "float32",
        description="Storage of Adam's moments; 8bit is the blockwise dynamic format of bitsandbytes, fp8 e4m3 with the same blocks",
    )
    accumulator_dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Storage of gradient sums over micro-batches"
    )
    weight_dtype: Literal["int8"] | None = Field(
        None,
        description="galore: how target matrices are stored; null as model.dtype says; int8: 8-bit codes and a scale per group of a row, updates rounded stochastically",
    )
    weight_rounding: Literal["stochastic", "nearest", "compensated"] = Field(
        "stochastic",
        description="How bfloat16 weights take an fp32 update: rounded, or exactly, the rest kept in 16 more bits; float32 ones need none",
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
    def effective_scale(self) -> float:
        if self.scale is not None:
            return self.scale
        return 0.25 if self.method == "galore" and self.residual in ("none", "fira") else 1.0

    @property
    def effective_refresh(self) -> RefreshMode:
        within = self.proj_type in SKETCHABLE and self.residual == "none"
        return self.refresh or ("delayed" if within else "summed")

    @property
    def effective_transport(self) -> Literal["keep", "reset", "rotate"]:
        found = self.proj_type != "random" and self.convention == "paper"
        return self.transport or ("rotate" if found else "keep")

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        check_optimizer(self)
        return self


ON_SKETCHES = ("delayed", "two-pass")
SKETCHABLE = ("randomized", "power", "dct")  # kinds of subspace that a linear sketch is enough for


def check_optimizer(optim: OptimSection) -> None:
    """Raise ValueError for the first contradiction."""
    if optim.proj_type not in SKETCHABLE and optim.effective_refresh in ON_SKETCHES:
        raise ValueError(
            f"refresh: {optim.refresh} works on a linear sketch and needs proj_type: {', '.join(SKETCHABLE)}; with {optim.proj_type} choose summed or first-micro-batch"
        )
    if optim.refresh == "two-pass" and optim.stagger:
        raise ValueError(
            "refresh: two-pass repeats the micro-batches of a refresh step; with stagger: true nearly every step is one; set stagger: false, or refresh: delayed"
        )
    if optim.method == "galore":
        _check_subspace(optim)
    else:
        _check_without_subspace(optim)
    as_published = not optim.stagger and optim.proj_type in ("svd", "random")
    if optim.convention == "reference" and optim.method == "galore" and not as_published:
        raise ValueError("convention: reference means stagger: false and proj_type: svd (or random)")
    if optim.residual != "none":
        _check_residual(optim)
    if optim.update == "immediate":
        _check_immediate(optim)
    _check_adapter(optim)


def _check_subspace(optim: OptimSection) -> None:
    if optim.transport == "rotate" and optim.proj_type == "random":
        raise ValueError(
            "transport: rotate goes from one orthonormal basis to the next; with proj_type: random write keep or reset"
        )
    if optim.weight_dtype == "int8" and optim.weight_rounding == "compensated":
        raise ValueError(
            "weight_rounding: compensated is for bfloat16 weights: with weight_dtype: int8 write stochastic"
        )
    if optim.refresh_overlap is not None and optim.proj_type == "random":
        raise ValueError("refresh_overlap compares bases that are found; with proj_type: random leave it out")
    if optim.inner != "adamw" and optim.convention == "reference":
        raise ValueError("convention: reference is that of the official AdamW: write inner: adamw")


def _check_without_subspace(optim: OptimSection) -> None:
    if optim.inner == "sumo" or (optim.inner != "adamw" and optim.method == "lora"):
        raise ValueError(
            f"inner: {optim.inner} is not for method: {optim.method}; sumo works in a subspace, adapters take adamw"
        )
    if optim.weight_dtype is not None:
        raise ValueError(
            "weight_dtype: int8 is trained through projected gradients: write weight_dtype: null, or method: galore"
        )
    if optim.method == "lora" and optim.rank < 1:
        raise ValueError("rank as a share of min(m, n) is for method: galore; adapters take a whole number")


def _check_residual(optim: OptimSection) -> None:
    if optim.method != "galore":
        raise ValueError(f"residual: {optim.residual} exists for method: galore only")
    if optim.update == "accumulate" and optim.refresh not in (None, "summed"):
        raise ValueError(
            f"residual: {optim.residual} keeps the whole summed gradient, and a refresh sees that: leave out refresh"
        )


def _check_immediate(optim: OptimSection) -> None:
    if optim.method != "galore":
        raise ValueError("update: immediate exists for method: galore only")
    if optim.max_grad_norm is not None:
        raise ValueError(
            "update: immediate steps before all gradients exist, so it cannot clip: set max_grad_norm: null, or update: accumulate (costs one r×n accumulator per layer)"
        )
    if optim.effective_refresh != "first-micro-batch":
        raise ValueError(
            "update: immediate refreshes inside the hook: set refresh: first-micro-batch, or update: accumulate"
        )


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
