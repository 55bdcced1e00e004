"""The proof on a card: everything that only a GPU can show, in an order of value, within nine minutes.

`python bench/gpu/start.py` prepares what the machine lacks and hands over to `python -m gpu`; see `--help` there.
"""
