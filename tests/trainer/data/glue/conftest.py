"""The tasks' rows in every layout, see tests/tools/glue_files.py."""

from glue_files import examples, layout, refused, task, write_as

__all__ = ["examples", "layout", "refused", "task", "write_as"]
