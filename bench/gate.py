"""Compile every kernel for a card that need not be here and print what it takes: `python bench/gate.py [--sm 89] [--write]`.

`--write` records the figures of sm_89 in tests/golden/kernels-sm89.json, which the tests hold later versions to.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from galore.kernels.predict.catalogue import NEEDS_SM89, cases
from galore.kernels.predict.compiled import compile_launch

GOLDEN = Path(__file__).parents[1] / "tests/golden/kernels-sm89.json"
RECORDED = ("registers", "shared", "tensor_core")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sm", type=int, default=89)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    found = {}
    for name, plan in cases():
        if arguments.sm < 89 and NEEDS_SM89 in name:
            continue
        for launch in plan:
            used = asdict(compile_launch(launch, arguments.sm).resources)
            found[f"{name}: {launch.name}"] = {figure: used[figure] for figure in RECORDED}
            print(f"{name:<36} {launch.name:<26}", *(f"{figure} {value}" for figure, value in used.items()), flush=True)
    if arguments.write and arguments.sm == 89:
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(figures)}" for name, figures in found.items())
        GOLDEN.write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
