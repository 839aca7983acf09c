"""Comparator networks sort, by the 0-1 principle; graphs know their shapes and readers."""

from __future__ import annotations

from itertools import product

import pytest

from lipmodel.network.ops import groupsort_comparators
from tests.networks import groupsort_net


@pytest.mark.parametrize("size", range(1, 11))
def test_comparators_sort_descending(size):
    """A network that sorts every input of zeros and ones sorts every input (Knuth, TAOCP 3, 5.3.4 Z)."""
    for bits in product((0, 1), repeat=size):
        wires = list(bits)
        for i, j in groupsort_comparators(size):
            assert i != j
            wires[i], wires[j] = max(wires[i], wires[j]), min(wires[i], wires[j])
        assert wires == sorted(bits, reverse=True)


@pytest.mark.parametrize(("size", "count"), [(2, 1), (3, 3), (4, 5), (8, 19)])
def test_comparator_counts_are_the_known_ones(size, count):
    assert len(groupsort_comparators(size)) == count


def test_pruned_drops_what_the_output_does_not_need():
    graph = groupsort_net()
    shorter = type(graph)(input=graph.input, input_shape=graph.input_shape, ops=graph.ops, output="a0")
    assert [op.output for op in shorter.pruned().ops] == ["a0"]
    assert [op.output for op in graph.consumers()["a0"]] == ["z0"]
    assert graph.shapes()["scores"] == graph.output_shape == (3,)
