"""The table of the dynamic map: the values of both signs, and where the numbers of each code begin and end."""

import pytest
import torch

from galore.kernels.reference.operations import nearest_code
from galore.kernels.storage.blockwise import code
from galore.kernels.triton import states
from galore.kernels.triton.states import tables

CPU = torch.device("cpu")
MAPS = [(True, states.SIGNED_MAP, states.SIGNED_BOUNDS), (False, states.UNSIGNED_MAP, states.UNSIGNED_BOUNDS)]


@pytest.mark.parametrize(("signed", "values", "bounds"), MAPS)
def test_values_and_bounds_are_those_of_the_nearest_code(signed, values, bounds):
    table, known = tables(CPU), code(signed, CPU)
    assert torch.equal(table[values : values + 256], known)
    bound = table[bounds : bounds + 257]
    assert (bound[0], bound[256]) == (-torch.inf, torch.inf)
    assert bool((bound.diff() > 0).all())
    inside = bound[1:256]
    above = torch.nextafter(inside, torch.tensor(torch.inf))
    assert torch.equal(nearest_code(inside, known), torch.arange(255))  # of two as near the lower one
    assert torch.equal(nearest_code(above, known), torch.arange(1, 256))


def test_each_part_begins_where_16_bytes_can_be_read_and_meta_has_the_size():
    assert all(part % 4 == 0 for _, *parts in MAPS for part in parts)
    assert tables(torch.device("meta")).shape == tables(CPU).shape == (states.SIZE,)


def test_the_default_device_of_the_process_does_not_matter():
    with torch.device("meta"):
        found = tables.__wrapped__(CPU)
    assert torch.equal(found, tables(CPU))
