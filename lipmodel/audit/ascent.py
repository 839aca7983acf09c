"""Search for the largest gradient norm of a network by ascent.

The gradient norm of a piecewise linear function is piecewise constant: it has no derivative to climb.
Averaged over Gaussian noise, it has one. With u the direction of length 1 in which f grows fastest,
<g, u> = ‖g‖_{p*}, the derivative of E ‖g(z)‖ in x, z = x + noise, is E H(z) u, H the second derivative
of f in the sense of distributions: the contribution of the kinks. Its central difference,

    g(z + hu) - g(z - hu),

costs two vector-Jacobian products. Noise and h shrink from twice the size of the box to a small part of
it, so that the search first averages over many linear pieces and last over the nearest ones.
"""

from __future__ import annotations

import numpy as np

from lipmodel.audit.gradient import GradientEngine
from lipmodel.norms import Array, Norm, vector_norm
from lipmodel.progress import Progress, silent

MOMENTUM = 0.75
COARSEST, FINEST = 2.0, 0.005  # noise and h, first and last, as multiples of the side of the box


def ascend(
    engine: GradientEngine,
    cotangents: Array,
    starts: Array,
    norm: Norm,
    *,
    scale: float,
    steps: int,
    rng: np.random.Generator,
    progress: Progress = silent,
) -> tuple[Array, Array]:
    """Return the largest gradient norm (R,) found from each start, and its input (R, d).

    Args:
        engine: gradients of the network.
        cotangents: (R, K) cotangent v of the functional <v, f> that each row climbs.
        starts: (R, d).
        norm: norm of the input; gradients are measured in its dual.
        scale: side of the box searched.
        steps: number of steps, each of four vector-Jacobian products.
        rng: generator of the noise.
        progress: callback for the share done.
    """
    x, momentum = starts.copy(), np.zeros_like(starts)
    best, witness = np.full(len(x), -np.inf), starts.copy()

    def gradient(points: Array) -> Array:
        found = engine(points, cotangents)[1]
        size = vector_norm(found, norm.dual)
        higher = size > best
        best[higher], witness[higher] = size[higher], points[higher]
        return found

    gradient(x)
    for step in range(steps):
        length = scale * COARSEST * (FINEST / COARSEST) ** (step / max(1, steps - 1))
        z = x + length * rng.normal(size=x.shape)
        along = length * x.shape[1] ** 0.5 * unit(steepest(gradient(z), norm))
        momentum = MOMENTUM * momentum + unit(gradient(z + along) - gradient(z - along))
        x = x + 0.5 * length * x.shape[1] ** 0.5 * unit(momentum)
        gradient(x)
        progress((step + 1) / steps)
    return best, witness


def unit(vectors: Array) -> Array:
    """Return rows scaled to l2 length 1; rows of zeros stay 0."""
    length = vector_norm(vectors, Norm.TWO)[:, None]
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def steepest(gradient: Array, norm: Norm) -> Array:
    """Return the direction of l_p length 1 along which a linear function grows fastest, row by row.

    <g, d> = ‖g‖_{p*}: g/‖g‖ for l2, sign(g) for linf, one signed coordinate for l1; 0 where g is 0.
    """
    if norm is Norm.INF:
        return np.sign(gradient)
    if norm is Norm.TWO:
        return unit(gradient)
    direction = np.zeros_like(gradient)
    rows, columns = np.arange(len(gradient)), np.abs(gradient).argmax(axis=1)
    direction[rows, columns] = np.sign(gradient[rows, columns])
    return direction
