"""An estimate of the largest gradient norm from block maxima, by extreme-value theory. Never a bound.

CLEVER (Weng et al. 2018): if gradient norms at random points have a finite right end, the maxima of
large blocks of them follow a reverse Weibull law, whose location is that end. The estimate may lie on
either side of the truth: a spike where no point fell leaves no trace in the maxima.
"""

from __future__ import annotations

import math

import numpy as np

from lipmodel.norms import Array

LEAST_BLOCKS = 10
GRID, REFINEMENTS = 40, 4


def estimate_right_end(maxima: Array) -> float | None:
    """Location of the reverse Weibull law of greatest likelihood for block maxima (n,).

    The likelihood is maximised in shape and scale for each location, and then over the location, which
    is looked for up to ten times their spread past the largest: where the likelihood grows further, the
    maxima are as well explained by a law without an end. Shapes under 1 are left out: there the
    likelihood grows without limit (Smith 1985).

    Returns:
        None for fewer than 10 maxima, or where no end is seen; the largest where all are equal up to
        rounding.
    """
    if len(maxima) < LEAST_BLOCKS:
        return None
    top = float(maxima.max())
    spread = top - float(maxima.min())
    if spread <= 1e-9 * abs(top):
        return top
    gaps = (top - maxima) / spread
    low, high = ends = math.log(1e-6), math.log(10.0)
    for _ in range(REFINEMENTS):
        grid = np.linspace(low, high, GRID)
        best = int(np.argmax(log_likelihood(gaps + np.exp(grid)[:, None])))
        low, high = grid[max(0, best - 1)], grid[min(GRID - 1, best + 1)]
    return None if grid[best] >= ends[1] - 1e-3 else top + spread * math.exp(grid[best])


def log_likelihood(distances: Array) -> Array:
    """(…,) of Weibull laws for distances (…, n) > 0, each at its best shape of at least 1 and best scale."""
    logs = np.log(distances)
    top, mean = logs.max(axis=-1), logs.mean(axis=-1)
    shape = _best_shape(logs)
    # scale^shape is the mean of distance^shape, by way of the largest, for the power may be a million.
    powers = np.exp(shape[..., None] * (logs - top[..., None]))
    log_scale = top + np.log(powers.mean(axis=-1)) / shape
    return np.asarray(logs.shape[-1] * (np.log(shape) - shape * log_scale + (shape - 1.0) * mean - 1.0))


def _best_shape(logs: Array) -> Array:
    """The root c >= 1 of Σ z^c ln z / Σ z^c - 1/c - mean ln z, which grows with c; 1 where it is less."""
    below = logs - logs.max(axis=-1, keepdims=True)
    mean = below.mean(axis=-1)
    low, high = np.zeros(mean.shape), np.full(mean.shape, 20.0)  # of ln c
    for _ in range(30):
        middle = (low + high) / 2.0
        shape = np.exp(middle)
        weights = np.exp(shape[..., None] * below)
        short = (weights * below).sum(axis=-1) / weights.sum(axis=-1) - 1.0 / shape < mean
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return np.exp((low + high) / 2.0)
