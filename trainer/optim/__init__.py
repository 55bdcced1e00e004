"""Low-rank optimizers for anyone's training loop: `GaLoreAdamW(galore_groups(model, rank=128), lr=1e-2)`."""

from galore.trainer.optim.factored import project_in_backward
from galore.trainer.optim.galore import GaLoreAdamW, StepReport
from galore.trainer.optim.groups import adamw_groups, check_complete, galore_groups, target_modules

__all__ = [
    "GaLoreAdamW",
    "StepReport",
    "adamw_groups",
    "check_complete",
    "galore_groups",
    "project_in_backward",
    "target_modules",
]
