"""What a recipe is: frozen, torch-free pydantic models. Every field carries its meaning and unit.

Fields marked `execution` decide how a run is carried out, not what it computes: they may change on `--resume`.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from galore.trainer.recipe.schema.glue_rules import check_glue
from galore.trainer.recipe.schema.instruction_rules import check_instruction
from galore.trainer.recipe.schema.optim import OptimSection
from galore.trainer.recipe.schema.section import (
    Bytes,
    Checkpoints,
    Deviation,
    Epochs,
    Layers,
    Length,
    NonNegative,
    Pieces,
    Positive,
    Rows,
    Section,
    Seed,
    Steps,
    StepsOrNone,
    Threads,
    Tokens,
    Vocabulary,
    Width,
    execution,
)

TaskName = Literal["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]


DIMENSIONS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "initializer_range",
    "tie_word_embeddings",
)  # of a LLaMA that is built; a model by name brings its own


class ModelSection(Section):
    """Which network. Either the LLaMA dimensions below (random weights) or `name_or_path` (its weights)."""

    name_or_path: str | None = Field(
        None,
        description="Local folder or hub name of a causal LM (source: glue: of any model that can classify) to start from; null builds a LLaMA from the dimensions below",
    )
    revision: str | None = Field(None, description="Hub revision (branch, tag or commit) of `name_or_path`")
    random_init: bool = Field(False, description="Take only the configuration of `name_or_path` and draw fresh weights")
    vocab_size: Vocabulary | None = Field(
        None,
        description="Rows of the embedding; null takes the tokenizer's size, or the model's own; rows beyond those of `name_or_path` are drawn",
    )
    hidden_size: Width = Field(512, description="Width of the residual stream")
    intermediate_size: Width = Field(1376, description="Width of the SwiGLU MLP")
    num_hidden_layers: Layers = Field(8, description="Number of decoder blocks")
    num_attention_heads: Width = Field(8, description="Query heads")
    num_key_value_heads: Width | None = Field(
        None, description="Key/value heads (GQA); null means as many as query heads"
    )
    max_position_embeddings: Length = Field(2048, description="Longest sequence, in tokens, that RoPE is set up for")
    rms_norm_eps: Positive = Field(1e-6, description="Epsilon of RMSNorm")
    rope_theta: Positive = Field(10000.0, description="Base of the rotary frequencies")
    initializer_range: Deviation = Field(0.02, description="Standard deviation of the initial weights")
    tie_word_embeddings: bool = Field(False, description="Share the embedding with the output head")
    dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="Storage and compute type of the weights")
    attn_implementation: Literal["sdpa", "flash_attention_2", "eager"] = execution(
        "sdpa", "Attention kernel; one that cannot run here is refused"
    )

    @property
    def without_effect(self) -> tuple[str, ...]:
        """The fields that say nothing beside the others."""
        return () if self.name_or_path is None else DIMENSIONS

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        kv = self.num_key_value_heads or self.num_attention_heads
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.num_attention_heads % kv:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads {kv}"
            )
        return self


class DataSection(Section):
    """Which text, and how it becomes sequences."""

    source: Literal["packaged", "local", "hub", "glue"] = Field(
        "local",
        description="packaged: the corpus pip brings; local: files at `path`; hub: a data set streamed from the Hugging Face hub; glue: sentences and labels of `task`",
    )
    task: TaskName | None = Field(None, description="glue: which task; `galore finetune-glue --task` sets it")
    max_train_samples: Rows | None = Field(
        None, description="glue: train on the first so many examples only; null takes all"
    )
    path: str | list[str] | None = execution(  # a moved corpus is the same corpus: its content is fingerprinted
        None,
        "local: file, folder or glob (or a list of them), txt/jsonl/parquet, gzipped or not, relative to the recipe; hub: data set name; glue: nyu-mll/glue, or a folder of the task, in any of its layouts",
    )
    validation_path: str | list[str] | None = execution(None, "local: files to hold out instead of a share of `path`")
    hub_config: str | None = Field(None, description="hub: configuration name, such as `en`")
    split: str = Field("train", description="hub: split to train on")
    validation_split: str | None = Field(
        "validation", description="hub: split to evaluate on; null holds out a share of `split`"
    )
    format: Literal["auto", "txt", "jsonl", "parquet"] = Field(
        "auto", description="local: file format; auto goes by the file name"
    )
    text_field: str = Field("text", description="jsonl, parquet, hub: the column that holds the text")
    prompt_field: str | None = Field(
        None,
        description="jsonl, parquet, hub: the column that holds the instruction; with response_field it takes the place of text_field",
    )
    input_field: str | None = Field(None, description="A column appended to the prompt where it is not empty")
    response_field: str | None = Field(None, description="The column that holds the answer to the prompt")
    messages_field: str | None = Field(
        None,
        description="The column that holds a conversation: a list of {role, content}, or of {from, value} as ShareGPT writes it",
    )
    loss_on: Literal["responses", "all"] = Field(
        "responses",
        description="Instructions: train on what the assistant says and on the token that ends it, or on prompts as well",
    )
    txt_document: Literal["file", "paragraph", "line"] = Field(
        "paragraph", description="txt: what one document is; paragraphs are separated by blank lines"
    )
    validation_fraction: float = Field(
        0.01, ge=0, lt=1, description="Share of documents held out, chosen by a hash of their content"
    )
    tokenizer: str | None = Field(
        None,
        description="Local folder, tokenizer.json or hub name; null takes the model's, or trains a byte-level BPE on the corpus",
    )
    tokenizer_vocab_size: Pieces = Field(
        4096, description="Size of the byte-level BPE trained when `tokenizer` is null"
    )
    max_length: Length = Field(
        256, description="Tokens per sequence; glue: at most, the examples of a batch are padded to its longest"
    )
    packing: Literal["packed", "paper"] = Field(
        "packed",
        description="packed: documents joined by EOS and cut into full sequences, instructions put together whole; paper: one document per row, truncated or padded",
    )
    shuffle: bool = Field(
        True, description="Permute the sequences of every epoch; the order is a pure function of (seed, step)"
    )
    shuffle_buffer_size: Rows = Field(10_000, description="hub: documents in the shuffle buffer of the stream")
    on_bad_rows: Literal["skip", "error"] = Field(
        "skip", description="Invalid UTF-8, missing field, empty, NUL bytes, oversized: count and skip, or refuse"
    )
    max_document_bytes: Bytes = Field(50_000_000, description="A row longer than this, in bytes, is a bad row")
    num_proc: Threads | None = execution(None, "Processes or threads that tokenise; null means all cores")
    cache_dir: str | None = execution(None, "Where tokenised data is kept; null means $GALORE_CACHE or ~/.cache/galore")

    @model_validator(mode="after")
    def _source_has_path(self) -> Self:
        if self.source in ("local", "hub", "glue") and not self.path:
            raise ValueError(f"source: {self.source} needs `path`")
        if self.source == "packaged" and (self.path or self.validation_path):
            raise ValueError("path is set, but source: packaged reads no files: write source: local, or path: null")
        check_instruction(self)
        return self

    @property
    def instruct(self) -> bool:
        """Whether rows are prompts with responses, or conversations, instead of plain text."""
        return self.messages_field is not None or self.prompt_field is not None


LARGEST_SUGGESTION = 4096


def _largest_divisor(number: int, limit: int) -> int:
    """The largest one that does not exceed `limit`, or what anybody would write."""
    return max(each for each in range(1, min(limit, LARGEST_SUGGESTION) + 1) if number % each == 0)


class TrainSection(Section):
    """How long, how large, and where."""

    seed: Seed = Field(42, description="Seed of weights, data order, subspaces and rounding")
    max_steps: Steps | None = Field(None, description="Optimizer steps; null uses num_train_epochs")
    num_train_epochs: Epochs | None = Field(
        None, description="Passes over the training data; ignored when max_steps is set"
    )
    global_batch_size: Rows = Field(512, description="Sequences per optimizer step")
    z_loss: NonNegative = Field(
        0.0,
        description="Coefficient on the mean squared logsumexp of the logits, added to what is optimised and reported apart; 1e-4 is common",
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
    mode: Literal["token", "paper"] = Field(
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
    report_to: Literal["none", "wandb"] = execution("none", "Also send the metrics to Weights & Biases")
    wandb_project: str = execution("galore", "Project name at Weights & Biases")
    wandb_mode: Literal["online", "offline"] = execution(
        "offline", "offline writes a local run that `wandb sync` sends later"
    )
    run_name: str | None = execution(None, "Name of the run; null is the name of the output directory")


class Recipe(Section):
    """A whole run: `galore train` carries it out, `galore recipes schema` prints its JSON schema."""

    model: ModelSection = ModelSection()
    data: DataSection
    optim: OptimSection = OptimSection()
    train: TrainSection
    eval: EvalSection = EvalSection()
    log: LogSection = LogSection()

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        check_glue(self)
        if self.optim.update == "immediate" and self.train.accumulation > 1:
            raise ValueError(
                f"optim.update: immediate cannot accumulate {self.train.accumulation} micro-batches: set train.micro_batch_size to "
                f"{self.train.global_batch_size}, or optim.update: accumulate (costs one r×n accumulator per layer)"
            )
        if self.optim.adapter == "factors" and self.model.name_or_path is not None and not self.model.random_init:
            raise ValueError(
                "optim.adapter: factors draws the target matrices and has no use for those of model.name_or_path: set "
                "model.random_init: true, or optim.adapter: lora"
            )
        if (self.optim.relora_gap or 0) >= (self.train.max_steps or float("inf")):
            raise ValueError(
                f"optim.relora_gap: {self.optim.relora_gap} never restarts in train.max_steps: {self.train.max_steps}: lower it, "
                "or leave it out for a quarter of the run"
            )
        if self.model.name_or_path is None and self.data.max_length > self.model.max_position_embeddings:
            raise ValueError(
                f"data.max_length {self.data.max_length} exceeds model.max_position_embeddings {self.model.max_position_embeddings}"
            )
        return self
