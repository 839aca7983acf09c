"""Rewrites that join operations for which bounds one by one would prove less.

Each rewrite keeps the function exactly and the rounding within the same bound.
"""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import numpy as np

from lipmodel.network import ops
from lipmodel.network.ops import Graph, Op


def simplify(graph: Graph) -> Graph:
    """Return a graph after each of ``REWRITES`` in turn, without unused operations."""
    return reduce(lambda rewritten, rewrite: rewrite(rewritten), REWRITES, graph.pruned()).pruned()


def drop_identities(graph: Graph) -> Graph:
    """Drop reshapes to the shape that a tensor already has; Identity is read as one.

    Where one makes the output itself, the operation before it makes the output instead, if there is any.
    """
    renamed: dict[str, str] = {}
    kept: list[Op] = []
    shapes = graph.shapes()
    for op in graph.ops:
        inputs = tuple(renamed.get(name, name) for name in op.inputs)
        needed = op.output == graph.output and inputs[0] == graph.input
        if isinstance(op, ops.Reshape) and shapes[op.inputs[0]] == op.shape and not needed:
            renamed[op.output] = inputs[0]
        else:
            kept.append(replace(op, inputs=inputs))
    return replace(graph, ops=tuple(kept), output=renamed.get(graph.output, graph.output))


def merge_biases(graph: Graph) -> Graph:
    """Join a matrix product and the addition of a bias to one Dense.

    The bias then takes part in the per-pair constants of the head. Precondition: nothing else reads the
    product, it is not the output, and the bias is the same for every row.
    """
    consumers = graph.consumers()
    made = {op.output: op for op in graph.ops}
    merged: dict[str, Op] = {}
    dropped: set[str] = set()
    for op in graph.ops:
        source = made.get(op.inputs[0])
        if (
            isinstance(op, ops.Shift)
            and isinstance(source, ops.Dense)
            and source.bias is None
            and source.output != graph.output
            and len(consumers[source.output]) == 1
            and op.offset.ndim <= 1
        ):
            bias = np.broadcast_to(op.offset, source.weight.shape[:1])
            merged[op.output] = replace(source, output=op.output, bias=bias)
            dropped.add(source.output)
    return replace(
        graph, ops=tuple(merged.get(op.output, op) for op in graph.ops if op.output not in dropped)
    )


def join_pairs(graph: Graph) -> Graph:
    """Join the ReduceMax and the ReduceMin over an axis, and their Concat along it, to one SortingNetwork.

    Precondition: the axis has size 2, so that each pair is sorted.
    """
    made = {op.output: op for op in graph.ops}
    shapes = graph.shapes()
    joined: dict[str, Op] = {}
    for op in graph.ops:
        if not isinstance(op, ops.Concat):
            continue
        parts = [made.get(name) for name in op.inputs]
        reduced = [p for p in parts if isinstance(p, ops.ReduceExtremum) and p.axes == (op.axis,)]
        if len(reduced) != 2 or len(parts) != 2 or {p.kind for p in reduced} != {"max", "min"}:
            continue
        source = reduced[0].inputs
        if reduced[1].inputs == source and shapes[source[0]][op.axis] == 2 and op.shape == shapes[source[0]]:
            joined[op.output] = ops.SortingNetwork(
                output=op.output,
                inputs=source,
                shape=op.shape,
                node=op.node,
                axis=op.axis,
                length=2,
                wires=((0,), (1,)),
                comparators=((0, 1),),
                joined=tuple(0 if p.kind == "max" else 1 for p in reduced),
            )
    return replace(graph, ops=tuple(joined.get(op.output, op) for op in graph.ops))


def join_sorting_networks(graph: Graph) -> Graph:
    """Join Max and Min of the same slices, and the Concat of the results, to one SortingNetwork.

    The network is 1-Lipschitz, where its nodes one by one would give √2 in l2. Preconditions:
    :func:`_sorting_network`.
    """
    consumers = graph.consumers()
    made = {op.output: op for op in graph.ops}
    joined = {
        op.output: network
        for op in graph.ops
        if isinstance(op, ops.Concat) and (network := _sorting_network(op, graph, made, consumers))
    }
    return replace(graph, ops=tuple(joined.get(op.output, op) for op in graph.ops))


def _sorting_network(
    concat: ops.Concat, graph: Graph, made: dict[str, Op], consumers: dict[str, list[Op]]
) -> ops.SortingNetwork | None:
    """Return the sorting network that ends in a Concat, or None where there is none.

    Preconditions: every tensor between the slices and the Concat is used only in between; the slices
    are disjoint, along the Concat's axis, of one tensor and of one size; every max and every min is
    of two wires that nothing else reads, so that after it the pair is worth two wires again.
    """
    inside: dict[str, Op] = {}
    stack = list(concat.inputs)
    while stack:
        name = stack.pop()
        op = made.get(name)
        if name in inside:
            continue
        if op is None or name == graph.output or not isinstance(op, (ops.Select, ops.Extremum)):
            return None
        inside[name] = op
        if isinstance(op, ops.Extremum):
            stack.extend(op.inputs)
    slices = [op for op in inside.values() if isinstance(op, ops.Select)]
    extrema = [op for op in inside.values() if isinstance(op, ops.Extremum)]
    if not extrema or any(
        consumer is not concat and consumer.output not in inside
        for name in inside
        for consumer in consumers[name]
    ):
        return None
    slices.sort(key=lambda op: op.indices)
    if (
        len({op.inputs for op in slices}) != 1
        or len({len(op.indices) for op in slices}) != 1
        or any(op.axis != concat.axis for op in slices)
        or not ops.distinct(i for op in slices for i in op.indices)
    ):
        return None
    wire = {op.output: number for number, op in enumerate(slices)}
    comparators: list[tuple[int, int]] = []
    pending = _in_order(extrema)
    done: set[str] = set()
    for op in pending:
        if op.output in done:
            continue
        if len(op.inputs) != 2 or any(name not in wire for name in op.inputs):
            return None
        a, b = op.inputs
        partners = [c for c in consumers[a] if isinstance(c, ops.Extremum) and set(c.inputs) == {a, b}]
        readers = {c.output for c in consumers[a]} | {c.output for c in consumers[b]}
        kinds = sorted(c.kind for c in partners)
        if readers != {c.output for c in partners} or kinds not in (["max", "min"], ["max"], ["min"]):
            return None
        i, j = wire.pop(a), wire.pop(b)
        comparators.append((i, j))
        for partner in partners:
            wire[partner.output] = i if partner.kind == "max" else j
            done.add(partner.output)
    if any(name not in wire for name in concat.inputs) or not ops.distinct(wire[n] for n in concat.inputs):
        return None
    return ops.SortingNetwork(
        output=concat.output,
        inputs=slices[0].inputs,
        shape=concat.shape,
        node=concat.node,
        axis=concat.axis,
        length=graph.shapes()[slices[0].inputs[0]][concat.axis],
        wires=tuple(op.indices for op in slices),
        comparators=tuple(comparators),
        joined=tuple(wire[name] for name in concat.inputs),
    )


def _in_order(extrema: list[ops.Extremum]) -> list[ops.Extremum]:
    """Return max and min operations in topological order."""
    waiting = {op.output: op for op in extrema}
    ordered: list[ops.Extremum] = []
    visiting = list(extrema)
    while visiting:
        op = visiting[-1]
        before = [waiting[name] for name in op.inputs if name in waiting]
        if op.output not in waiting:
            visiting.pop()
        elif before:
            visiting.extend(before)
        else:
            ordered.append(waiting.pop(op.output))
            visiting.pop()
    return ordered


REWRITES = (drop_identities, merge_biases, join_pairs, join_sorting_networks)
"""The rewrites of :func:`simplify`, in order: a later one may rely on an earlier one."""
