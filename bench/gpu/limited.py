"""`galore …` in a process that may take no more of the card than another card has: `python -m gpu.limited --limit BYTES …`.

`--cheap` before it: weights are drawn as in `gpu.cheap`.
"""

from __future__ import annotations

import sys


def limit(nbytes: int) -> None:
    """PyTorch's allocator of this process gives out no more than `nbytes`, as on a card that has no more."""
    import torch

    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, nbytes / total))


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] == ["--cheap"]:
        from gpu.cheap import draw_cheaply

        draw_cheaply()
        arguments = arguments[1:]
    if arguments[:1] == ["--limit"]:
        # before torch reads its settings: the recipes ask for segments that grow, and so does this process
        from galore.trainer.machine.process import ask_for_expandable_segments

        ask_for_expandable_segments(True)
        limit(int(arguments[1]))
        arguments = arguments[2:]
    from galore.cli.main import main as galore

    sys.argv = ["galore", *arguments]
    galore()


if __name__ == "__main__":
    main()
