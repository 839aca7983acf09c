"""Search for the weights of scaled bounds, in plain float32: part of no proof.

For layers W_l with diagonal T_l > 0 between them (in orthonormal coordinates of each group, where T is
diagonal) and rows w of a head, weights that make ∏ ‖T_l W_l T_{l-1}⁻¹‖_2 ‖T_k⁻¹ w‖ small. ‖M‖_2 is smoothed
to (Σ σ^{4j})^{1/4j}, σ the singular values. By the logarithm of a row's weight its own logarithm has the
derivative p, by that of a column's -q: shares of the sum. Where the product is least, the shares p of a
layer's rows and q of the next one's columns agree; so weights move by log(q/p) / 4j, and j grows. Shares
are those of a few random vectors, sent to and fro j times. The head counts by the squares of its rows less
their mean, which are those of all differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lipmodel.certify.head import Indices
from lipmodel.norms import Array

POWERS, ROUNDS, PROBES, INERTIA = (1, 2, 4, 8, 16), 3, 16, 0.6
MAX_LOG, DIGITS = 6.0, 4
"""Logarithms of weights are within this, and weights have so many digits, to be short in certificates."""


@np.errstate(all="ignore")
def find_weights(
    matrices: Sequence[Array],
    groups: Sequence[tuple[Indices, Indices]],
    rows: Array,
    norms: Sequence[float],
    *,
    by_columns: bool,
) -> tuple[Array, ...] | None:
    """Return (2, g) weights per layer, of each group's mean and rest; None where no gain is expected.

    Args:
        matrices: W_1, …, W_k.
        groups: (g, G) indices of the groups in the output of each matrix, and in the input of the next.
        rows: (M, n) rows of the head.
        norms: norms of the matrices without weights.
        by_columns: whether the first matrix counts by its longest column, ‖W‖_{1→2}, instead of ‖W‖_2.
    """
    shapes = [before.shape for before, _ in groups]
    turned = [_turn(w.T, before).T for w, (before, _) in zip(matrices, groups, strict=True)]
    turned[1:] = [_turn(w, after) for w, (_, after) in zip(turned[1:], groups[:-1], strict=True)]
    layers: list[Any] = [w.astype(np.float32) for w in turned]
    head = np.square(_turn(rows - rows.mean(axis=0), groups[-1][1])).sum(axis=0).astype(np.float32)
    rng = np.random.default_rng(0)
    sizes = [(w.shape[1], min(PROBES, w.shape[1])) for w in layers]
    probes = [rng.choice([-1.0, 1.0], size=size).astype(np.float32) for size in sizes]
    logs = [np.zeros((2, g), np.float32) for g, _ in shapes]
    velocities = [np.zeros((2, g), np.float32) for g, _ in shapes]
    value = 0.0
    for power in np.repeat(POWERS, ROUNDS):
        scales = [_spread(np.exp(log), size) for log, (_, size) in zip(logs, shapes, strict=True)]
        value, given, taken = 0.0, [], []
        for number, layer in enumerate(layers):
            scaled = scales[number][:, None] * layer
            if number:
                scaled /= scales[number - 1]
            columns = number == 0 and by_columns
            shares = _column_shares(scaled, power) if columns else _shares(scaled, probes[number], power)
            given.append(shares[0])
            taken.append(shares[1])
            value += shares[2]
        taken.append(head / np.square(scales[-1]))
        value += 0.5 * np.log(taken[-1].sum())
        for number, shape in enumerate(shapes):
            pull = np.log(_by_weight(taken[number + 1], shape) / _by_weight(given[number], shape))
            velocities[number] = INERTIA * velocities[number] + pull / (4 * power)
            logs[number] = np.clip(logs[number] + velocities[number], -MAX_LOG, MAX_LOG)
    # The value is of norms from below; NaN where float32 was too narrow.
    if not value < np.log(norms).sum() + 0.5 * np.log(head.sum()):
        return None
    return tuple(_rounded(np.exp(log.astype(np.float64))) for log in logs)


def _turn(vectors: Array, groups: Indices) -> Array:
    """Return vectors with each group in orthonormal coordinates, the first along (1, …, 1)."""
    size = groups.shape[1]
    basis = np.linalg.qr(np.column_stack([np.ones(size), np.eye(size)[:, :-1]]))[0]
    return np.asarray((vectors[..., groups] @ basis).reshape(*vectors.shape[:-1], -1))


def _spread(weights: Any, size: int) -> Any:
    """Return the weight of each coordinate: a, then b for the other coordinates of a group."""
    return np.concatenate([weights[0][:, None], np.repeat(weights[1][:, None], size - 1, axis=1)], 1).ravel()


def _by_weight(shares: Any, shape: tuple[int, ...]) -> Any:
    """Return (2, g) the shares of each weight, with the sum of about 1 and none 0."""
    each = shares.reshape(shape)
    sums = np.stack([each[:, 0], each[:, 1:].sum(axis=1)])
    return sums / sums.sum() + 1e-3 / len(each)


def _shares(matrix: Any, x: Any, power: int) -> tuple[Any, Any, float]:
    """Return the shares of rows and of columns, and the logarithm of about ‖M‖_2."""
    y = x
    for _ in range(power):
        y = matrix @ x
        y /= np.linalg.norm(y)
        x = matrix.T @ y
    columns = np.square(x).sum(axis=1)
    return np.square(y).sum(axis=1), columns, 0.5 * float(np.log(columns.sum()))


def _column_shares(matrix: Any, power: int) -> tuple[Any, Any, float]:
    """Return shares as :func:`_shares` for ‖M‖_{1→2}, the largest length of a column, smoothed alike."""
    squares = np.square(matrix)
    lengths = squares.sum(axis=0)
    squares *= (lengths / lengths.max()) ** (2 * power - 1)
    return squares.sum(axis=1), squares.sum(axis=0), 0.5 * float(np.log(lengths.max()))


def _rounded(weights: Array) -> Array:
    return np.array([[float(f"{w:.{DIGITS}g}") for w in row] for row in weights])
