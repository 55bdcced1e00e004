"""Build the network of a task: any model that transformers can put a classification head on."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from galore.trainer.glue.tasks import Task
from galore.trainer.models.attention import check_attention
from galore.trainer.models.capacity import check_capacity
from galore.trainer.models.materialise import draw_weights
from galore.trainer.models.pretrained import load_pretrained, locate, read_config, skeleton
from galore.trainer.recipe.schema import ModelSection

KIND = AutoModelForSequenceClassification


def build_classifier(
    section: ModelSection, task: Task, vocab_size: int, *, device: str, seed: int, max_length: int, base_dir: Path
) -> PreTrainedModel:
    """The recipe's model with a head for `task` on `device`, weights in `section.dtype`, in training mode.

    What the stored weights lack of the head is drawn from `seed`, in float32; so is a stored head for another number of
    labels, and a pooler, which pre-training need not have. The global random state is left as it was. On `device="meta"`
    nothing is allocated or loaded.

    Raises:
        UserError: the model cannot be read, has no such head, too few embeddings or positions for the data, or the
            attention kernel cannot run on `device`.
    """
    if device != "meta":
        check_attention(section.attn_implementation, device, section.dtype)
    source = locate(str(section.name_or_path), base_dir)
    config = _for_task(read_config(source, section.revision), task)
    check_capacity(config, vocab_size, max_length)
    dtype = getattr(torch, section.dtype)
    if section.random_init or device == "meta":
        model = skeleton(config, _kernel(section, device), KIND)
        if device == "meta":
            for parameter in model.parameters():
                parameter.data = parameter.data.to(dtype)
        else:
            draw_weights(model, dtype=dtype, device=device, seed=seed)
    else:
        model = _from_weights(source, config, section, seed).to(dtype).to(device)
    model.config.dtype = dtype
    return model.train()


def head_modules(model: nn.Module) -> list[str]:
    """Names of what stands on top of the encoder; nothing where `model` is no classifier."""
    if not isinstance(model, PreTrainedModel) or not type(model).__name__.endswith("ForSequenceClassification"):
        return []
    children = (name for name, child in model.named_children() if any(True for _ in child.parameters()))
    return [name for name in children if name != model.base_model_prefix]


def _for_task(config: PreTrainedConfig, task: Task) -> PreTrainedConfig:
    """Labels by name, so that an exported model says what it means."""
    config.num_labels = task.num_labels
    if task.labels:
        config.id2label = dict(enumerate(task.labels))
        config.label2id = {label: number for number, label in enumerate(task.labels)}
    config.problem_type = "regression" if task.is_regression else "single_label_classification"
    if config.pad_token_id is None:  # decoders find the last token by it; as `tokenizer.usable` pads
        config.pad_token_id = config.eos_token_id
    return config


def _kernel(section: ModelSection, device: str) -> str:
    flash_on_meta = device == "meta" and section.attn_implementation == "flash_attention_2"
    return "sdpa" if flash_on_meta else section.attn_implementation


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
