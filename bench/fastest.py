"""The setting that `profile-memory --fastest` finds on this CPU against the recipe's own, in turns.

    python bench/fastest.py RECIPE [SECTION.KEY=VALUE …] [--turns N] [--steps N]
        [--setting SECTION.KEY=VALUE …]

Each line is a setting: the median, least and most of the tokens/s that were measured in so many turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from turns import Child, Task

from galore.trainer.machine.process import prepare_process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--setting", action="append", help="compare with this instead of searching; several times")
    parser.add_argument("--steps", type=int, default=2)
    given = parser.parse_args()
    prepare_process()  # before torch is imported

    from galore.trainer.fit.search.fastest import Search
    from galore.trainer.fit.search.places import Here
    from galore.trainer.parameters import planned_vocabulary
    from galore.trainer.recipe.change import spelled
    from galore.trainer.recipe.load import load_recipe

    loaded = load_recipe(given.recipe, ["train.device=cpu", *given.overrides])
    if given.setting:
        chosen = {f"given {number}": [each] for number, each in enumerate(given.setting, 1)}
    else:
        found = Search(loaded, Here(None), lambda text: print(f"trying {text}", flush=True)).run()
        chosen = {
            "fastest": spelled(found.best.settings),
            "second best": spelled(found.second.settings if found.second else {}),
        }
    standing = [*given.overrides, f"model.vocab_size={planned_vocabulary(loaded)[0]}"]
    sides, words = {}, {}
    for name, settings in {"as it is": [], **{name: each for name, each in chosen.items() if each}}.items():
        train = load_recipe(given.recipe, [*standing, *settings]).recipe.train
        rest = [each for each in settings if not each.startswith("train.micro_batch_size")]
        task = Task(given.recipe, train.global_batch_size, train.micro_batch_size, 10_000, settings=(*standing, *rest))
        sides[name], words[name] = Child("ours", task), " ".join(settings)
    for child in sides.values():
        child.take(1)  # the first step finds the subspaces
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(given.turns):
        for name in sorted(sides, reverse=bool(turn % 2)):
            rates[name].append(sides[name].take(given.steps))
    print(f"\n{given.recipe}: {given.turns} turns of {given.steps} steps; tokens/s\n")
    print("| | setting | median | least–most |\n|---|---|---|---|")
    for name, child in sides.items():
        taken = rates[name]
        middle, least, most = statistics.median(taken), min(taken), max(taken)
        print(f"| {name} | {words[name] or '–'} | {middle:,.0f} | {least:,.0f}–{most:,.0f} |")
        child.end()


if __name__ == "__main__":
    main()
