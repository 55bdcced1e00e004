"""A step recorded on meta tensors: every storage from birth to death."""
