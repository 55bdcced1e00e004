"""How this process asks the operating system for memory and processors. No torch here: it has to come before torch.

A training step allocates and frees the same large tensors again and again. By default glibc gives freed memory back to
the kernel as soon as 64 MiB lie together, and the kernel hands it out anew, zeroed, page by page: a tenth of a step.

The threads of torch wait for each other many hundred times per step. libgomp lets them spin for milliseconds; when
something else needs a core, the one that is waited for may be the one that does not run.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import importlib
import os
import platform
import sys

from galore.trainer.common.errors import UserError

# mallopt's parameters, from glibc's malloc.h
M_TRIM_THRESHOLD = -1  # free bytes at the top of the heap that are given back
M_MMAP_THRESHOLD = -3  # requests above it do not extend the heap: holes in it cannot add up without bound
MIB = 2**20

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # torch: madvise(MADV_HUGEPAGE) tensors of 2 MiB and more; read at its first one

ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # torch's new name and its old one, which all know
EXPANDABLE = "expandable_segments"

SPINS = "GOMP_SPINCOUNT"  # rounds that a waiting thread spins before it sleeps; read when libgomp is loaded
WAITING = ("OMP_WAIT_POLICY", SPINS)


def processes() -> int:
    """How many processes torchrun started together with this one, itself counted; 1 without it."""
    told = os.environ.get("WORLD_SIZE") or "1"
    if not told.isdecimal() or not int(told):
        what, where = f"{told!r} is no number of processes", "environment variable WORLD_SIZE"
        raise UserError(what, where=where, fix="unset it, or start galore with torchrun")
    return int(told)


def starter() -> str:
    """What starts galore as this process was started; … for the words that are each machine's own."""
    if processes() == 1:
        return "galore"
    here = os.environ.get("LOCAL_WORLD_SIZE")
    return f"torchrun {f'--nproc-per-node={here}' if here == os.environ['WORLD_SIZE'] else '…'} -m galore"


def is_first(on_machine: bool = False) -> bool:
    """Whether this is the first of them, which speaks for all; `on_machine`: of those on this machine."""
    if os.environ.get("LOCAL_RANK" if on_machine else "RANK", "0") == "0":
        return True
    try:
        return processes() == 1
    except UserError:  # which is what is to be told
        return True


def prepare_process() -> tuple[str, ...]:
    """What a process that trains on the CPU should ask for before it imports torch; returns lines that say what it did.

    What the user has set in the environment is respected. May be called again: it only tells then.
    """
    return *reuse_freed_memory(), spin_briefly()


def import_libraries() -> None:
    """Import torch and transformers at once, a fifth quicker than bit by bit: nothing that they make is garbage.

    While they are imported no garbage is looked for, and later collections pass over what they are made of.
    """
    if "torch" in sys.modules:  # then others' objects are there, too, and may yet become garbage
        return
    collecting = gc.isenabled()
    gc.disable()
    try:
        importlib.import_module("transformers.modeling_utils")
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # Triton's bindings report what is left of them at the end, on the terminal
        if collecting:
            gc.enable()


@functools.cache
def reuse_freed_memory() -> tuple[str, ...]:
    """Keep freed blocks in this process, and put large tensors on huge pages; returns lines that say what was done.

    The resident size then stays near its peak, as with a GPU's caching allocator. Huge pages come only when torch has
    made no tensor yet. A value of `THP_MEM_ALLOC_ENABLE` that the user has set is respected.
    """
    return _keep_blocks(), _ask_for_huge_pages()


def expandable_segments(wanted: bool) -> bool:
    """Whether CUDA's memory will come in segments that grow: as the environment says, else as `wanted`; Linux only."""
    settings = next((os.environ[name] for name in ALLOCATOR if name in os.environ), None)
    if settings is None:
        return wanted and sys.platform == "linux"
    pairs = "".join(settings.split()).split(",")  # torch leaves out blanks
    chosen = dict(pair.split(":", 1) for pair in pairs if ":" in pair)
    return chosen.get(EXPANDABLE, "False").lower() == "true"


def ask_for_expandable_segments(wanted: bool) -> str:
    """Tell torch, before CUDA starts, how to take memory from the device; returns a line that says what was done.

    Segments that grow waste less to fragmentation. Settings that the user has made in the environment are respected.
    """
    chosen = next((f"{name}={os.environ[name]}" for name in ALLOCATOR if name in os.environ), None)
    if chosen is None and expandable_segments(wanted):
        os.environ[ALLOCATOR[1]] = f"{EXPANDABLE}:True"
        return "CUDA memory: in segments that grow (expandable_segments)"
    return f"CUDA memory: as the environment says ({chosen})" if chosen else "CUDA memory: in segments of fixed size"


def _keep_blocks() -> str:
    if platform.libc_ver()[0] != "glibc":
        return "memory: the C library's own policy (only glibc's can be set from inside)"
    mallopt = ctypes.CDLL(None).mallopt
    wanted = {M_MMAP_THRESHOLD: 32 * MIB, M_TRIM_THRESHOLD: 2**31 - 1}
    if not all(mallopt(ctypes.c_int(name), ctypes.c_int(value)) for name, value in wanted.items()):
        return "memory: the C library's own policy (mallopt refused)"
    return "memory: freed blocks are kept and used again (glibc mallopt)"


def _ask_for_huge_pages() -> str:
    if sys.platform != "linux":
        return "pages: as the operating system gives them"
    if os.environ.setdefault(HUGE_PAGES, "1") != "1":
        return f"pages: as the operating system gives them ({HUGE_PAGES} is set to {os.environ[HUGE_PAGES]})"
    return "pages: huge ones asked for, for tensors of 2 MiB and more"


@functools.cache
def spin_briefly() -> str:
    """Let waiting threads of torch sleep soon: twice as fast beside another busy process, and as fast alone."""
    chosen = next((f"{name}={os.environ[name]}" for name in WAITING if name in os.environ), None)
    if chosen is not None:
        return f"threads: wait as the environment says ({chosen})"
    if "torch" in sys.modules:
        return "threads: wait as libgomp has it (torch was loaded before it could be told)"
    os.environ[SPINS] = "1000"
    return "threads: sleep soon while they wait"
