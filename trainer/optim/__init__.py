"""Low-rank optimizers for anyone's training loop: `GaLoreAdamW(galore_groups(model, rank=128), lr=1e-2)`."""

from galore.trainer.optim.factored import hand_over_int8, kinds_with_own_forward, multiply_by, project_in_backward
from galore.trainer.optim.galore import GaLoreAdamW
from galore.trainer.optim.groups import adamw_groups, check_complete, galore_groups, large_matrices, target_modules
from galore.trainer.optim.int8_linear import to_int8
from galore.trainer.optim.report import StepReport

__all__ = [
    "GaLoreAdamW",
    "StepReport",
    "adamw_groups",
    "check_complete",
    "galore_groups",
    "hand_over_int8",
    "kinds_with_own_forward",
    "large_matrices",
    "multiply_by",
    "project_in_backward",
    "target_modules",
    "to_int8",
]
