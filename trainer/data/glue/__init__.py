"""The rows of GLUE's tasks, in whichever layout they come."""
