"""Every operation has a rule in every table over operations, and a table without one refuses it.

A new operation fails here until it has an example below and a rule in each table; CONTRIBUTING.md,
"Add an operator", lists the tables.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import lipmodel
from lipmodel.audit import gradient, observe
from lipmodel.certify import linear_runs, lipschitz, rounding
from lipmodel.certify.head import linear_head
from lipmodel.certify.rounding import FORMATS, ZERO, Affine, Track
from lipmodel.certify.scaling import bound as witness
from lipmodel.certify.tight import functionals as backward
from lipmodel.certify.tight import local_bounds as local
from lipmodel.certify.tight import primitives as pieces
from lipmodel.certify.tight import slope_gradients as ascent
from lipmodel.certify.tight.functionals import BackwardPass
from lipmodel.certify.tight.local_bounds import LocalBounds
from lipmodel.certify.tight.primitives import Primitive
from lipmodel.network import ops
from lipmodel.network.ops import Graph, Op
from lipmodel.network.window import Window
from lipmodel.network.writer import OnnxBuilder, write_model
from lipmodel.norms import Norm
from lipmodel.threat import BALLS
from lipmodel.verify import evaluation, linear_maps, scaling
from lipmodel.verify import linear_head as ends
from lipmodel.verify import lipschitz as verified_lipschitz
from lipmodel.verify import rounding as verified_rounding
from lipmodel.verify.layer_norms import layer_norms
from lipmodel.verify.linear_head import LinearEnd

WINDOW = Window(spatial=(3, 3), size=(2, 2), strides=(1, 1), dilations=(1, 1), begin=(0, 0), end=(0, 0))
MATRIX = np.array([[0.5, -1.0, 2.0], [1.0, 0.25, -0.5]])


def example(op, before, shape, inputs=1, **fields):
    """A graph of one operation, which reads the input as often as it takes inputs, and flat scores."""
    only = op(output="y", inputs=("x",) * inputs, shape=shape, **fields)
    flat = [ops.Reshape(output="scores", inputs=("y",), shape=(only.size,))] if len(shape) > 1 else []
    return Graph(input="x", input_shape=before, ops=(only, *flat), output="scores" if flat else "y")


EXAMPLES = {
    type(graph.ops[0]): graph
    for graph in (
        example(ops.Dense, (3,), (2,), weight=MATRIX, bias=np.ones(2)),
        example(ops.Scale, (3,), (3,), factor=np.array([0.5, -2.0, 1.0])),
        example(ops.Shift, (3,), (3,), offset=np.array([0.5, -2.0, 1.0])),
        example(ops.Clip, (3,), (3,), low=np.zeros(()), high=np.ones(())),
        example(ops.Abs, (3,), (3,)),
        example(ops.Negate, (3,), (3,)),
        example(ops.LeakyRelu, (3,), (3,), slope=np.full((), 0.25)),
        example(ops.Conv, (1, 3, 3), (2, 2, 2), kernel=np.ones((2, 1, 2, 2)), window=WINDOW),
        example(ops.AveragePool, (1, 3, 3), (1, 2, 2), window=WINDOW, count_padding=False),
        example(ops.MaxPool, (1, 3, 3), (1, 2, 2), window=WINDOW),
        example(ops.Sort, (4,), (3,), axis=0, k=3, largest=True),
        example(
            ops.SortingNetwork, (4,), (4,), axis=0, length=4, wires=((0, 1), (2, 3)), comparators=((0, 1),), joined=(0, 1)
        ),
        example(ops.Extremum, (3,), (3,), inputs=2, kind="max"),
        example(ops.ReduceExtremum, (2, 3), (3,), kind="min", axes=(0,)),
        example(ops.Sum, (3,), (3,), inputs=2),
        example(ops.Concat, (3,), (6,), inputs=2, axis=0),
        example(ops.Select, (3,), (2,), axis=0, indices=(2, 0)),
        example(ops.Reshape, (2, 3), (6,)),
        example(ops.Transpose, (2, 3), (3, 2), permutation=(1, 0)),
    )
}  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class Toy(Op):
    """An operation that no table has a rule for."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ToyPrimitive(Primitive):
    """The same of the primitives of the tight tier."""


TOY = example(Toy, (3,), (3,))
TRACK = Track(size=Affine(0.0, 1.0), error=ZERO)


def kinds(root, package="lipmodel"):
    """Every subclass of a class, however far down, that a package defines."""
    found = [kind for child in root.__subclasses__() for kind in (child, *kinds(child, ""))]
    return [kind for kind in found if kind.__module__.startswith(package)]


def layers(graph):
    return {op.output: layer_norms(op) for op in graph.ops if isinstance(op, ops.Dense | ops.Conv)}


def sets(graph):
    """One set an entry of the input, as verification sends them through a graph."""
    array = np.empty(graph.input_size, dtype=object)
    array[:] = [frozenset([index]) for index in range(graph.input_size)]
    return array.reshape(graph.input_shape)


def run_of(graph):
    size = graph.input_size
    return linear_runs.LinearRun("z", np.ones(size), np.arange(size))


def groups(graph):
    """The groups of numbers before and after an operation that follows a dense layer."""
    flat = ops.Reshape(output="x", inputs=("dense",), shape=graph.input_shape)
    return witness._groups([flat, graph.ops[0]], graph.input_size)


def sent_with_means(graph):
    try:
        return scaling._send(graph.ops[0], sets(graph))
    except scaling.ScalingError:
        return None  # a rule too: verification refuses weights for such a layer


TABLES = {
    "costs": lambda graph: (graph.evaluated_sizes, graph.multiplications),
    "entrywise slopes": lambda graph: lipschitz.bound_tensors(graph, Norm.TWO),
    "rounding errors": lambda graph: rounding.bound_tensors(graph, Norm.TWO, FORMATS[np.float32]),
    "ONNX nodes": lambda graph: [write_model(graph, dtype) for dtype in FORMATS],
    "gradient tensor sizes": lambda graph: gradient.GradientEngine(graph).jacobians(np.ones((2, graph.input_size))),
    "gradient rounding errors": lambda graph: observe._roundings(graph.ops[0]),
    "absolute weights": lambda graph: observe.bound_gradient_error(graph, Norm.TWO),
    "scaled norms": groups,
    "primitives": pieces.decompose,
    "verified entrywise slopes": lambda graph: verified_lipschitz.lipschitz_constants(
        graph, layers(graph), BALLS[Norm.TWO]
    ),
    "linear maps in a row": lambda graph: [linear_runs.follow(run, graph.ops[0]) for run in (None, run_of(graph))],
    "verified linear maps": lambda graph: linear_maps.LinearMaps(graph.input, None, ()).then(graph.ops[0]),
    "verified rounding errors": lambda graph: verified_rounding.rounding(
        LinearEnd(graph, (), []), layers(graph), Norm.TWO
    ),
    "exact values": lambda graph: evaluation.evaluate(graph, (0.5,) * graph.input_size, graph.output),
    "owners of scores": lambda graph: ends._send(graph.ops[0], [sets(graph)] * len(graph.ops[0].inputs)),
    "verified scaled norms": sent_with_means,
}  # fmt: skip
"""Calls that reach each table, for a graph of one operation."""


def recursion():
    return rounding._Recursion(Norm.TWO, FORMATS[np.float32])


def written_backward(op):
    backward_pass = gradient._Backward(OnnxBuilder(np.float64, TOY), TOY)
    backward_pass.add(op.output, "cotangent")
    backward_pass.backward(op)


def through_toy(table):
    """Calls a table of the tight tier on a network whose one primitive has no rule."""
    bounds = LocalBounds(EXAMPLES[ops.Negate], Norm.TWO)
    way = BackwardPass(bounds.ball(bounds.centre(np.zeros(3)), 1.0), 1, np.eye(3))
    way.rows[0] = np.eye(3)
    bounds.primitives[1] = ToyPrimitive(inputs=(0,), size=3, like=0)
    table(bounds, way)


OTHER_TABLES = {
    "Lipschitz constants": lambda: lipschitz._propagate(TOY.ops[0], [dict.fromkeys(Norm, 1.0)]),
    "rounding errors of a head": lambda: recursion().scores(replace(linear_head(TOY), ops=TOY.ops), TRACK),
    "gradients": lambda: written_backward(TOY.ops[0]),
    "verified Lipschitz constants": lambda: verified_lipschitz._after(TOY.ops[0], [{}], {}),
    "verified rounding errors of a head": lambda: verified_rounding.rounding(
        LinearEnd(replace(TOY, ops=(), output=TOY.input), TOY.ops, [[]]), {}, Norm.TWO
    ),
    "magnitudes": lambda: through_toy(
        lambda bounds, way: backward.bound_magnitude(bounds.primitives[1], [1.0])
    ),
    "relaxations": lambda: through_toy(lambda bounds, way: bounds._step(1, way, "nearest")),
    "nonlinearities": lambda: local._arguments(ToyPrimitive(size=3), 3, np.arange(3)),
    "slope gradients": lambda: through_toy(
        lambda bounds, way: ascent.slope_gradients(bounds.primitives, way, BALLS[Norm.TWO])
    ),
    "rearranged primitives": lambda: through_toy(lambda bounds, way: bounds.centre(np.zeros(3))),
}
"""Those that an operation reaches only with rules in another, and those over primitives: without a rule."""


def test_every_operation_has_an_example_and_none_is_matched_as_another():
    assert set(EXAMPLES) == set(kinds(Op))
    assert set(kinds(Op)) <= set(Op.__subclasses__()), "a table would take an operation for its parent"
    assert set(kinds(Primitive)) <= set(Primitive.__subclasses__())


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)
def test_every_operation_has_a_rule_in_every_table(kind, table):
    TABLES[table](EXAMPLES[kind])


@pytest.mark.parametrize("kind", [ops.Dense, ops.Scale, ops.Shift], ids=lambda kind: kind.__name__)
def test_every_operation_of_a_head_has_a_rule(kind):
    graph = EXAMPLES[kind]
    end = ends.linear_end(graph, graph.output)
    assert [type(op) for op in linear_head(graph).ops] == [type(op) for op in end.ops] == [kind]
    rounding.bound_rounding(graph, Norm.TWO, FORMATS[np.float32])
    verified_rounding.rounding(end, layers(graph), Norm.TWO)


def test_every_primitive_has_a_rule_in_every_table_of_the_tight_tier():
    seen = set()
    for graph in EXAMPLES.values():
        bounds = LocalBounds(graph, Norm.TWO)
        ball = bounds.ball(bounds.centre(np.linspace(-1.0, 1.0, graph.input_size)), 0.5)
        size = bounds.primitives[-1].size
        assert np.isfinite(bounds.bound_below(ball, np.eye(size), wanted=np.inf)).all()
        seen |= {type(piece) for piece in bounds.primitives[1:]}
    assert seen == set(kinds(Primitive))


def test_a_new_operation_is_found():
    """The guard itself: a class that a package adds is walked, and has no example here."""
    assert kinds(Op, __name__) == [Toy]
    assert kinds(Primitive, __name__) == [ToyPrimitive]


@pytest.mark.parametrize("table", [*TABLES, *OTHER_TABLES])
def test_an_operation_without_a_rule_is_refused_by_each_table_in_the_same_words(table):
    message = f"has no rule in the table of {table}: see CONTRIBUTING.md, 'Add an operator'"
    call = partial(TABLES[table], TOY) if table in TABLES else OTHER_TABLES[table]
    with pytest.raises(NotImplementedError, match=rf"^Toy(Primitive)? {re.escape(message)}$"):
        call()


def test_no_table_has_a_default_and_each_is_tried_here():
    names = {kind.__name__ for kind in (*kinds(Op), *kinds(Primitive))}
    tables, passed_on = [], []
    for path in Path(lipmodel.__file__).parent.rglob("*.py"):
        for match in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Match)):
            patterns = [p for p in ast.walk(match) if isinstance(p, ast.MatchClass)]
            if not {ast.unparse(pattern.cls).split(".")[-1] for pattern in patterns} & names:
                continue
            last = match.cases[-1]
            assert ast.unparse(last.pattern) == "_", f"{path}:{match.lineno} lets new operations fall through"
            (default,) = last.body
            if isinstance(default, ast.Raise) and ast.unparse(default.exc.func) == "missing_rule":
                tables.append(default.exc.args[1].value)
            else:
                passed_on.append(ast.unparse(default))
    assert sorted(tables) == sorted([*TABLES, *OTHER_TABLES])
    assert sorted(passed_on) == [  # to a table that refuses
        "return Exact(_rearranged(op, n), x.denominator)",
        "self.b.emit(op, op.inputs, op.output)",
    ]
