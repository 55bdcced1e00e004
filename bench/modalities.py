"""Images and sounds as tokens beside text, as AnyGPT has them: what is learned of them, and what becomes of the text.

    python bench/modalities.py WORK [--base 200] [--steps 200] [--seeds 2] [--text-weight 5]

Images: scikit-learn's digits, 8 × 8, as 4 codes of a codebook that k-means learns from quarters of the training images.
Sounds: tones of eight steps that rise, fall, stay or swing, with noise, as 8 codes of a codebook of spectra. Both go into
rows of parts, each once after its name and once before it. A LLaMA is trained on the King James Bible alone; it then goes
on with the text alone, for each of the seeds, and with the codes mixed in, a row of them to one of text, at the same
number of rows of text, of which a target may count more. What is finished in WORK is not done again.

Measured: how many of the digits that are generated for a name a classifier of digits takes for it, chance 10 %; how many
held-out digits and sounds are named right; and the held-out loss of the text against the runs without codes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TONES = ["rising", "falling", "steady", "swinging"]
IMAGE_CODES, SOUND_CODES, FRAMES, SAMPLES = 64, 16, 8, 32
PATCH = 4
PATCHES = 8 // PATCH  # along a side
BASE = """
model: {{hidden_size: 128, intermediate_size: 344, num_hidden_layers: 3, num_attention_heads: 4, dtype: float32}}
data: {{source: local, path: text.jsonl, tokenizer: tokenizer, max_length: 64, validation_fraction: 0.05,
        isolate_documents: true, cache_dir: cache}}
optim: {{method: galore, rank: 32, update_proj_gap: 50, learning_rate: 0.01, scale: 0.25}}
train: {{max_steps: {base}, global_batch_size: 16, micro_batch_size: 16, save_steps: null, num_threads: 1, device: cpu}}
eval: {{eval_steps: null, max_tokens: 60_000}}
"""
ON = """
extends: base.yaml
model: {{name_or_path: base, dtype: float32{tokens}}}
data:
  tokenizer: null
  sources: {sources}
optim: {{learning_rate: 0.01}}
train: {{max_steps: {steps}, global_batch_size: {batch}, micro_batch_size: {batch}}}
"""


def codebook(vectors: np.ndarray, size: int) -> np.ndarray:
    """Centres of k-means, (size, d)."""
    from sklearn.cluster import KMeans

    return KMeans(size, n_init=1, random_state=0).fit(vectors).cluster_centers_


def nearest(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return ((vectors[:, None] - centres) ** 2).sum(-1).argmin(1)


def patches(images: np.ndarray) -> np.ndarray:
    """(n, 8, 8) as (n, 4, 16)."""
    return images.reshape(-1, PATCHES, PATCH, PATCHES, PATCH).swapaxes(2, 3).reshape(len(images), -1, PATCH * PATCH)


def unpatched(parts: np.ndarray) -> np.ndarray:
    return parts.reshape(-1, PATCHES, PATCHES, PATCH, PATCH).swapaxes(2, 3).reshape(len(parts), 64)


def sounds(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Spectra of frames (count, FRAMES, SAMPLES / 2 + 1), and which tone each is."""
    draw = np.random.default_rng(seed)
    kinds, start = draw.integers(0, len(TONES), count), draw.integers(4, 9, count)
    shape = np.stack([np.arange(FRAMES), -np.arange(FRAMES), np.zeros(FRAMES), 3 * (np.arange(FRAMES) % 2)])
    pitch = np.clip(start[:, None] + 0.6 * shape[kinds] * (1 + 0.2 * draw.random((count, 1))), 1, 15)
    wave = np.sin(2 * np.pi * pitch[..., None] * np.arange(SAMPLES) / SAMPLES + draw.random((count, 1, 1)) * 6)
    return np.abs(np.fft.rfft(wave + 0.3 * draw.standard_normal(wave.shape))), kinds


def parts_of(name: str, what: str, codes: list[int]) -> list[dict[str, Any]]:
    """A row that gives codes after a name, and one that names codes."""
    return [
        {"parts": [{"text": f"{what} {name}:"}, {what: codes}]},
        {"parts": [{what: codes}, {"text": f" is {name}."}]},
    ]


def prepare(work: Path) -> dict[str, Any]:
    """The files that the recipes name, and what is held out."""
    from sklearn.datasets import load_digits
    from sklearn.svm import SVC

    from galore.trainer.data.text.packaged import packaged_file
    from galore.trainer.data.tokens.tokenizer import trained_tokenizer

    lines = [json.loads(line) for line in packaged_file().read_text().splitlines()]
    chapters = ["\n".join(each["text"] for each in lines[at : at + 8]) for at in range(0, 16_000, 8)]
    write(work / "text.jsonl", [{"text": each} for each in chapters])
    trained_tokenizer(chapters[:500], 512, work / "tokenizer", lambda *_: None)
    images, labels = load_digits(return_X_y=True)
    train, test = slice(0, 1400), slice(1400, None)
    cut = patches(images.reshape(-1, 8, 8))
    centres = codebook(cut[train].reshape(-1, PATCH * PATCH), IMAGE_CODES)
    codes = nearest(cut.reshape(-1, PATCH * PATCH), centres).reshape(-1, PATCHES**2)
    tones, kinds = sounds(1600, 0)
    spectra = codebook(tones[:1400].reshape(-1, tones.shape[-1]), SOUND_CODES)
    heard = nearest(tones.reshape(-1, tones.shape[-1]), spectra).reshape(-1, FRAMES)
    rows = [
        parts_of(DIGITS[label], "image", each.tolist()) for each, label in zip(codes[train], labels[train], strict=True)
    ]
    rows += [
        parts_of(TONES[kind], "sound", each.tolist()) for each, kind in zip(heard[:1400], kinds[:1400], strict=True)
    ]
    write(work / "codes.jsonl", itertools.chain.from_iterable(rows))
    judge = SVC(gamma=0.001).fit(images[train], labels[train])
    seen = judge.predict(unpatched(centres[codes[test]]))
    return {
        "judge": judge,
        "centres": centres,
        "ceiling": float((seen == labels[test]).mean()),
        "digits": list(zip(codes[test].tolist(), labels[test].tolist(), strict=True))[:200],
        "tones": list(zip(heard[1400:].tolist(), kinds[1400:].tolist(), strict=True)),
    }


def write(path: Path, rows: Any) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def train(work: Path, name: str, recipe: str, *overrides: str) -> dict[str, Any]:
    """Carry out a recipe; what its last evaluation found."""
    import galore

    (work / f"{name}.yaml").write_text(recipe)
    out = work / "runs" / "-".join([name, *overrides]).replace("=", "")
    with contextlib.redirect_stdout(io.StringIO()):
        run = galore.train(work / f"{name}.yaml", *overrides, output_dir=out, resume=True)
    return {"folder": out, **run.final}


@torch.no_grad()
def continued(model: Any, prompts: list[list[int]], length: int, allowed: list[int], greedy: bool) -> torch.Tensor:
    """`length` ids after each of the prompts, all of one length, of those `allowed`."""
    ids = torch.tensor(prompts)
    barred = torch.full((model.config.vocab_size,), float("-inf"))
    barred[allowed] = 0
    for _ in range(length):
        logits = model(input_ids=ids).logits[:, -1].float() + barred
        chosen = logits.argmax(-1, keepdim=True) if greedy else torch.multinomial(logits.softmax(-1), 1)
        ids = torch.cat((ids, chosen), 1)
    return ids[:, -length:]


def judged(folder: Path, known: dict[str, Any], per_digit: int = 20) -> dict[str, float]:
    """Shares of what is generated, and of what is named, that is right."""
    from galore.trainer.recipe.schema.model import token_of
    from galore.trainer.trained.runmodel import load_run_model

    stored = load_run_model(str(folder))
    tokenizer, model = stored.tokenizer, stored.model
    first = {what: tokenizer.convert_tokens_to_ids(token_of(what, 0)) for what in ("image", "sound")}
    torch.manual_seed(0)
    right = 0
    for label, name in enumerate(DIGITS):
        prompt = tokenizer(f"image {name}:{token_of('image', 'begin')}")["input_ids"]
        codes = range(first["image"], first["image"] + IMAGE_CODES)
        drawn = continued(model, [prompt] * per_digit, PATCHES**2, list(codes), greedy=False) - first["image"]
        right += int((known["judge"].predict(unpatched(known["centres"][drawn.numpy()])) == label).sum())
    found = {"text to image": right / (per_digit * len(DIGITS))}
    for what, rows, names in (("image", known["digits"], DIGITS), ("sound", known["tones"], TONES)):
        marks = (token_of(what, "begin"), token_of(what, "end"))
        texts = [marks[0] + "".join(token_of(what, code) for code in codes) + marks[1] for codes, _ in rows]
        scores = torch.stack([likelihood(model, tokenizer, texts, f" is {name}.") for name in names])
        found[f"{what} to text"] = float(
            (scores.argmax(0) == torch.tensor([label for _, label in rows])).float().mean()
        )
    return found


@torch.no_grad()
def likelihood(model: Any, tokenizer: Any, texts: list[str], answer: str) -> torch.Tensor:
    """log p(answer | text), (n,), of texts of equally many tokens."""
    prompts, ids = tokenizer(texts)["input_ids"], tokenizer(answer)["input_ids"]
    rows = torch.tensor([[*each, *ids] for each in prompts])
    logits = model(input_ids=rows).logits[:, -len(ids) - 1 : -1].float().log_softmax(-1)
    return logits.gather(2, rows[:, -len(ids) :, None]).sum((1, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, metavar="WORK")
    parser.add_argument("--base", type=int, default=200)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--text-weight", type=float, default=1.0, help="loss_weight of the text beside the codes")
    options = parser.parse_args()
    if min(options.base, options.steps, options.seeds) < 1 or not 0 < options.text_weight <= 1e6:
        parser.error("--base, --steps and --seeds are 1 or more, --text-weight above 0 and at most 1e6")
    from galore.trainer.trained.export import export

    work, began = options.work.absolute(), time.process_time()
    work.mkdir(parents=True, exist_ok=True)
    known = prepare(work)
    base = train(work, "base", BASE.format(base=options.base))
    if not (work / "base").exists():
        export(str(base["folder"]), work / "base")
    text, weight = "{path: text.jsonl, name: text}", options.text_weight
    both = f"[{text[:-1]}, loss_weight: {weight:g}}}, {{path: codes.jsonl, name: codes, tokens_field: parts}}]"
    tokens = f", new_tokens: {{image: {IMAGE_CODES}, sound: {SOUND_CODES}}}"
    alone = [
        train(
            work, "text", ON.format(tokens="", sources=f"[{text}]", steps=options.steps, batch=16), f"train.seed={seed}"
        )
        for seed in range(options.seeds)
    ]
    mixed = train(
        work, f"mixed-{weight:g}", ON.format(tokens=tokens, sources=both, steps=options.steps, batch=32), "train.seed=0"
    )
    losses = [each["loss_nats"] for each in alone]
    print(f"base of text: held-out loss {base['loss_nats']:.4f}")
    print(f"text alone, {options.seeds} seeds: {', '.join(f'{each:.4f}' for each in losses)}")
    print(f"with codes: text {mixed['loss_nats_by_source']['text']:.4f}")
    told = mixed["loss_nats_by_modality"].items()
    print("with codes, by modality: " + ", ".join(f"{name} {loss:.4f}" for name, loss in told))
    print(f"real held-out digits through the codebook, recognized: {known['ceiling']:.1%}")
    for name, share in judged(mixed["folder"], known).items():
        print(f"{name}: {share:.1%}")
    print(f"{time.process_time() - began:.0f} CPU seconds")


if __name__ == "__main__":
    main()
