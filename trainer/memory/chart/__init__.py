"""The memory of a step as a picture and as a page."""
