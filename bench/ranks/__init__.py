"""Several processes on this machine against one: the same numbers, killed and resumed, on two agents, and how fast.

`PYTHONPATH=bench python -m ranks`; see `--help`.
"""
