"""Estimate the largest gradient norm from block maxima, by extreme-value theory; never a bound.

CLEVER (Weng et al. 2018): if gradient norms at random points have a finite right end, the maxima of
large blocks of them follow a reverse Weibull law, whose location is that end. The estimate may lie on
either side of the true maximum: a spike where no point fell leaves no trace in the maxima.
"""

from __future__ import annotations

import math

import numpy as np

from lipmodel.norms import Array

MIN_BLOCKS = 10
GRID, REFINEMENTS = 40, 4


def estimate_right_end(maxima: Array) -> float | None:
    """Return the location of the reverse Weibull law of greatest likelihood for block maxima (n,).

    The likelihood is maximised in shape and scale for each location, and then over the location, up to ten
    times the spread of the maxima past the largest: where the likelihood grows further, a law without an end
    explains the maxima equally well. Shapes under 1 are excluded, since the likelihood is unbounded there
    (Smith 1985).

    Returns:
        The location; None for fewer than 10 maxima or without an end; the largest maximum if all are equal up
        to rounding.
    """
    if len(maxima) < MIN_BLOCKS:
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
    """Return log-likelihoods (…,) of distances (…, n) > 0 by the best Weibull law of shape at least 1."""
    logs = np.log(distances)
    top, mean = logs.max(axis=-1), logs.mean(axis=-1)
    shape = _best_shape(logs)
    # scale^shape is the mean of distance^shape; the largest is factored out: the power may be a million.
    powers = np.exp(shape[..., None] * (logs - top[..., None]))
    log_scale = top + np.log(powers.mean(axis=-1)) / shape
    return np.asarray(logs.shape[-1] * (np.log(shape) - shape * log_scale + (shape - 1.0) * mean - 1.0))


def _best_shape(logs: Array) -> Array:
    """Return the root c of Σ z^c ln z / Σ z^c - 1/c - mean ln z, which grows with c; at least 1."""
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
