"""Public networks by name, and the smallest card that trains each: `python bench/sizes.py [--write] [NAME…]`.

Predicted by trace and replay; nothing is measured on a card. A trace is of one shape of card, and replayed with the
memory of each. Prints a Markdown table; --write puts the rows into that of docs/sizes.md. All of it is an hour of one slow core.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from galore.trainer.common.format import GIB
from galore.trainer.fit.hostmemory import host_profile
from galore.trainer.fit.predict import profile_on
from galore.trainer.machine.cards import card
from galore.trainer.recipe.architectures import ARCHITECTURES
from galore.trainer.recipe.load import load_recipe

PAGE = Path(__file__).parents[1] / "docs/sizes.md"
CARDS = ("8GB", "12GB", "16GB", "24GB", "32GB", "48GB", "80GB")
COMMON = tuple(f"**{size}**" for size in (8, 12, 16, 24))
STREAMED = "the same, weights streamed; machine"
METHODS = {
    "AdamW": ("llama-7b-24gb", ["optim.method=full", "optim.state_dtype=float32"]),
    "LoRA r=16": ("llama-7b-24gb", ["optim.method=lora", "optim.rank=16", "optim.state_dtype=float32"]),
    "GaLore 8-bit r=512": ("llama-7b-24gb", ["optim.rank=512"]),
    "GaLore r=256, weights in 8 bits": ("llama-7b-12gb", []),
    STREAMED: ("llama-7b-12gb", ["train.stream_weights=true"]),
}
HEAD = f"| model | parameters | {' | '.join(METHODS)} |\n" + "|---" * (len(METHODS) + 2) + "|"
# Llama 2 7B and 13B have the shapes of the first LLaMA, Llama 3.1 those of Llama 3
ROWS = (
    *("qwen3-0.6b", "llama-3.2-1b", "qwen2.5-1.5b", "qwen3-1.7b", "llama-3.2-3b", "qwen3-4b", "llama-2-7b"),
    *("mistral-7b-v0.3", "qwen2.5-7b", "llama-3-8b", "qwen3-8b", "mistral-nemo-12b", "llama-2-13b", "qwen3-14b"),
    *("mistral-small-24b", "llama-33b", "qwen2.5-32b", "qwen3-32b", "llama-65b", "llama-2-70b", "llama-3-70b"),
    "qwen2.5-72b",
)


def cell(model: str, method: str) -> str:
    """The smallest card that surely trains it, in GB, and the total there in GiB; a dash and the total where none does.

    Of streamed weights also the smallest machine, in GB of its own memory.
    """
    recipe, settings = METHODS[method]
    loaded = load_recipe(recipe, [f"model.architecture_of={model}", *settings])
    traced = profile_on(loaded, card(CARDS[-1]), brief=True)
    for name in CARDS:
        profile = replace(traced, card=card(name))
        if traced.allocated.low <= profile.limit.high and profile.fits:
            beside = f"; {host_profile(loaded, 'cuda').least_machine}" if method == STREAMED else ""
            return f"**{name.removesuffix('GB')}** ({profile.total.high / GIB:.1f}){beside}"
    return f"– ({traced.total.high / GIB:.1f})"


def row(model: str) -> str:
    """A line of the table; streamed is what no common card holds."""
    cells = [cell(model, method) for method in METHODS if method != STREAMED]
    cells.append("" if cells[-1].startswith(COMMON) else cell(model, STREAMED))
    return f"| {model} | {ARCHITECTURES[model].parameters / 1e9:.2f}B | {' | '.join(cells)} |"


def main(names: list[str]) -> None:
    chosen = [name for name in names if name != "--write"] or list(ROWS)
    print(HEAD)
    for name in chosen:
        print(made := row(name), flush=True)
        if "--write" in names:
            PAGE.write_text(with_row(PAGE.read_text(encoding="utf-8"), name, made), encoding="utf-8")


def with_row(page: str, name: str, made: str) -> str:
    """The page with one row new, in the order of `ROWS`; rows below another head are dropped."""
    above, _, rest = page.partition("| model | parameters |")
    head, _, below = rest.partition("\n\n")
    old = f"| model | parameters |{head}".splitlines()
    kept = {line.split("|")[1].strip(): line for line in old[2:] if "\n".join(old[:2]) == HEAD}
    rows = sorted({**kept, name: made}.items(), key=lambda each: ROWS.index(each[0]))
    return f"{above}{HEAD}\n" + "\n".join(line for _, line in rows) + f"\n\n{below}"


if __name__ == "__main__":
    main(sys.argv[1:])
