"""Upper bounds on the operator norms of layers, each computed once and kept as long as its layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

from lipmodel.certify.norms.convolution import bound_absolute_conv_norm, bound_conv_norm
from lipmodel.network.ops import Conv, Dense
from lipmodel.norms import (
    MANY_COLUMNS,
    Norm,
    bound_absolute_operator_norm,
    bound_operator_norm,
    bound_spectral_norm,
    bound_through_two,
    observed_spectral_norm,
)

Bound = TypeVar("Bound", bound=Callable[..., float])


def _once(bound: Bound) -> Bound:
    known: WeakKeyDictionary[Dense | Conv, dict[tuple[Norm, ...], float]] = WeakKeyDictionary()

    @wraps(bound)
    def cached(op: Dense | Conv, *norms: Norm) -> float:
        bounds = known.setdefault(op, {})
        if norms not in bounds:
            bounds[norms] = bound(op, *norms)
        return bounds[norms]

    return cast(Bound, cached)


@_once
def bound_norm(op: Dense | Conv, source: Norm, target: Norm) -> float:
    """Return an upper bound on the operator norm source→target: of ‖W‖, or of the whole convolution."""
    if isinstance(op, Conv):
        return bound_conv_norm(op, source, target)
    bound = _without_spectral(op, source, target)
    if observed_least_norm(op, source, target) < bound:
        bound = min(bound, _through_two(op, _spectral(op), source, target))
    return bound


def observed_least_norm(op: Dense, source: Norm, target: Norm) -> float:
    """Return an estimate of the least value of :func:`bound_norm`, by a measured spectral norm: no bound.

    In time linear in the weights. The estimate decides whether the spectral norm, which takes longer, is
    bounded at all; it enters no bound.
    """
    without = _without_spectral(op, source, target)
    if source is Norm.ONE or target is Norm.INF:
        return without
    return min(without, _through_two(op, _observed_spectral(op), source, target))


@_once
def bound_absolute_norm(op: Dense | Conv, norm: Norm) -> float:
    """Return an upper bound on ‖ |W| ‖_{norm→norm}, the operator norm with absolute values of the weights."""
    if isinstance(op, Conv):
        return bound_absolute_conv_norm(op, norm)
    return bound_absolute_operator_norm(op.weight, norm)


@_once
def _without_spectral(op: Dense, source: Norm, target: Norm) -> float:
    return bound_operator_norm(op.weight, source, target, math.inf)


def _through_two(op: Dense, spectral: float, source: Norm, target: Norm) -> float:
    m, n = op.weight.shape
    return bound_through_two(spectral, (m, n), source, target)


@_once
def _spectral(op: Dense) -> float:
    return bound_spectral_norm(op.weight)


@_once
def _observed_spectral(op: Dense) -> float:
    few = min(op.weight.shape) <= MANY_COLUMNS
    return _spectral(op) if few else observed_spectral_norm(op.weight)
