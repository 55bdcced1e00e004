"""Executes the PTX that Triton emits for sm_80 to sm_89, in NumPy: all threads of a block in step, one block at a time.

What it checks while it computes: every access to global memory is inside its tensor and aligned; shared memory is inside
the block's allocation, written before it is read, and not exchanged between warps without a barrier; what `cp.async`
copies is not there before it is waited for; registers are written before they are read; branches are uniform.
"""
