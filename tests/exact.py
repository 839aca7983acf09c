"""Exact scores of small graphs as fractions, and closed forms of norms."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from lipmodel.norms import Norm
from tests.soundness import integers


def rational(array):
    array = np.asarray(array, dtype=np.float64)
    return np.array([Fraction(float(v)) for v in array.ravel()], dtype=object).reshape(array.shape)


def evaluate(graph, x):
    """Return the scores of one input, as fractions."""
    found = integers.scores(graph, np.asarray(x)[None])
    values = [Fraction(int(n), found.denominator) for n in found.numerator.ravel()]
    return np.array(values, dtype=object).reshape(graph.output_shape)


def is_positive_semidefinite(matrix):
    """Decide by exact LDLᵀ of a symmetric matrix of fractions; a zero pivot is allowed only above a zero column."""
    a = matrix.copy()
    n = len(a)
    for k in range(n):
        if a[k, k] < 0:
            return False
        if a[k, k] == 0:
            if any(a[i, k] != 0 for i in range(k + 1, n)):
                return False
            continue
        for i in range(k + 1, n):
            factor = a[i, k] / a[k, k]
            a[i, k:] = a[i, k:] - factor * a[k, k:]
    return True


def operator_norm(weight, source, target):
    """Return ‖W‖_{source→target} where it has a closed form, else None (2→1, inf→2 and inf→1).

    ‖W‖_{1→q} = max column ‖·‖_q; ‖W‖_{p→inf} = max row ‖·‖_{p*}; ‖W‖_{2→2} = largest singular value. Float
    arithmetic, to nearest.
    """
    order = {Norm.ONE: 1, Norm.TWO: 2, Norm.INF: np.inf}
    if source is Norm.ONE:
        return float(np.linalg.norm(weight, order[target], axis=0).max())
    if target is Norm.INF:
        return float(np.linalg.norm(weight, order[source.dual], axis=1).max())
    return float(np.linalg.norm(weight, 2)) if source is target is Norm.TWO else None


def bounds_spectral_norm(weight, bound):
    """Return True if ‖W‖_2 <= bound, decided exactly: bound² I - WᵀW is positive semidefinite."""
    w = rational(weight)
    gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
    return is_positive_semidefinite(Fraction(float(bound)) ** 2 * np.eye(len(gram), dtype=object) - gram)
