"""A launch that finds its compiled kernel at once asks a launcher for what Triton's own way asks it for, or goes that way."""

import importlib
import itertools
import pkgutil
import runpy
import weakref
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need the optional package triton")
import triton
import triton.language as tl
from kernel_machines import _interpreted
from triton.backends.compiler import BaseBackend, GPUTarget
from triton.runtime import jit as binders
from triton.runtime.driver import driver as active
from triton.runtime.jit import JITFunction

from galore.kernels.triton import direct, jit

pytestmark = pytest.mark.skipif(
    not triton.__version__.startswith(direct.KNOWN), reason="the launchers of this Triton are not known"
)
OPTIONS = (4, 2)
UNUSED = 90  # index of a device that no machine has: what is compiled for it is found by nobody else


@triton.jit(do_not_specialize=["word"])
def scale_kernel(OUT, X, BIAS, count, word, factor, SIZE: tl.constexpr, EVEN: tl.constexpr):
    offset = tl.arange(0, SIZE)
    mask = None if EVEN else offset < count
    value = tl.load(X + offset, mask=mask) * factor + word
    if BIAS is not None:
        value += tl.load(BIAS + offset, mask=mask)
    tl.store(OUT + offset, value, mask=mask)


@triton.jit
def defaulted_kernel(OUT, count=1, SIZE: tl.constexpr = 16):
    tl.store(OUT + tl.arange(0, SIZE), count)


class Driver:
    """A driver of no device: it loads what was compiled, and writes down what launchers are asked for."""

    def __init__(self):
        self.device, self.stream, self.asked, self.loaded = UNUSED, 7, [], itertools.count(1)
        self.utils = SimpleNamespace(
            load_binary=lambda *_: (object(), next(self.loaded), 0, 0, 1024),
            unload_module=lambda module: None,
            get_device_properties=lambda device: {"max_shared_mem": 1 << 17},
        )

    def get_current_target(self):
        return GPUTarget("cuda", 89, 32)

    def get_current_device(self):
        return self.device

    def get_current_stream(self, device):
        return self.stream + device

    def launcher_cls(self, source, metadata):
        kinds = source.signature.values()

        def launcher(*given):
            (*asked, metadata, enter, leave), values = given[:9], given[9:]
            if enter is not None:
                enter(metadata)
            values = [value for value, kind in zip(values, kinds, strict=True) if kind != "constexpr"]
            self.asked.append((*asked, *(x.data_ptr() if isinstance(x, torch.Tensor) else x for x in values)))
            if leave is not None:
                leave(metadata)

        return launcher


@pytest.fixture
def driver(monkeypatch):
    found = Driver()
    monkeypatch.setattr(active, "_active", found)
    monkeypatch.setattr(direct, "_known", {})
    monkeypatch.setattr(direct, "_distrusted", [])
    for kernel in (scale_kernel, defaulted_kernel):
        kernel.device_caches.clear()
    return found


@pytest.fixture
def by_triton(monkeypatch):
    """How many launches went Triton's way."""
    went, way = [], direct.ordinary
    monkeypatch.setattr(direct, "ordinary", lambda *given: (went.append(given), way(*given))[1])
    return went


ROOM = torch.zeros(64)
GIVEN = {"OUT": ROOM, "X": ROOM[16:], "BIAS": ROOM[32:], "count": 16, "word": 3, "factor": 0.5}
FIXED = {"SIZE": 16, "EVEN": False}


def launch(constants=FIXED, grid=(3, 2), options=OPTIONS, **given):
    direct.launch(scale_kernel, grid, GIVEN | given, constants, options)


def test_the_second_of_a_kind_asks_for_what_the_first_asked_for(driver, by_triton):
    launch()
    launch()
    assert len(by_triton) == 1
    first, second = driver.asked
    assert first == second
    assert first[:4] == (3, 2, 1, 7 + UNUSED)


VARIED = {
    "another grid": {"grid": (5, 1)},
    "another tensor": {"X": torch.zeros(64)},
    "another number": {"factor": 0.25},
    "another multiple of 16": {"count": 48},
    "an int that is no multiple": {"count": 15},
    "one": {"count": 1},
    "zero": {"count": 0},
    "a negative number": {"count": -16},
    "1 where nothing is specialized": {"word": 1},
    "a multiple where nothing is specialized": {"word": 32},
    "no tensor": {"BIAS": None},
    "a pointer between multiples of 16": {"X": ROOM[1:]},
    "all pointers between": {"OUT": ROOM[1:], "X": ROOM[2:], "BIAS": ROOM[3:]},
    "another dtype": {"X": torch.zeros(64, dtype=torch.bfloat16)},
    "an int for a number": {"factor": 2},
    "another constant": {"constants": FIXED | {"SIZE": 32}},
    "a constant that is true": {"constants": FIXED | {"EVEN": True}},
    "more warps": {"options": (8, 2)},
    "more stages": {"options": (4, 3)},
    "a wide int": {"count": 1 << 31},
    "a wide negative int": {"count": -(1 << 31) - 1},
    "the widest narrow int": {"count": (1 << 31) - 1},
    "the widest negative one": {"count": -(1 << 31)},
    "a truth": {"word": True},
}


@pytest.mark.parametrize("name", VARIED)
def test_whatever_changes_what_is_asked_for_is_that_of_triton(name, driver, monkeypatch):
    """After launches of another kind, twice; of each the same as in a process that knows no other way than Triton's."""
    launch()
    launch(**VARIED[name])
    launch(**VARIED[name])
    launch()
    found, driver.asked = driver.asked, []
    scale_kernel.device_caches.clear()
    driver.loaded = itertools.count(1)
    monkeypatch.setattr(direct, "_known", {})
    direct.distrust("for this test")
    launch()
    launch(**VARIED[name])
    launch(**VARIED[name])
    launch()
    assert found == driver.asked


VALUES = (
    *(0, 1, 2, 15, 16, 17, 32, -1, -16, -17, (1 << 31) - 1, -(1 << 31)),
    *(0.0, 1.0, 16.0, None),
    *(torch.zeros(4, dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.int8, torch.int64, torch.uint8)),
    torch.nn.Parameter(torch.zeros(4)),
    torch.zeros(4)[1:],
    torch.zeros(4, dtype=torch.bfloat16)[1:],
)


def test_no_kind_is_two_of_tritons():
    for one, other in itertools.product(VALUES, repeat=2):
        theirs = [binders.native_specialize_impl(BaseBackend, each, False, True, True) for each in (one, other)]
        ours = [direct._read((ROOM, each))[0] for each in (one, other)]
        assert theirs[0] == theirs[1] or ours[0] != ours[1], (one, other)


@pytest.mark.parametrize("value", [1 << 31, -(1 << 31) - 1, 1 << 63, True, "text", torch.float32, (1, 2)])
def test_of_other_arguments_nothing_is_known(value):
    assert direct._read((ROOM, value)) is None


class Elsewhere(torch.Tensor):
    def get_device(self):
        return UNUSED


def test_a_tensor_of_another_device_is_left_to_triton():
    there = torch.zeros(1).as_subclass(Elsewhere)
    assert direct._read((there, 1)) is not None
    assert direct._read((there, ROOM)) is None


def test_a_launch_goes_to_the_stream_and_the_device_that_are_current(driver, by_triton):
    launch()
    driver.stream = 21
    launch()
    driver.device = UNUSED + 1
    launch()
    launch()
    assert [asked[3] for asked in driver.asked] == [7 + UNUSED, 21 + UNUSED, 22 + UNUSED, 22 + UNUSED]
    functions = [asked[4] for asked in driver.asked]
    assert functions == [1, 1, 2, 2]  # loaded into each device's context
    assert len(by_triton) == 2


@pytest.mark.parametrize("hook", ["launch_enter_hook", "launch_exit_hook"])
def test_who_listens_is_told_of_every_launch(hook, driver, by_triton):
    launch()
    launch()
    told, chain = [], getattr(triton.knobs.runtime, hook)
    listener = lambda metadata: told.append(metadata.get()["name"])  # noqa: E731
    chain.add(listener)
    try:
        launch()
        launch()
    finally:
        chain.remove(listener)
    assert told == ["scale_kernel"] * 2
    launch()
    assert len(told) == 2
    assert len(by_triton) == 3


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        (triton.knobs.runtime, "launch_enter_hook", lambda metadata: None),
        (triton.knobs.runtime, "debug", True),
        (triton.knobs.compilation, "instrumentation_mode", "mode"),
        (scale_kernel, "pre_run_hooks", [lambda *args, **kwargs: None]),
    ],
)
def test_whoever_watches_is_seen(where, name, value, monkeypatch):
    assert not direct._is_watched(scale_kernel)
    monkeypatch.setattr(where, name, value)
    assert direct._is_watched(scale_kernel)


def test_no_tensor_is_kept(driver):
    tensor = torch.zeros(64)
    launch(X=tensor)
    launch(X=tensor)
    held = weakref.ref(tensor)
    del tensor
    driver.asked.clear()
    assert held() is None


def test_a_launch_that_fails_is_not_kept(driver, by_triton, monkeypatch):
    driver.device = UNUSED + 2  # whose memory nobody has asked for yet
    monkeypatch.setattr(driver.utils, "get_device_properties", lambda device: {"max_shared_mem": -1})
    for _ in range(2):
        with pytest.raises(triton.runtime.errors.OutOfResources):
            launch()
    assert len(by_triton) == 2


def test_a_kernel_with_defaults_goes_tritons_way(driver, by_triton):
    for _ in range(2):
        direct.launch(defaulted_kernel, (1, 1), {"OUT": ROOM}, {}, OPTIONS)
    assert len(by_triton) == len(driver.asked) == 2


def test_every_kernel_of_ours_fits():
    modules = [importlib.import_module(f"{jit.__name__}.{each.name}") for each in pkgutil.iter_modules(jit.__path__)]
    kernels = {name: found for module in modules for name, found in vars(module).items() if name.endswith("_kernel")}
    assert len(kernels) > 12
    assert {name for name, found in kernels.items() if not direct._fits(found)} == set()
    assert all(isinstance(found, JITFunction) for found in kernels.values())


def test_an_interpreted_kernel_does_not():
    assert not direct._fits(_interpreted().adam.adam_kernel)


@pytest.mark.parametrize("version", ["3.5.1", "3.10.0", "4.0.0", "3.60.0"])
def test_a_version_whose_launchers_are_unknown_goes_its_own_way(version, driver, by_triton, monkeypatch):
    monkeypatch.setattr(triton, "__version__", version)
    monkeypatch.setattr(direct, "_unknown", direct._unknown.__wrapped__)
    assert version in direct.refusal()
    launch()
    launch()
    assert len(by_triton) == 2


def test_of_an_unknown_version_nothing_inside_is_needed(monkeypatch):
    monkeypatch.setattr(triton, "__version__", "9.0.0")
    fresh = runpy.run_path(direct.__file__)
    assert not {"knobs", "driver", "JITFunction", "CompiledKernel"} & fresh.keys()
    launched = []
    kernel = {(1, 2): lambda **given: launched.append(given)}
    fresh["launch"](kernel, (1, 2), {"X": ROOM}, {"SIZE": 16}, OPTIONS)
    assert launched == [{"X": ROOM, "SIZE": 16, "num_warps": 4, "num_stages": 2}]


def test_it_can_be_asked_for(driver, by_triton, monkeypatch):
    assert direct._unknown.__wrapped__() == ""
    monkeypatch.setenv(direct.ENVIRONMENT, "triton")
    assert direct._unknown.__wrapped__() == f"{direct.ENVIRONMENT}=triton"


def test_what_is_distrusted_ends(driver, by_triton):
    launch()
    direct.distrust("a test says so")
    launch()
    assert direct.refusal() == "a test says so"
    assert len(by_triton) == 2
