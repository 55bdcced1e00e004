"""A recipe's `train`, `eval` and `log` sections: how long, how large, where; what is scored, what is written."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, StrictBool, model_validator

from galore.trainer.recipe.schema.rope import RopeSection
from galore.trainer.recipe.schema.section import (
    Blocks,
    Checkpoints,
    Epochs,
    Layers,
    Length,
    NonNegative,
    PathPart,
    Rows,
    Section,
    Seed,
    Snapshots,
    Steps,
    StepsOrNone,
    Threads,
    Tokens,
    execution,
)

LARGEST_SUGGESTION = 4096
MOST_PROFILED = 20
STEP_RANGE = "[0-9]{1,12}(-[0-9]{1,12})?"
Matmul = Literal["bf16", "int8", "fp8", "auto"]
EvalMode = Literal["token", "paper"]
Tracker = Literal["wandb", "tensorboard", "trackio", "mlflow"]  # by the module that each needs


def _largest_divisor(number: int, limit: int) -> int:
    """The largest one that does not exceed `limit`, or what anybody would write."""
    return max(each for each in range(1, min(limit, LARGEST_SUGGESTION) + 1) if number % each == 0)


class LengthStage(Section):
    """Optimizer steps in which every training sequence is cut into shorter ones, so that a step has as many tokens."""

    max_length: Length = Field(description="Tokens of a sequence in this stage; a divisor of data.max_length")
    steps: Steps = Field(description="Optimizer steps of this stage")
    rope: RopeSection | None = Field(
        None, description="Rotary positions of this stage; null is model.rope, its factor made that of this length"
    )


class PositionSkips(Section):
    """Training rows in chunks that stand further and further on, so that short rows teach long distances."""

    target_length: Length = Field(description="Positions that a row is spread over; more than data.max_length")
    chunks: Annotated[int, Field(ge=2, le=2**16)] = Field(
        2, description="Parts of a row, each of neighbours; data.max_length makes every token its own"
    )


class TrainSection(Section):
    """How long, how large, and where."""

    seed: Seed = Field(42, description="Seed of weights, data order, subspaces and rounding")
    max_steps: Steps | None = Field(None, description="Optimizer steps; null uses num_train_epochs")
    num_train_epochs: Epochs | None = Field(
        None, description="Passes over the training data; ignored when max_steps is set"
    )
    global_batch_size: Rows = Field(512, description="Sequences per optimizer step")
    length_stages: Annotated[list[LengthStage], Field(max_length=64)] = Field(
        [],
        description="Stages of shorter sequences before those of data.max_length: a list of {max_length, steps, rope}",
    )
    position_skips: PositionSkips | None = Field(
        None,
        description="Positions of training rows skip ahead at random places up to a greater length, at the cost of the short one (docs/long-context.md): {target_length, chunks}",
    )
    z_loss: NonNegative = Field(
        0.0,
        description="Coefficient on the mean squared logsumexp of the logits, added to what is optimized and reported apart; 1e-4 is common",
    )
    loss_weights: dict[str, NonNegative] = Field(
        {},
        description="What a target counts in the loss by its modality, text or one of model.new_tokens; those that are left out count 1",
    )
    matmul: Matmul = Field(
        "bf16",
        description="Products of the blocks' linear layers, forward and input gradient: bf16 is the model's own dtype, int8 and fp8 are 8 bits, auto takes int8 where it is faster",
    )
    micro_batch_size: Rows = execution(
        16, "Sequences per forward/backward; accumulation is global_batch_size / micro_batch_size"
    )
    gradient_checkpointing: bool | Layers = execution(
        False,
        "Recompute blocks in the backward instead of keeping their activations: true is every block, a number the first so many",
    )
    offload_activations: bool = execution(
        False,
        "CUDA: what recomputed blocks keep, their inputs, waits in host memory and comes back in time; needs gradient_checkpointing",
    )
    stream_weights: StrictBool | Blocks = execution(
        False,
        "The decoder's blocks wait in host memory, two at a time on the device, fetched ahead (docs/streaming.md): true, or how many at a time",
    )
    tile_tokens: Length | Literal["auto"] | None = execution(
        None,
        "Feed-forward networks and norms in tiles of so many tokens, forward and backward (docs/long-context.md): auto is an eighth of a micro-batch",
    )
    fused: StrictBool | Literal["auto"] = execution(
        False,
        "RMSNorm, SwiGLU and rotary positions in one pass each way, rounded once: true; auto is on CUDA, in models that are known",
    )
    compile: StrictBool = execution(
        False,
        "torch.compile fuses what lies between the blocks' products, in any architecture; takes a while in the first step (docs/fused.md)",
    )
    device: Literal["auto", "cpu", "cuda"] = execution("auto", "auto takes CUDA when there is one, and says so")
    expandable_segments: bool = execution(
        True,
        "CUDA: take memory in segments that grow, which wastes less; PYTORCH_ALLOC_CONF in the environment goes first",
    )
    deterministic: bool = execution(
        False,
        "CUDA: add in one order, so that the same run gives the same bits; a CPU always does. Attention's backward is slower",
    )
    num_threads: Threads | None = execution(None, "CPU threads; null leaves torch's choice")
    save_steps: Steps | None = execution(1000, "Optimizer steps between checkpoints; null saves only at the end")
    save_total_limit: Checkpoints = execution(2, "Newest checkpoints kept; never less than two")
    save_best: bool = execution(
        False, "Keep the checkpoint of the lowest held-out loss, too: galore eval RUN --checkpoint best"
    )
    snapshot_parameters: tuple[PathPart, ...] = execution(
        (),
        "Parts of names of parameters, such as norm, whose values are kept apart in snapshots/ every snapshot_steps; none keeps nothing",
    )
    snapshot_steps: Steps = execution(1, "Optimizer steps between snapshots of snapshot_parameters")
    snapshot_total_limit: Snapshots = execution(300, "Newest snapshots kept")
    early_stopping_patience: Steps | None = execution(
        None, "Evaluations in a row without a new lowest held-out loss after which the run ends; null never"
    )
    max_skipped_steps: StepsOrNone = execution(
        10, "Consecutive non-finite steps that are skipped before the run gives up"
    )

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        if self.global_batch_size % self.micro_batch_size:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}: "
                f"write micro_batch_size: {_largest_divisor(self.global_batch_size, self.micro_batch_size)}"
            )
        if self.max_steps is None and self.num_train_epochs is None:
            raise ValueError("set max_steps or num_train_epochs")
        if self.offload_activations and not self.gradient_checkpointing:
            raise ValueError(
                "offload_activations moves the inputs of recomputed blocks: set gradient_checkpointing: true, or a number of blocks"
            )
        return self

    @property
    def accumulation(self) -> int:
        return self.global_batch_size // self.micro_batch_size


class EvalSection(Section):
    """How the held-out text is scored."""

    eval_steps: Steps | None = execution(1000, "Optimizer steps between evaluations; null evaluates only at the end")
    eval_epochs: Steps | None = execution(
        None, "Passes over the training data between evaluations, instead of eval_steps; not for a stream"
    )
    at_start: bool | None = execution(
        None, "Score before the first step too; null does so where a pretrained language model is tuned"
    )
    mode: EvalMode = Field(
        "token",
        description="token: mean over held-out tokens; paper: mean of batch means divided by n + 1 batches, as published",
    )
    max_tokens: Tokens | None = execution(10_000_000, "Held-out tokens scored per evaluation; null scores all of them")
    micro_batch_size: Rows | None = execution(None, "Sequences per forward; null is train.micro_batch_size")
    sample_prompt: str | None = execution(
        None, "Text continued, or instruction answered, at every evaluation; null samples nothing"
    )
    sample_tokens: Length = execution(60, "Length of the sample, in tokens")


class LogSection(Section):
    """What is written while the run goes on. metrics.jsonl is always written."""

    logging_steps: Steps = execution(10, "Optimizer steps between printed lines; metrics.jsonl has every step")
    report_to: Literal["none"] | Tracker | tuple[Tracker, ...] = execution(
        "none", "Trackers that the metrics are sent to as well: one, or a list of them"
    )
    wandb_project: str | None = execution(
        None, "Project at Weights & Biases and trackio, experiment of MLflow; null takes WANDB_PROJECT, or galore"
    )
    wandb_mode: Literal["online", "offline"] | None = execution(
        None, "offline writes a local run that `wandb sync` sends later; null takes WANDB_MODE, or offline"
    )
    run_name: str | None = execution(None, "Name of the run; null is the name of the output directory")
    profile_steps: str | tuple[Steps, ...] | Steps | None = execution(
        None,
        f"Steps that torch's profiler traces into profile/, from 1, with a table of where their time went: 20-22, or [20, 22]; {MOST_PROFILED} at most",
    )

    @model_validator(mode="after")
    def _few_are_profiled(self) -> Self:
        if self.profile_steps is not None and not 1 <= len(self.profiled) <= MOST_PROFILED:
            given = (
                "-".join(map(str, self.profile_steps)) if isinstance(self.profile_steps, tuple) else self.profile_steps
            )
            raise ValueError(
                f"profile_steps {given} is no range of 1 to {MOST_PROFILED} steps: write 20-22, or [20, 22]"
            )
        return self

    @property
    def profiled(self) -> range:
        """The steps of `profile_steps`; none where it is no range of them."""
        asked = self.profile_steps
        if isinstance(asked, str):
            # what is given on the command line stays text: a single step is a range, too
            first, _, last = asked.partition("-")
            ends: tuple[int, ...] = (int(first), int(last or first)) if re.fullmatch(STEP_RANGE, asked) else ()
        else:
            ends = asked if isinstance(asked, tuple) else (asked or 0,) * 2
        return range(ends[0], ends[1] + 1) if len(ends) == 2 and ends[0] else range(0)

    @property
    def trackers(self) -> tuple[str, ...]:
        """The trackers of `report_to`, each once."""
        named = (self.report_to,) if isinstance(self.report_to, str) else self.report_to
        return tuple(name for name in dict.fromkeys(named) if name != "none")
