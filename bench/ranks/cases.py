"""What is trained: a tiny model by every method that recipes know, and on every kind of data."""

from __future__ import annotations

import json
from pathlib import Path

from galore.trainer.recipe.methods import METHODS

TINY = (
    "model.hidden_size=64",
    "model.intermediate_size=128",
    "model.num_hidden_layers=2",
    "model.num_attention_heads=4",
    "model.dtype=float32",
    "data.max_length=64",
    "train.device=cpu",
    "train.num_threads=1",
    "eval.sample_prompt=null",
    "log.logging_steps=1000",
)
STEPS = (
    "optim.rank=8",
    "optim.update_proj_gap=4",
    "train.global_batch_size=8",
    "train.micro_batch_size=1",
    "train.max_steps=12",
    "train.save_steps=6",
    "eval.eval_steps=6",
    "eval.max_tokens=4000",
)
# Adam divides by √v: without an epsilon it takes a rounding error in a gradient of nearly zero for a whole step.
DAMPED = "optim.adam_epsilon=1e-3"
ADAPTERS = ("optim.scale=0.25", "optim.train_modules=[embed_tokens,lm_head]", "optim.lora_dropout=0")
MORE = {
    "refresh two-pass": ("optim.refresh=two-pass", "optim.stagger=false"),
    "refresh summed": ("optim.refresh=summed",),
    "refresh first-micro-batch": ("optim.refresh=first-micro-batch",),
    "projection hook": ("optim.projection=hook",),
    "power": ("optim.proj_type=power",),
    "random": ("optim.proj_type=random",),
    "fp8 states": ("optim.state_dtype=fp8",),
    "int8 weights": ("optim.weight_dtype=int8",),
    "epsilon of 1e-8": ("optim.adam_epsilon=1e-8",),
    "uneven: 10 rows on 4": ("train.global_batch_size=10",),
}
ROUTED = ("model.random_init=true", "model.router_aux_loss=0.5")  # so much that it is seen


def methods() -> dict[str, list[str]]:
    """Name → words of `galore train`."""
    known = {name: method.settings for name, method in METHODS.items()} | MORE
    return {name: ["demo", *TINY, *STEPS, DAMPED, *_adapters(each), *each] for name, each in known.items()}


def _adapters(settings: tuple[str, ...]) -> tuple[str, ...]:
    if "optim.method=lora" not in settings:
        return ()
    return tuple(each for each in ADAPTERS if "factors" not in " ".join(settings) or "train_modules" not in each)


def data(folder: Path) -> dict[str, list[str]]:
    """The same of other data than packed text, which lie in `folder` afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, roberta = _byte_tokenizer(folder / "tokenizer"), _roberta(folder / "roberta")
    chats = [{"instruction": f"Say {n}", "output": "yes " * (1 + n % 7)} for n in range(120)]
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats))
    chat = ["data.source=local", f"data.path={folder / 'chat.jsonl'}", "data.prompt_field=instruction"]
    chat += ["data.response_field=output", "data.validation_fraction=0.2"]
    own = [f"data.tokenizer={tokenizer}", "model.vocab_size=300"]
    hub = folder / "hub"
    hub.mkdir(exist_ok=True)
    for split, first, count in (("train", 20, 400), ("validation", 0, 20)):
        lines = [
            {"text": f"document {n} is of {n % 13} words and {'very ' * (n % 9)}long"} for n in range(first, count)
        ]
        (hub / f"{split}-00000-of-00001.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    stream = ["data.source=hub", f"data.path={hub}", "data.shuffle_buffer_size=16"]
    task = folder / "glue/sst2"
    task.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        rows = [
            {"sentence": f"the film was {'very ' * (n % 5)}{('bad', 'good')[n % 2]}", "label": n % 2, "idx": n}
            for n in range(48)
        ]
        (task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    labels = [f"model.name_or_path={roberta}", f"data.path={folder / 'glue'}", "data.task=sst2", "data.max_length=32"]
    labels += ["train.num_train_epochs=2", "train.global_batch_size=8", "train.micro_batch_size=1", "train.device=cpu"]
    labels += ["model.dtype=float32", "optim.update_proj_gap=3", "train.num_threads=1"]
    plain = ["demo", *TINY, *STEPS, DAMPED]
    return {
        "instructions": [*plain, *chat, *own],
        "instructions, isolated": [*plain, *chat, *own, "data.isolate_documents=true"],
        "streamed": [*plain, *stream, *own],
        "GLUE": ["roberta-glue-galore-r4", *labels, DAMPED],
        "experts, balanced": [*plain, *own, f"model.name_or_path={_experts(folder / 'experts')}", *ROUTED],
    }


def _experts(folder: Path) -> Path:
    """The configuration of a mixture of experts."""
    from transformers import MixtralConfig

    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    MixtralConfig(vocab_size=300, num_key_value_heads=2, num_local_experts=4, **sizes).save_pretrained(folder)
    return folder


def _byte_tokenizer(folder: Path) -> Path:
    """Merges nothing and speaks ChatML: a token a byte, or a special one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=special,
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    return folder


def _roberta(folder: Path) -> Path:
    """Random, without dropout, which draws other numbers on every rank."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "the", "film", "was", "very", "good", "bad"]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", model_max_length=64, **names)
    config = RobertaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=66, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout=0.0,
    )  # fmt: skip
    RobertaForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
