"""Public networks by name: their dimensions, as each publisher's config.json has them. No weights, no download."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from galore.trainer.common.suggest import nearest

# A line: name; the repository of its config.json, and of the tokenizer that goes with it; parameters, a shared
# embedding once; then width, inner width of the MLP, blocks, query heads, key/value heads, rows of the embedding,
# positions, base of RoPE (and after a slash by what Llama 3.1 stretches it), epsilon of RMSNorm, and what else differs
# from the others of its kind; tied: the embedding is the head, too.
#
# The shapes of LLaMA stand in table 2 of arXiv 2302.13971 (its 32.5B is called 33B and 30B), epsilons and inner widths
# in the params.json beside its weights; those of Llama 2 in arXiv 2307.09288.
_LLAMA = """
llama-7b      huggyllama/llama-7b          6,738,415,616 4096 11008 32 32 32  32000   2048    1e4 1e-6
llama-13b     huggyllama/llama-13b        13,015,864,320 5120 13824 40 40 40  32000   2048    1e4 1e-6
llama-33b     huggyllama/llama-30b        32,528,943,616 6656 17920 60 52 52  32000   2048    1e4 1e-6
llama-65b     huggyllama/llama-65b        65,285,660,672 8192 22016 80 64 64  32000   2048    1e4 1e-5
llama-2-7b    meta-llama/Llama-2-7b-hf     6,738,415,616 4096 11008 32 32 32  32000   4096    1e4 1e-5
llama-2-13b   meta-llama/Llama-2-13b-hf   13,015,864,320 5120 13824 40 40 40  32000   4096    1e4 1e-5
llama-2-70b   meta-llama/Llama-2-70b-hf   68,976,648,192 8192 28672 80 64  8  32000   4096    1e4 1e-5
llama-3-8b    meta-llama/Meta-Llama-3-8B   8,030,261,248 4096 14336 32 32  8 128256   8192    5e5 1e-5
llama-3-70b   meta-llama/Meta-Llama-3-70B 70,553,706,496 8192 28672 80 64  8 128256   8192    5e5 1e-5
llama-3.1-8b  meta-llama/Llama-3.1-8B      8,030,261,248 4096 14336 32 32  8 128256 131072  5e5/8 1e-5
llama-3.1-70b meta-llama/Llama-3.1-70B    70,553,706,496 8192 28672 80 64  8 128256 131072  5e5/8 1e-5
llama-3.2-1b  meta-llama/Llama-3.2-1B      1,235,814,400 2048  8192 16 32  8 128256 131072 5e5/32 1e-5 tied
llama-3.2-3b  meta-llama/Llama-3.2-3B      3,212,749,824 3072  8192 28 24  8 128256 131072 5e5/32 1e-5 tied
smollm2-135m  HuggingFaceTB/SmolLM2-135M     134,515,008  576  1536 30  9  3  49152   8192    1e5 1e-5 tied
smollm2-360m  HuggingFaceTB/SmolLM2-360M     361,821,120  960  2560 32 15  5  49152   8192    1e5 1e-5 tied
smollm2-1.7b  HuggingFaceTB/SmolLM2-1.7B   1,711,376,384 2048  8192 24 32 32  49152   8192  1.3e5 1e-5 tied
"""
_MISTRAL = """
mistral-7b-v0.1 mistralai/Mistral-7B-v0.1 7,241,732,096 4096 14336 32 32 8 32000 32768 1e4 1e-5 sliding_window=4096
mistral-7b-v0.3 mistralai/Mistral-7B-v0.3 7,248,023,552 4096 14336 32 32 8 32768 32768 1e6 1e-5
mistral-nemo-12b mistralai/Mistral-Nemo-Base-2407 12,247,782,400 5120 14336 40 32 8 131072 128000 1e6 1e-5
mistral-small-24b mistralai/Mistral-Small-24B-Base-2501 23,572,403,200 5120 32768 40 32 8 131072 32768 1e8 1e-5
"""
_QWEN_2 = """
qwen2.5-0.5b Qwen/Qwen2.5-0.5B    494,032,768  896  4864 24 14 2 151936  32768 1e6 1e-6 tied
qwen2.5-1.5b Qwen/Qwen2.5-1.5B  1,543,714,304 1536  8960 28 12 2 151936 131072 1e6 1e-6 tied
qwen2.5-3b   Qwen/Qwen2.5-3B    3,085,938,688 2048 11008 36 16 2 151936  32768 1e6 1e-6 tied
qwen2.5-7b   Qwen/Qwen2.5-7B    7,615,616,512 3584 18944 28 28 4 152064 131072 1e6 1e-6
qwen2.5-14b  Qwen/Qwen2.5-14B  14,770,033,664 5120 13824 48 40 8 152064 131072 1e6 1e-5
qwen2.5-32b  Qwen/Qwen2.5-32B  32,763,876,352 5120 27648 64 40 8 152064 131072 1e6 1e-5
qwen2.5-72b  Qwen/Qwen2.5-72B  72,706,203,648 8192 29568 80 64 8 152064 131072 1e6 1e-5
"""
_QWEN_3 = """
qwen3-0.6b Qwen/Qwen3-0.6B    596,049,920 1024  3072 28 16 8 151936 40960 1e6 1e-6 tied
qwen3-1.7b Qwen/Qwen3-1.7B  1,720,574,976 2048  6144 28 16 8 151936 40960 1e6 1e-6 tied
qwen3-4b   Qwen/Qwen3-4B    4,022,468,096 2560  9728 36 32 8 151936 40960 1e6 1e-6 tied
qwen3-8b   Qwen/Qwen3-8B    8,190,735,360 4096 12288 36 32 8 151936 40960 1e6 1e-6
qwen3-14b  Qwen/Qwen3-14B  14,768,307,200 5120 17408 40 40 8 151936 40960 1e6 1e-6
qwen3-32b  Qwen/Qwen3-32B  32,762,123,264 5120 25600 64 64 8 151936 40960 1e6 1e-6
"""
POSITIONS_OF_LLAMA_3 = 8192
SHAPE = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
)


@dataclass(frozen=True)
class Architecture:
    """A published network: `source` has its config.json, `model_type` and the keys of `config` are transformers'."""

    source: str
    parameters: int
    model_type: str
    config: dict[str, Any]

    @property
    def layers(self) -> int:
        return int(self.config["num_hidden_layers"])

    @property
    def width(self) -> int:
        return int(self.config["hidden_size"])

    @property
    def vocab_size(self) -> int:
        return int(self.config["vocab_size"])


def _read(line: str, kind: str, shared: Mapping[str, Any]) -> tuple[str, Architecture]:
    name, source, parameters, *sizes = line.split()
    shape = {key: int(size) for key, size in zip(SHAPE, sizes, strict=False)}
    rope, eps, *others = sizes[len(SHAPE) :]
    own = {key: int(value) for key, _, value in (each.partition("=") for each in others if each != "tied")}
    common = {"rope_parameters": _rope(rope), "rms_norm_eps": float(eps), "tie_word_embeddings": "tied" in others}
    return name, Architecture(source, int(parameters.replace(",", "")), kind, {**shape, **common, **shared, **own})


def _rope(text: str) -> dict[str, Any]:
    theta, _, factor = text.partition("/")
    if not factor:
        return {"rope_type": "default", "rope_theta": float(theta)}
    return {
        "rope_type": "llama3",
        "rope_theta": float(theta),
        "factor": float(factor),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": POSITIONS_OF_LLAMA_3,
    }


_KINDS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("llama", _LLAMA, {}),
    ("mistral", _MISTRAL, {"head_dim": 128, "sliding_window": None}),
    ("qwen2", _QWEN_2, {}),
    ("qwen3", _QWEN_3, {"head_dim": 128}),
)
ARCHITECTURES = dict(_read(line, kind, shared) for kind, table, shared in _KINDS for line in table.strip().splitlines())


def refuse_unknown(name: str) -> None:
    """Raise ValueError, with the nearest, for a name that no architecture has."""
    if name in ARCHITECTURES:
        return
    lowered = name.rpartition("/")[2].lower()
    near = nearest(lowered, ARCHITECTURES, 3)
    told = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(ARCHITECTURES)}"
    raise ValueError(f"no dimensions are known of {name!r}: {told}")
