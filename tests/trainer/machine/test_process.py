"""Memory policy of the process: blocks really are reused, and no torch is needed to ask for it. The user goes first."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.machine.process import is_first, processes

PROGRAM = """
import ctypes, resource, sys
from galore.trainer.machine.process import reuse_freed_memory
if {asked}:
    print(*reuse_freed_memory(), sep="\\n")
assert "torch" not in sys.modules
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def step():
    blocks = [libc.malloc(ctypes.c_size_t(24 << 20)) for _ in range(8)]
    for block in blocks:
        ctypes.memset(block, 1, 24 << 20)
    for block in blocks:
        libc.free(ctypes.c_void_p(block))
step(), step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step(), step(), step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(program: str, **environment: str) -> list[str]:
    ours = ("MALLOC_", "THP_", "OMP_", "GOMP_", "PYTORCH_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    result = subprocess.run(
        [sys.executable, "-c", program], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    return result.stdout.splitlines()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_blocks_are_used_again():
    memory, _, faults = run(PROGRAM.format(asked=True))
    assert "used again" in memory
    assert int(faults) < 100
    assert int(run(PROGRAM.format(asked=False))[0]) > 1000  # the default policy gives 192 MiB back every time


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are Linux's")
def test_huge_pages_are_asked_for_unless_the_user_said_otherwise():
    program = "import os; from galore.trainer.machine.process import *; print(reuse_freed_memory()[1], os.environ[HUGE_PAGES])"
    assert run(program) == ["pages: huge ones asked for, for tensors of 2 MiB and more 1"]
    assert "is set to 0) 0" in run(program, THP_MEM_ALLOC_ENABLE="0")[0]


def test_waiting_threads_sleep_soon_unless_the_user_said_otherwise():
    program = "import os; from galore.trainer.machine.process import *; print(spin_briefly(), os.environ.get(SPINS))"
    assert run(program) == ["threads: sleep soon while they wait 1000"]
    assert run(program, OMP_WAIT_POLICY="active") == [
        "threads: wait as the environment says (OMP_WAIT_POLICY=active) None"
    ]
    assert "torch was loaded" in run(f"import sys; sys.modules['torch'] = None; {program}")[0]


def test_a_second_call_tells_the_same():
    first, second = run(
        "from galore.trainer.machine.process import *; print(prepare_process()); print(prepare_process())"
    )
    assert first == second
    assert "sleep soon" in first


SEGMENTS = """
import os, sys
from galore.trainer.machine.process import *
for wanted in (True, False):
    print(expandable_segments(wanted), ask_for_expandable_segments(wanted), os.environ.get(ALLOCATOR[1]), sep=" | ")
    os.environ.pop(ALLOCATOR[1], None)
assert "torch" not in sys.modules
"""


@pytest.mark.skipif(sys.platform != "linux", reason="segments that grow are Linux's")
def test_segments_that_grow_are_asked_for_where_they_are_wanted():
    assert run(SEGMENTS) == [
        "True | CUDA memory: in segments that grow (expandable_segments) | expandable_segments:True",
        "False | CUDA memory: in segments of fixed size | None",
    ]


@pytest.mark.parametrize(
    ("settings", "grow"),
    [
        ("expandable_segments:True", True),
        ("expandable_segments:False", False),
        ("max_split_size_mb:128", False),
        ("max_split_size_mb:128,expandable_segments:True", True),
        ("max_split_size_mb:128, expandable_segments: True", True),
        ("expandable_segments:True,roundup_power2_divisions:[256:1,512:2,>:4]", True),
        ("roundup_power2_divisions:[256:1,512:2],expandable_segments:True", True),
        ("", False),
    ],
)
@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_the_users_settings_of_cudas_memory_go_first(name: str, settings: str, grow: bool):
    program = "import os; from galore.trainer.machine.process import *; before = dict(os.environ)\n"
    program += "for wanted in (True, False): print(expandable_segments(wanted), ask_for_expandable_segments(wanted))\n"
    program += "assert dict(os.environ) == before"
    assert run(program, **{name: settings}) == [f"{grow} CUDA memory: as the environment says ({name}={settings})"] * 2


def test_torchs_new_name_of_the_settings_goes_before_the_old():
    program = "from galore.trainer.machine.process import *; print(expandable_segments(True))"
    for new, old in (("True", "False"), ("False", "True")):
        both = {
            "PYTORCH_ALLOC_CONF": f"expandable_segments:{new}",
            "PYTORCH_CUDA_ALLOC_CONF": f"expandable_segments:{old}",
        }
        assert run(program, **both) == [new]


LIBRARIES = """
import atexit, gc, sys
atexit.register(lambda: print("kept at the end:", gc.get_freeze_count()))
from galore.trainer.machine.process import import_libraries
class Torch:
    def find_spec(name, path=None, target=None):
        if name == "torch":
            print("collecting:", gc.isenabled())
sys.meta_path.insert(0, Torch)
import_libraries()
print("collecting:", gc.isenabled(), "transformers.modeling_utils" in sys.modules, gc.get_freeze_count() > 100_000)
before = gc.get_freeze_count()
made = [[] for _ in range(10)]
import_libraries()
print(gc.get_freeze_count() == before)
"""


def test_libraries_are_imported_without_looking_for_garbage():
    first, *_, last, again, end = run(LIBRARIES)
    assert (first, last, again) == ("collecting: False", "collecting: True True True", "True")
    assert end == "kept at the end: 0"


@pytest.mark.parametrize("told", ["two", "-1", "1.5", "0"])
def test_a_number_of_processes_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", told)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(UserError, match=f"environment variable WORLD_SIZE: '{told}' is no number of processes"):
        processes()
    assert is_first(on_machine=True), "whoever tells it asks for that"
    monkeypatch.setenv("WORLD_SIZE", "")
    assert processes() == 1
