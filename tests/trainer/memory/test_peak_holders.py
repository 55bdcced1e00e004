"""The largest kinds of tensors, counted at many moments in one pass."""

from galore.trainer.memory.peak import Kind, largest, peak_of

MIB = 2**20


def test_alike_tensors_of_all_layers_are_one_kind(trace):
    first, peak, last = largest(trace, [0, 4, len(trace.events) - 1], most=2)
    weights = Kind("weights", "model.layers.*.mlp", "weights", (2048, 2048), "uint8", 4 * MIB)
    assert first == [(weights, 1)]
    assert peak == [(weights, 2), (Kind("activations", "model.layers.*.mlp", "mm", (2 * MIB,), "uint8", 2 * MIB), 2)]
    assert last == [(weights, 2)]


def test_at_every_moment_they_are_those_of_the_peak(long_trace):
    moments = [0, 49, 1000, 1001, 20_000, len(long_trace.events) - 1]
    for moment, found in zip(moments, largest(long_trace, moments, most=5), strict=True):
        sizes = [kind.nbytes * count for kind, count in found]
        assert sizes == [holder.nbytes for holder in peak_of(long_trace, moment).holders[:5]]
