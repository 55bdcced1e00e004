"""The nine tasks of GLUE and their metrics."""
