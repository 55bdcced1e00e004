"""Build the network of a task: any model that transformers can put a classification head on."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from galore.trainer.common.errors import UserError
from galore.trainer.common.library import WHERE
from galore.trainer.models.attention import attention_on, check_attention
from galore.trainer.models.capacity import (
    AFTER_PADDING,
    TokenFacts,
    check_capacity,
    grow_vocabulary,
    new_rows,
    refuse_fewer_rows,
    require_memory,
    rows_wanted,
)
from galore.trainer.models.materialize import draw_weights
from galore.trainer.models.pretrained import load_pretrained, locate, read_config, skeleton
from galore.trainer.models.rope.rotary import hold_length
from galore.trainer.models.rope.scaling import scale_rope
from galore.trainer.recipe.schema.model import ModelSection
from galore.trainer.tasks.glue import Task

KIND = AutoModelForSequenceClassification


def build_classifier(
    section: ModelSection,
    task: Task,
    vocab_size: int,
    *,
    device: str,
    seed: int,
    max_length: int,
    base_dir: Path,
    tokens: TokenFacts = TokenFacts(),  # noqa: B008 - it cannot change
) -> PreTrainedModel:
    """The recipe's model with a head for `task` on `device`, weights in `section.dtype`, in training mode.

    What the stored weights lack of the head is drawn from `seed`, in float32; so is a stored head for another number of
    labels, and a pooler, which pre-training need not have. The global random state is left as it was. On
    `device="meta"` nothing is allocated or loaded.

    Args:
        tokens: of the tokenizer.

    Raises:
        UserError: the model cannot be read, has no such head, too few embeddings or positions for the data, or the
            attention kernel cannot run on `device`.
    """
    if device != "meta":
        check_attention(section.attn_implementation, device, section.dtype)
    source = locate(str(section.name_or_path), base_dir)
    stored = read_config(source, section.revision)
    order = None if section.random_init else label_order(stored, task, source)
    config = pad_with(_for_task(stored, task), tokens.pad)
    if section.rope is not None:
        scale_rope(config, section.rope, base_dir, built=False)
    if not section.random_init:
        refuse_fewer_rows(config, section.vocab_size, source)
    rows, fresh = rows_wanted(section, config, vocab_size), new_rows(section, config, vocab_size, tokens)
    check_capacity(config, vocab_size, max_length, rows, tokens.called)
    dtype = getattr(torch, section.dtype)
    if device != "meta":
        require_memory(config, dtype.itemsize)
    if section.random_init or device == "meta":
        config.get_text_config().vocab_size = rows or config.get_text_config().vocab_size
        model = skeleton(config, attention_on(section, device), KIND)
        if device == "meta":
            for parameter in model.parameters():
                parameter.data = parameter.data.to(dtype)
        else:
            draw_weights(model, dtype=dtype, device=device, seed=seed)
    else:
        model = _from_weights(source, config, section, seed)
        _reorder(model, order)
        grow_vocabulary(model, rows, seed, fresh)
        model = model.to(dtype).to(device)
    # a pad that is a new token has its row by then
    pad_with(model.config, tokens.pad).dtype = dtype
    hold_length(model, max_length)
    return model.train()


def head_modules(model: nn.Module) -> list[str]:
    """Names of what stands on top of the encoder; nothing where `model` is no classifier."""
    if not isinstance(model, PreTrainedModel) or not type(model).__name__.endswith("ForSequenceClassification"):
        return []
    children = (name for name, child in model.named_children() if any(True for _ in child.parameters()))
    return [name for name in children if name != model.base_model_prefix]


def align_labels(model: PreTrainedModel, task: Task, source: str) -> None:
    """Put the outputs of a classifier into the order of the labels of `task`, by their names, in place.

    Raises:
        UserError: see `label_order`.
    """
    _reorder(model, label_order(model.config, task, source))
    _for_task(model.config, task)


def pad_with(config: PreTrainedConfig, pad: int | None) -> PreTrainedConfig:
    """Let `pad` fill up rows: a decoder's score is that of the last token which is another.

    Args:
        pad: of the tokenizer; None where only shapes are asked for, which any will do for.
    """
    text = config.get_text_config()
    for each in (config, text):
        own = getattr(each, "pad_token_id", None)
        # a network whose positions begin after its own pad, and which masks what rows are filled up with, keeps it
        if own is None or (pad is not None and text.model_type not in AFTER_PADDING):
            wanted = pad or 0
            each.pad_token_id = wanted if wanted < text.vocab_size else own
    return config


def label_order(config: PreTrainedConfig, task: Task, source: str) -> list[int] | None:
    """The stored head's output for each label of `task`; None where the outputs have no names, are a score, or too many
    or too few for a head to be kept.

    Raises:
        UserError: as many names as the task has labels, and not the same ones.
    """
    names = [_label(name) for _, name in sorted((config.id2label or {}).items())]
    heads = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    nameless = all(name in (f"label_{number}", str(number)) for number, name in enumerate(names))
    if not heads or not task.labels or len(names) != task.num_labels or nameless:
        return None
    wanted = [_label(name) for name in task.labels]
    if sorted(names) != sorted(wanted):
        raise UserError(
            f"{source} tells {', '.join(names)} apart, the labels of {task.name} are {', '.join(wanted)}",
            where=WHERE,
            fix="give id2label in its config.json the task's names, in the order of the head's outputs; or take an encoder without a head",
        )
    return [names.index(name) for name in wanted]


def _label(name: object) -> str:
    return str(name).strip().lower().replace("-", "_").replace(" ", "_")


@torch.no_grad()
def _reorder(model: PreTrainedModel, order: list[int] | None) -> None:
    """The last linear layer of the head has one row for each label."""
    if order is None or order == sorted(order):
        return
    head = tuple(f"{name}." for name in head_modules(model))
    rows = [
        module
        for name, module in model.named_modules()
        if f"{name}.".startswith(head) and isinstance(module, nn.Linear) and module.out_features == len(order)
    ]
    for tensor in rows[-1].parameters():
        tensor.copy_(tensor[order].clone())


def _for_task(config: PreTrainedConfig, task: Task) -> PreTrainedConfig:
    """Labels by name, so that an exported model says what it means."""
    config.num_labels = task.num_labels
    if task.labels:
        config.id2label = dict(enumerate(task.labels))
        config.label2id = {label: number for number, label in enumerate(task.labels)}
    config.problem_type = "regression" if task.is_regression else "single_label_classification"
    return config


def _from_weights(source: str, config: PreTrainedConfig, section: ModelSection, seed: int) -> PreTrainedModel:
    """Loaded in float32, whose draws do not depend on the type the weights end up in."""
    names = tuple(f"{name}." for name in head_modules(skeleton(config, section.attn_implementation, KIND)))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return load_pretrained(
            source,
            config,
            revision=section.revision,
            dtype=torch.float32,
            attn_implementation=section.attn_implementation,
            kind=KIND,
            drawn=lambda name: name.startswith(names) or ".pooler." in name,
        )
