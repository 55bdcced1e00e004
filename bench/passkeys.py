"""From 256 to 2,048 tokens, passkeys included: `python bench/passkeys.py WORK [STAGE …]`, 40 minutes of one core.

A LLaMA of 4 M parameters whose tokenizer writes digits one by one learns the task on rows of at most 128 tokens that
are spread over 256 positions, so that it has to find a key by what stands before it, and not by its distance; goes on at
256 tokens with text and keys; has its rotary factors searched at 2,048 and compared with the others on other text; and is
tuned, with YaRN's, on rows of 256 that are spread over 2,048 positions, exported and scored. The text is the King James
Bible of the package: of every ten parts of 400 verses one is held out, and of these one half is searched on and the
other scored.

Stages, all in turn where none is named: data, keys, base, search, scaled, tune, scores. Each is a command or two of
`galore` in WORK, which are printed; what was finished is not done again, and training that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

SHORT, LONG, PIECES = 256, 2048, 1024
SCALINGS = {
    "none": "{type: default, factor: 8}",
    "linear": "{type: linear, factor: 8}",
    "dynamic": "{type: dynamic, factor: 8}",
    "yarn": "{type: yarn, factor: 8}",
    "searched": "{type: longrope, factors: search/rope.json}",
}
RECIPES = {
    "keys": """
model: {hidden_size: 256, intermediate_size: 896, num_hidden_layers: 4, num_attention_heads: 4, tie_word_embeddings: true,
        max_position_embeddings: 256, rope_theta: 500000, dtype: float32}
data:
  source: local
  path: data/keys-128.jsonl
  tokens_field: ids
  labels_field: labels
  tokenizer: tokenizer
  max_length: 128
  cache_dir: cache
  num_proc: 1
optim: {method: full, inner: muon, learning_rate: 5.0e-3, embedding_learning_rate: 2.0e-3, adam_beta2: 0.95,
        lr_scheduler_type: constant_with_warmup, warmup_steps: 50}
train: {max_steps: 400, global_batch_size: 16, micro_batch_size: 16, position_skips: {target_length: 256, chunks: 4},
        num_threads: 1, save_steps: 50, device: cpu}
eval: {eval_steps: 50, max_tokens: 10000}
log: {logging_steps: 10}
""",
    "base": """
extends: keys.yaml
model: {name_or_path: keys-model, dtype: float32}
data:
  path: null
  tokens_field: null
  labels_field: null
  tokenizer: null
  max_length: 256
  isolate_documents: true
  sources:
    - {path: data/text.jsonl, weight: 1, validation_path: data/held.jsonl}
    - {path: data/keys-256.jsonl, tokens_field: ids, labels_field: labels, weight: 1, loss_weight: 20, validation_fraction: 0.02}
optim: {lr_scheduler_type: warmup_stable_decay, warmup_steps: 20, lr_decay_ratio: 0.3, min_lr_ratio: 0.02}
train: {max_steps: 500, global_batch_size: 8, micro_batch_size: 8, position_skips: null}
eval: {eval_steps: 250, max_tokens: 40000}
""",
    "tune": """
extends: base.yaml
model: {name_or_path: base-model, dtype: float32, rope: {type: yarn, factor: 8, attention_factor: 1}}
data:
  sources:
    - {path: data/text.jsonl, weight: 1, validation_path: data/held.jsonl}
    - {path: data/keys-256.jsonl, tokens_field: ids, labels_field: labels, weight: 2, loss_weight: 20, validation_fraction: 0.02}
optim: {learning_rate: 4.0e-3, embedding_learning_rate: 1.6e-3, warmup_steps: 10}
train: {max_steps: 300, position_skips: {target_length: 2048, chunks: 4}}
eval: {eval_steps: 150, max_tokens: 12000}
""",
}
SCORE = """
model: {max_position_embeddings: 2048, dtype: float32}
data: {source: local, path: data/few.jsonl, validation_path: data/%s.jsonl, max_length: 2048, num_proc: 1, cache_dir: cache}
train: {max_steps: 1, global_batch_size: 1, micro_batch_size: 1, num_threads: 1, device: cpu}
eval: {max_tokens: 32768}
"""


def made_tokenizer(texts: list[str], folder: Path) -> Any:
    """Byte-level BPE in which every digit is a token, as in LLaMA: a key is five of them wherever it stands."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    end = "<|endoftext|>"
    backend = Tokenizer(models.BPE())
    levels = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Sequence(levels), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=PIECES, special_tokens=[end], initial_alphabet=alphabet, show_progress=False),
    )
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, pad_token=end)
    made.save_pretrained(folder)
    return made


def key_row(tokenizer: Any, rng: random.Random, most: int) -> dict[str, list[int]]:
    """A key among up to `most` lines of filler, half of the rows by the logarithm of their number; often at an end."""
    from galore.trainer.trained.longcontext.passkey import passkey_row

    evenly = rng.random() < 0.5
    lines = rng.randrange(most + 1) if evenly else round((most + 1) ** rng.random()) - 1
    before, key = round(lines * min(max(rng.uniform(-0.2, 1.2), 0.0), 1.0)), rng.randrange(10**4, 10**5)
    return passkey_row(tokenizer, key, before, lines - before)


def short_row(tokenizer: Any, rng: random.Random) -> dict[str, list[int]]:
    """A key among two lines of filler at most; most rows without the words that a text of keys begins with."""
    from galore.trainer.trained.longcontext.passkey import INTRO, passkey_row

    lines = rng.choice((0, 0, 1, 1, 2))
    before = rng.randrange(lines + 1)
    row = passkey_row(tokenizer, rng.randrange(10**4, 10**5), before, lines - before)
    first = len(tokenizer(INTRO + "\n")["input_ids"]) if rng.random() < 0.7 else 0
    return {name: values[first:] for name, values in row.items()}


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def data(work: Path) -> None:
    """Tokenizer, text, keys and recipes."""
    from galore.trainer.data.text.packaged import packaged_file
    from galore.trainer.trained.longcontext.passkey import passkey_text

    if (work / "tune.yaml").exists():
        return
    verses = [json.loads(line)["text"] for line in packaged_file().read_text(encoding="utf-8").splitlines()]
    books = ["\n".join(verses[at : at + 400]) for at in range(0, len(verses), 400)]
    held = books[5::10]
    kept = [book for book in books if book not in held]
    (work / "data").mkdir(parents=True, exist_ok=True)
    parts = {"text": kept, "few": kept[:4], "search": held[::2], "held": held[1::2]}
    for name, texts in parts.items():
        write(work / f"data/{name}.jsonl", ({"text": text} for text in texts))
    rng = random.Random(0)
    tokenizer = made_tokenizer(
        [*kept, *(passkey_text(key, 1, 1) for key in range(10**4, 10**5, 45))], work / "tokenizer"
    )
    empty, one = (len(tokenizer(passkey_text(12345, 0, lines))["input_ids"]) for lines in (0, 1))
    most = (SHORT - empty) // (one - empty)
    write(work / "data/keys-128.jsonl", (short_row(tokenizer, rng) for _ in range(16_000)))
    write(work / f"data/keys-{SHORT}.jsonl", (key_row(tokenizer, rng, most) for _ in range(8000)))
    for name in ("search", "held"):
        (work / f"{name}.yaml").write_text(SCORE % name)
    for name, recipe in RECIPES.items():
        (work / f"{name}.yaml").write_text(recipe)


def galore(work: Path, *words: str) -> None:
    """A command, printed with its time; the end of all where it fails."""
    print("$ galore", " ".join(words), flush=True)
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "galore", *words], cwd=work, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    print(f"[{time.monotonic() - started:.0f} s]", flush=True)


def trained(work: Path, name: str) -> None:
    if not (work / f"{name}-model").exists():
        galore(work, "train", f"{name}.yaml", "--output-dir", name, "--resume")
        galore(work, "export", name, f"{name}-model")


def search(work: Path) -> None:
    words = ["--length", str(LONG), "--rows", "6", "--generations", "6", "--budget", "4m", "--output-dir", "search"]
    galore(work, "rope-search", "base", "search.yaml", *words)


def scaled(work: Path) -> None:
    """The base at both lengths, and at 2,048 with each scaling, on text that was not searched on."""
    galore(work, "eval", "base", "--passkey", "100,150,200,256", "--tries", "10")
    short = ["--recipe", "held.yaml", f"data.max_length={SHORT}"]
    galore(work, "eval", "base", *short)
    for rope in SCALINGS.values():
        galore(work, "eval", "base", "--recipe", "held.yaml", f"model.rope={rope}")
    asked = ["--passkey", f"{SHORT},512,1024,{LONG}", "--tries", "2", "--recipe", "held.yaml"]
    galore(work, "eval", "base", *asked, f"model.rope={SCALINGS['searched']}")


def scores(work: Path) -> None:
    galore(work, "eval", "tune", "--passkey", f"{SHORT},512,1024,{LONG}", "--tries", "10")
    galore(work, "eval", "tune", "--by-position", "--recipe", "held.yaml")
    galore(work, "eval", "tune", "--recipe", "held.yaml")
    galore(work, "eval", "tune", "--recipe", "held.yaml", f"data.max_length={SHORT}")


STAGES: dict[str, Callable[[Path], object]] = {
    "data": data,
    "keys": lambda work: trained(work, "keys"),
    "base": lambda work: trained(work, "base"),
    "search": search,
    "scaled": scaled,
    "tune": lambda work: trained(work, "tune"),
    "scores": scores,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, metavar="WORK")
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(STAGES))
    given = parser.parse_args()
    if unknown := set(given.stages) - STAGES.keys():
        parser.error(f"no stage is called {sorted(unknown)[0]}: {', '.join(STAGES)}")
    if given.work.is_file():
        parser.error(f"{given.work} is a file: name a folder to work in")
    given.work.mkdir(parents=True, exist_ok=True)
    for name in given.stages or STAGES:
        STAGES[name](given.work)


if __name__ == "__main__":
    main()
