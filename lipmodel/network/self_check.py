"""Run a file beside the program written from its graph: were the file misread, the two would differ.

Both a certificate and its verification rest on the graph that the reader made of a file. This is their
guard against a reader that takes an operator or a constant for another. The bounds on rounding errors
within which the two must agree come from the caller: nothing is proved here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lipmodel.errors import ModelError, refusing_exhaustion
from lipmodel.network.metadata import LARGEST_INPUT
from lipmodel.network.reader.read import OnnxFile, without_dead
from lipmodel.network.session import open_session
from lipmodel.norms import Array, Norm, bound_vector_norm

MIN_POINTS, MAX_POINTS = 16, 192
MAX_WORK, ELEMENT_WORK = 2**35, 2**8
"""Maximum multiplications for all points together, if that allows ``MIN_POINTS``, and the cost in
multiplications of each number computed."""
MAX_NUMBERS = 2**22
"""Maximum numbers in the widest tensor of one run, if that allows one row or the file's fixed batch."""
MAX_FIXED = 2**26
"""Maximum numbers in the widest tensor for the batch that the file fixes."""
ORDINARY = (0.02, 2.0, 200.0)
"""Sizes of the entries of the points of ordinary size."""
MIXED = 16
"""Power of uniform numbers that makes their sizes differ by some powers of ten within one point."""


class EvaluationBounds(NamedTuple):
    """Proved bounds on the evaluation of inputs x in one floating-point format, in terms of ρ = ‖x‖_q.

    Attributes:
        norm: the norm q.
        constant, slope: no intermediate result exceeds constant + slope·ρ,
        limit: and none overflows where that is below this.
        score_error: returns, for sizes ρ (N,), bounds (N,) on the rounding error of any class score.
    """

    norm: Norm
    constant: float
    slope: float
    limit: float
    score_error: Callable[[Array], Array]


@refusing_exhaustion()
def check_reading(
    file: OnnxFile, scores: Callable[[Array], Array], bounds: Sequence[EvaluationBounds]
) -> None:
    """Run a file in onnxruntime and a program beside it, and compare within proved rounding errors.

    The points are random, seeded by the file's digest, in pairs x and -x. A quarter are of ordinary size.
    The sizes of the others are in equal ratios from where the smallest constant may matter (that constant
    over the largest slope of any tensor) to where something might overflow, so that every threshold and bias
    is reached: float32 has but 254 powers of two. Half of all points have entries of one size, the others
    of many, so that a small entry meets its threshold beside a large one.

    Args:
        file: file to run.
        scores: program that computes, in float64, the scores (N, K) of inputs (N, d) as the file gives them.
        bounds: bounds on the file's own evaluation and on the program's.

    Raises:
        ModelError: onnxruntime cannot run the file, or its scores differ from those of the program.
    """
    graph = file.graph
    widest, numbers = max(graph.evaluated_sizes), sum(graph.evaluated_sizes)
    least, most = _sizes(file, bounds)
    try:
        session = open_session(without_dead(file.content, file.output))
        batch = session.get_inputs()[0].shape[0]
        rows = batch if isinstance(batch, int) else max(1, min(MAX_POINTS, MAX_NUMBERS // widest))
        if rows * widest > MAX_FIXED:
            raise ModelError(
                f"the fixed batch of {rows} samples takes {rows * widest} numbers in one tensor; at most "
                f"{MAX_FIXED} are accepted; export with a free batch axis"
            )
        work = graph.multiplications + ELEMENT_WORK * numbers
        count = max(MIN_POINTS, min(MAX_POINTS, MAX_WORK // (work + 1)))
        for first in range(0, count, rows):
            x = _points(file, first, rows, count, least, most)
            given = x.astype(file.dtype).reshape(-1, *graph.input_shape)
            theirs = session.run([file.output], {graph.input: given})[0].astype(np.float64)
            ours = scores(x)
            allowed = sum(each.score_error(bound_vector_norm(x, each.norm, axis=1)) for each in bounds)
            if theirs.shape != ours.shape:
                raise ModelError(
                    f"onnxruntime computes scores of shape {theirs.shape}, the graph read from the file "
                    f"{ours.shape}"
                )
            difference = np.abs(theirs - ours).max(axis=1)
            if not (difference <= allowed * (1 + 1e-9)).all():
                raise ModelError(
                    "onnxruntime computes something other than the graph that was read from the file: scores "
                    f"differ by up to {difference.max():.3g}, more than rounding explains"
                )
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # onnxruntime raises many kinds; each is a refusal
        raise ModelError(f"onnxruntime cannot run the file: {error}") from error


def _sizes(file: OnnxFile, bounds: Sequence[EvaluationBounds]) -> tuple[float, float]:
    """Return the least and the largest size of an input's entries."""
    most = LARGEST_INPUT
    with np.errstate(all="ignore"):
        for each in bounds:
            ones = float(bound_vector_norm(np.ones(file.graph.input_size), each.norm))
            most = float(np.minimum(most, 0.99 * ((each.limit - each.constant) / each.slope / ones)))
    if not most >= ORDINARY[-1] / 2:  # or NaN
        raise ModelError(
            f"its weights are so large that inputs with entries of {ORDINARY[-1] / 2:g} may overflow; "
            "rescale them"
        )
    tiny = 2.0**20 * float(np.finfo(file.dtype).tiny)
    slope = max(each.slope for each in bounds)
    arrays = [v for op in file.graph.ops for v in vars(op).values() if isinstance(v, np.ndarray)]
    smallest = min((float(np.abs(v[v != 0.0]).min(initial=1.0)) for v in arrays), default=1.0)
    return min(max(smallest / (4.0 * slope), tiny), ORDINARY[0]), most


def _points(file: OnnxFile, first: int, rows: int, count: int, least: float, most: float) -> Array:
    """Return points ``first`` to ``first + rows`` of ``count``, rounded to the file's format."""
    size = file.graph.input_size
    row = np.arange(first, first + rows)[:, None]
    # Seeded by hashes, as numpy.random would take 2.6 MiB for this alone.
    seeds = (f"{file.sha256} {number // 2}".encode() for number in row.flat)
    numbers = np.stack([np.frombuffer(hashlib.shake_256(seed).digest(4 * size), "<i4") for seed in seeds])
    points = numbers / 2.0**31 * (-1.0) ** row
    points = np.where(row % 4 < 2, points, np.sign(points) * np.abs(points) ** MIXED)
    ordinary = np.minimum(np.take(ORDINARY, row // 8 % len(ORDINARY)), most)
    spread = np.exp2(np.interp(row / count, [0.0, 1.0], np.log2([least, most])))
    points = points * np.where(row % 8 < 2, ordinary, spread)
    return np.asarray(points.astype(file.dtype), dtype=np.float64)
