"""GaLore inside transformers' Trainer, and whatever is made of it, such as TRL's SFTTrainer and DPOTrainer."""

from __future__ import annotations

import inspect
import math
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from galore.trainer.optim import GaLoreAdamW

SCALED = (
    "a GradScaler finds no gradients to unscale here: each is projected and freed in the backward; "
    "write bf16=True, which needs no scaler, or neither"
)
SHARDED = "GaLoreAdamW trains in one process: leave out FSDP and DeepSpeed"
GIVEN = "the optimizer is made here, out of galore={…}: leave out optimizers and optimizer_cls_and_kwargs"
TWO_PASS = "refresh='two-pass' wants each batch twice, which Trainer does not do: refresh='delayed' costs no pass"


class GaLoreTrainerMixin:
    """A Trainer that optimizes with GaLoreAdamW, clips the exact global norm and logs it.

        class GaLoreTrainer(GaLoreTrainerMixin, Trainer): ...

        GaLoreTrainer(model, arguments, train_dataset=rows, galore={"rank": 128, "update_proj_gap": 200}).train()

    Rates, weight decay and `max_grad_norm` are those of the TrainingArguments where `galore` has none of its own;
    `optim` of the arguments goes unread. Checkpoints are Trainer's own, and a run that goes on from one takes the steps
    it would have taken.
    """

    args: Any
    accelerator: Any
    model: Any
    optimizer: Any

    def __init__(self, *args: Any, galore: Mapping[str, Any], **keywords: Any) -> None:
        """Take `galore`, the rest as Trainer does.

        Args:
            galore: `rank`, a number or a share of the smaller side, and anything else that `galore_groups` (`targets`,
                `rank_pattern`, `head_inner`) and `GaLoreAdamW` take.
        """
        self.galore, self.galore_optimizer = dict(galore), None
        super().__init__(*args, **keywords)
        if self.optimizer is not None or getattr(self, "optimizer_cls_and_kwargs", None) is not None:
            raise ValueError(GIVEN)
        self._refuse()

    galore_optimizer: GaLoreAdamW | None

    def create_accelerator_and_postprocess(self) -> None:
        """Make the accelerator as Trainer does; its norm of gradients, whole and clipped, is the optimizer's."""
        super().create_accelerator_and_postprocess()  # type: ignore[misc]
        # a proxy: an accelerator that held its trainer would keep both, and the model, until a garbage collection
        trainer = weakref.proxy(self)
        self.accelerator.clip_grad_norm_ = lambda parameters, max_norm, norm_type=2: trainer._clip(max_norm)

    def create_optimizer(self, model: Any = None) -> Any:
        """Make the GaLoreAdamW of all trainable parameters; one that is there takes them again,
        and forgets what it accumulated.

        Raises:
            ValueError: an option cannot be meant, contradicts another, or a target matches nothing.
        """
        from galore.trainer.optim import GaLoreAdamW, check_complete, galore_groups
        from galore.trainer.optim.groups import GROUP_OPTIONS

        if self.galore_optimizer is not None and self.optimizer is not None:
            self.galore_optimizer.zero_grad()
            self.galore_optimizer.attach()
            return self.optimizer
        if self.galore_optimizer is not None:
            self.galore_optimizer.release()
        network, args = self.model if model is None else model, self.args
        options: dict[str, Any] = {"weight_decay": args.weight_decay, "rank": None, **self.galore}
        known = inspect.signature(galore_groups).parameters.keys() - {"model", "options"}
        own = {*known, "target_modules", *GROUP_OPTIONS} - {"lr", "betas", "eps"}
        groups = galore_groups(network, **{name: value for name, value in options.items() if name in own})
        check_complete(network, groups)
        settings = {
            "lr": args.learning_rate,
            "betas": (args.adam_beta1, args.adam_beta2),
            "eps": args.adam_epsilon,
            "max_grad_norm": None if args.max_grad_norm in (None, 0, math.inf) else args.max_grad_norm,
            "seed": args.seed,
            **{name: value for name, value in options.items() if name not in own},
        }
        if settings.get("update") == "immediate":
            settings["accumulation"] = args.gradient_accumulation_steps
        self.optimizer = self.galore_optimizer = GaLoreAdamW(groups, **settings)
        return self.optimizer

    def train(self, *args: Any, **keywords: Any) -> Any:
        """Train as Trainer does. Afterwards the weights are anyone's to train; the state waits for the next call."""
        try:
            return super().train(*args, **keywords)  # type: ignore[misc]
        finally:
            if self.galore_optimizer is not None:
                self.galore_optimizer.release()

    def _refuse(self) -> None:
        """Raise ValueError for what would train something else than it says."""
        state = self.accelerator
        if self.args.fp16 or state.mixed_precision == "fp16" or state.scaler is not None:
            raise ValueError(SCALED)
        if getattr(self, "is_deepspeed_enabled", False) or getattr(self, "is_fsdp_enabled", False):
            raise ValueError(SHARDED)
        if self.galore.get("rank") is None:
            raise ValueError('galore has no rank: write galore={"rank": 128, …}, or a share such as 0.25')
        if self.galore.get("refresh") == "two-pass":
            raise ValueError(TWO_PASS)

    def _clip(self, max_norm: float) -> float:
        """The norm of all that is accumulated; `step()` scales it to `max_norm`, or to what `galore` says instead."""
        assert self.galore_optimizer is not None
        limit = self.galore.get("max_grad_norm", max_norm)
        return self.galore_optimizer.clip_grad_norm_(math.inf if limit is None else limit)
