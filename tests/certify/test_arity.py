"""How many inputs nodes may have is ONNX's own say."""

from __future__ import annotations

from itertools import product

import onnx
import pytest

from lipmodel.network.reader.read import MAX_OPSET, MIN_OPSET, read_onnx
from lipmodel.network.reader.signatures import ANY, USUAL, is_usual
from tests.networks import groupsort_net, to_file

OPERATORS = sorted(set().union(*USUAL.values()))
OPSETS = range(MIN_OPSET, MAX_OPSET + 1)


@pytest.mark.parametrize("op", OPERATORS)
def test_what_the_table_allows_the_definitions_allow(op):
    for opset, count in product(OPSETS, (*range(8), ANY)):
        if is_usual(op, opset, count):
            schema = onnx.defs.get_schema(op, opset, "")
            assert schema.min_input <= count <= schema.max_input, (opset, count)


def test_a_usual_file_is_read_without_the_definitions(monkeypatch):
    monkeypatch.delattr(onnx.defs, "get_schema")
    read_onnx(to_file(groupsort_net()))
