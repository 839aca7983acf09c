"""Derivatives of a linear bound in the slopes of its lower relaxations: plain arithmetic, no proof."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lipmodel.certify.box import Box
from lipmodel.certify.tight import primitives
from lipmodel.certify.tight.functionals import BackwardPass
from lipmodel.certify.tight.primitives import Primitive
from lipmodel.network.ops import missing_rule
from lipmodel.norms import Array, Norm, vector_norm
from lipmodel.threat import BALLS, Threat


def slope_gradients(
    network: Sequence[Primitive], backward: BackwardPass, threat: Threat, box: Box | None = None
) -> dict[int, Array]:
    """Return (R, n) derivatives of the bound in the slopes α, for each primitive with n nonlinearities.

    The bound is the least value of a linear function over the ball. At the x' where it is attained
    the relaxed network takes some value d at each nonlinearity, and the derivative in α of c·αd is
    c·d (the envelope theorem). Each row is scaled so that its largest entry over a primitive is 1.

    Args:
        network: the primitives.
        backward: backward pass that has come to the input, by lower and upper relaxations, not secants.
        threat: threat set of the ball.
        box: box that inputs stay in; None without one.
    """
    centre = backward.ball.centre[0]
    assert centre is not None
    values = [centre - backward.ball.radius * _steepest(backward.rows[0], threat)]
    if box is not None:
        values = [box.clip(values[0])]
    count = len(values[0])
    derivatives = {}
    for number, primitive in enumerate(network[1:], start=1):
        backward.ball.deadline.check()
        before = [values[i] for i in primitive.inputs]
        x = before[0]
        match primitive:
            case primitives.Matrix():
                y = x.reshape(count, -1, primitive.weight.shape[1]) @ primitive.weight.T
                y = (y if primitive.bias is None else y + primitive.bias).reshape(count, -1)
            case primitives.Factor():
                y = x / primitive.factor if primitive.divide else x * primitive.factor
            case primitives.Offset():
                y = x + primitive.offset
            case primitives.Gather():
                y = np.where(primitive.indices < 0, 0.0, x[:, primitive.indices])
            case primitives.Join():
                y = np.hstack(before)
            case primitives.Plus():
                y = before[0] + before[1]
            case primitives.Relu():
                y, derivatives[number] = _on_the_relaxation(x, backward, number)
            case primitives.CompareExchange():
                a, b = x[:, primitive.first], x[:, primitive.second]
                relaxed, derivatives[number] = _on_the_relaxation(a - b, backward, number)
                y = x.copy()
                y[:, primitive.first], y[:, primitive.second] = b + relaxed, a - relaxed
            case _:
                raise missing_rule(primitive, "slope gradients")
        values.append(y)
    return derivatives


def _on_the_relaxation(d: Array, backward: BackwardPass, number: int) -> tuple[Array, Array]:
    """Return the value of the relaxation of relu(d), and the scaled derivative in its slope."""
    coefficient, slope, constant = backward.relaxations[number]
    value = np.where(coefficient == 0.0, np.maximum(d, 0.0), (slope * d + constant) / coefficient)
    low, high = backward.ball.arguments[number]
    derivative = np.where((coefficient > 0.0) & (low < 0.0) & (high > 0.0), coefficient * d, 0.0)
    largest = np.abs(derivative).max(axis=1, keepdims=True, initial=0.0)
    return value, np.divide(derivative, largest, out=np.zeros_like(d), where=largest > 0.0)


def _steepest(rows: Array, threat: Threat) -> Array:
    """Return the change of size 1 by which each row grows most."""
    if threat.scale is not None:
        return _steepest(rows * threat.scales, BALLS[threat.norm]) * threat.scales
    if threat.norm is Norm.INF:
        return np.sign(rows)
    if threat.norm is Norm.TWO:
        length = vector_norm(rows, threat.norm)[:, None]
        return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0.0)
    direction = np.zeros_like(rows)
    index, largest = np.arange(len(rows)), np.abs(rows).argmax(axis=1)
    direction[index, largest] = np.sign(rows[index, largest])
    return direction
