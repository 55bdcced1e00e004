"""The proof against faults: kill, fail, cut off, corrupt, fuzz, and see that nothing is lost and nothing lies.

`python -m prove`, from bench/; see `--help` there. It needs Linux and gcc, no card.
"""
