"""The recipes named by a card: what each takes of it, and the largest micro-batch that fits: `python bench/cards.py`.

Predicted by trace and replay; nothing is measured on a card. Prints two Markdown tables, of which docs/memory.md has the totals.
"""

from __future__ import annotations

from galore.trainer.fit.predict import profile_on
from galore.trainer.machine.cards import card
from galore.trainer.memory.categories import CATEGORIES, spoken
from galore.trainer.memory.profile import Profile
from galore.trainer.recipe.load import load_recipe

GIB = 2**30
CARDS = {
    "llama-7b-24gb": "rtx4090",
    "llama-7b-16gb": "rtx4080",
    "llama-7b-12gb": "rtx4070",
    "llama-13b-24gb": "rtx4090",
    "llama-1b-8gb": "rtx3070",
    "retnet-1.3b": "rtx4090",
}
OTHERS = {
    "llama-7b-24gb": (["optim.rank=512"], ["optim.rank=256"], ["train.offload_activations=false"]),
    "llama-7b-12gb": (["train.offload_activations=false"],),
}


def profiled(name: str, settings: list[str], micro_batch: int) -> Profile:
    batch = [f"train.micro_batch_size={micro_batch}"]
    return profile_on(load_recipe(name, [*settings, *batch]), card(CARDS[name]))


def largest(name: str, settings: list[str]) -> tuple[int, Profile]:
    """The largest micro-batch, of those that divide the global batch, that surely fits, and its profile."""
    found = 1, profiled(name, settings, 1)
    for size in (2, 4, 8, 16, 32, 64):
        profile = profiled(name, settings, size)
        if not profile.fits:
            break
        found = size, profile
    return found


def main() -> None:
    kinds = [spoken(each) for each in CATEGORIES]
    print(f"| recipe | {' | '.join(kinds)} | overhead | context | total, GiB |")
    print("|---" * (len(kinds) + 4) + "|")
    rows = []
    for name in CARDS:
        for settings in ([], *OTHERS.get(name, ())):
            label = " ".join([name, *settings])
            one = profiled(name, settings, 1)
            held = [f"{each / GIB:.2f}" for each in one.categories.values()]
            print(f"| {label} | {' | '.join(held)} | {one.total.high / GIB:.2f} |", flush=True)
            rows.append((label, CARDS[name], *largest(name, settings)))
    print("\n| recipe | card | of, GiB | largest micro-batch × 2,048 | its total, GiB |\n|---|---|---|---|---|")
    for label, gpu, size, profile in rows:
        print(f"| {label} | {gpu} | {profile.limit.low / GIB:.2f} | {size} | {profile.total.high / GIB:.2f} |")


if __name__ == "__main__":
    main()
