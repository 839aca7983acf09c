"""Which way the slopes of lower lines raise a linear bound. Plain arithmetic: nothing is proved here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lipmodel.certify.tight import primitives as pieces
from lipmodel.certify.tight.functionals import Way
from lipmodel.certify.tight.primitives import Piece
from lipmodel.network.ops import missing_rule
from lipmodel.norms import Array, Norm, vector_norm


def ascent(network: Sequence[Piece], way: Way, norm: Norm) -> dict[int, Array]:
    """For each piece with kinks, (R, kinks) derivatives of the bound at the input in the slopes α.

    The bound is the least value of a linear function over the ball. At the x' where it is attained
    the network of the lines takes some value d at each kink, and the derivative in α of bend·αd is
    bend·d (the envelope theorem). Each row is scaled so that its largest entry over a piece is 1.

    Args:
        network: the pieces.
        way: that has come to the input, along lines and not secants.
        norm: of the ball.
    """
    centre = way.ball.centre[0]
    assert centre is not None
    values = [centre - way.ball.radius * _steepest(way.rows[0], norm)]
    count = len(values[0])
    derivatives = {}
    for number, piece in enumerate(network[1:], start=1):
        way.ball.deadline.check()
        before = [values[i] for i in piece.inputs]
        x = before[0]
        match piece:
            case pieces.Matrix():
                y = x.reshape(count, -1, piece.weight.shape[1]) @ piece.weight.T
                y = (y if piece.bias is None else y + piece.bias).reshape(count, -1)
            case pieces.Factor():
                y = x / piece.factor if piece.divide else x * piece.factor
            case pieces.Offset():
                y = x + piece.offset
            case pieces.Gather():
                y = np.where(piece.indices < 0, 0.0, x[:, piece.indices])
            case pieces.Join():
                y = np.hstack(before)
            case pieces.Plus():
                y = before[0] + before[1]
            case pieces.Relu():
                y, derivatives[number] = _on_the_line(x, way, number)
            case pieces.Exchange():
                a, b = x[:, piece.first], x[:, piece.second]
                bent, derivatives[number] = _on_the_line(a - b, way, number)
                y = x.copy()
                y[:, piece.first], y[:, piece.second] = b + bent, a - bent
            case _:
                raise missing_rule(piece, "slope gradients")
        values.append(y)
    return derivatives


def _on_the_line(d: Array, way: Way, number: int) -> tuple[Array, Array]:
    """What the lines put in the place of relu(d), and the scaled derivative in their slopes."""
    bend, slope, constant = way.lines[number]
    value = np.where(bend == 0.0, np.maximum(d, 0.0), (slope * d + constant) / bend)
    low, high = way.ball.kinks[number]
    derivative = np.where((bend > 0.0) & (low < 0.0) & (high > 0.0), bend * d, 0.0)
    largest = np.abs(derivative).max(axis=1, keepdims=True, initial=0.0)
    return value, np.divide(derivative, largest, out=np.zeros_like(d), where=largest > 0.0)


def _steepest(rows: Array, norm: Norm) -> Array:
    """The direction of l_p length 1 in which each row grows fastest."""
    if norm is Norm.INF:
        return np.sign(rows)
    if norm is Norm.TWO:
        length = vector_norm(rows, norm)[:, None]
        return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0.0)
    direction = np.zeros_like(rows)
    lines, largest = np.arange(len(rows)), np.abs(rows).argmax(axis=1)
    direction[lines, largest] = np.sign(rows[lines, largest])
    return direction
