"""What an audit sees of points one by one, and tries on them: the part that other processes may do.

Points are numbered: those of the data, then random ones of the box. They come in chunks of 256 of either, and
what is random in one (its points, the pairs that slopes are taken of) is seeded by the number of its first
point; attacks on each begin alike. So whoever looks at which chunks, the whole is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

from lipmodel.audit.attacks.attack import AttackTask
from lipmodel.audit.attacks.registry import attack_radii
from lipmodel.audit.findings import Counterexample
from lipmodel.audit.gradient import GradientEngine
from lipmodel.audit.observe import (
    CHUNK_ROWS,
    Functionals,
    Observations,
    functionals,
    gradient_norms,
    observed_slopes,
    pairs_within,
)
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.shards import batches_within, cut
from lipmodel.data.stream import Stream
from lipmodel.norms import Array, Norm
from lipmodel.progress import Progress, part

ATTACK_COST = 100
"""Of a point attacked, in points looked at: roughly, for the progress told."""
DRAWN_APART = 16 * CHUNK_ROWS


class Attacked(NamedTuple):
    """What attacks on n points found.

    Attributes:
        radius: (n,) certified.
        distance: (n,) to the nearest change of label found, rounded up; infinite without one.
        inside: the changes found within the radius.
    """

    radius: Array
    distance: Array
    inside: tuple[Counterexample, ...]


class Seen(NamedTuple):
    """What is seen of some consecutive points, and of the first ones of all, which are attacked."""

    points: Observations
    attacked: Attacked


@dataclass(frozen=True)
class Look:
    """Looks at points, chunk by chunk.

    Attributes:
        norm: of the input; gradients are measured in the dual one.
        data: how many points are of the data; those from there on are drawn.
        box: least and largest coordinate of these.
        seed: of the random numbers.
        attacked: how many points, the first, are attacked.
        methods: attacks of foolbox beside our own.
    """

    norm: Norm
    data: int
    box: tuple[float, float]
    seed: int
    attacked: int
    methods: tuple[str, ...]

    def __call__(
        self, predictor: CertifiedPredictor, data: Stream | None, rows: range, progress: Progress
    ) -> Seen:
        """What is seen of some consecutive points, from the beginning of a chunk on.

        Raises:
            InputError: inputs that do not fit.
        """
        engine = GradientEngine(predictor.file.graph)
        functions, limits = audited(predictor, self.norm)
        points = Observations(limits, engine.graph.input_size)
        attacked: list[Attacked] = []
        whole, done = self._cost(rows), 0.0
        for first, chunk, rng in self._chunks(predictor, data, rows):
            scores, norms = gradient_norms(engine, functions, chunk, self.norm)
            points.add(first, chunk, norms, drawn=first >= self.data)
            outside = predictor.claims.far_outside(chunk) if first < self.data else None
            points.outside += 0 if outside is None else int(outside.sum())
            for steps in pairs_within(chunk, scores, rng):
                found = observed_slopes(steps, functions.cotangents, predictor.rounding(), self.norm)
                points.slopes = np.maximum(points.slopes, found.max(axis=0))
            after = done + self._cost(range(first, first + len(chunk)))
            if first < self.attacked:
                share = part(progress, (done + len(chunk)) / whole, after / whole)
                attacked.append(self._attack(predictor, engine, chunk[: self.attacked - first], share))
            done = after
            progress(done / whole)
        return Seen(points, _joined(attacked))

    def shards(self, data: Stream | None, samples: int) -> list[range]:
        """Of all points, for :class:`~lipmodel.data.shards.Spread`."""
        given = cut(self.data, CHUNK_ROWS, data.starts, self.attacked) if data is not None else []
        drawn = cut(samples, CHUNK_ROWS, range(0, samples, DRAWN_APART), self.attacked - self.data)
        return given + [range(self.data + rows.start, self.data + rows.stop) for rows in drawn]

    def _cost(self, rows: range) -> float:
        return len(rows) + ATTACK_COST * max(0, min(rows.stop, self.attacked) - rows.start)

    def _chunks(
        self, predictor: CertifiedPredictor, data: Stream | None, rows: range
    ) -> Iterator[tuple[int, Array, np.random.Generator]]:
        """Number of the first point, the points, and what else is random there comes from."""
        given = range(rows.start, min(rows.stop, self.data))
        if data is not None and given:
            for first, inputs, _ in batches_within(data, given, CHUNK_ROWS):
                x = predictor.check_inputs(inputs, first_row=first)
                yield first, x, np.random.default_rng((self.seed, first))
        for first in range(max(rows.start, self.data), rows.stop, CHUNK_ROWS):
            rng = np.random.default_rng((self.seed, first))
            size = min(CHUNK_ROWS, rows.stop - first), predictor.file.graph.input_size
            yield first, rng.uniform(*self.box, size=size), rng

    def _attack(
        self, predictor: CertifiedPredictor, engine: GradientEngine, points: Array, progress: Progress
    ) -> Attacked:
        """Searches inside each certified radius, and for the nearest change of label at all."""
        before = predictor.predict(points, self.norm).radii
        radius = before.certified_radius
        task = AttackTask(predictor, engine, points, self.norm, self.seed)
        attack = attack_radii(task, radius, self.methods, progress)
        after = predictor.predict(attack.adversarial, self.norm).radii.label
        classes = predictor.class_names
        inside = tuple(
            Counterexample(
                input=tuple(points[row].tolist()),
                adversarial=tuple(attack.adversarial[row].tolist()),
                label=classes[before.label[row]],
                adversarial_label=classes[after[row]],
                certified_radius=float(radius[row]),
                observed_distance=float(attack.distance[row]),
            )
            for row in np.flatnonzero(attack.distance <= radius)
        )
        return Attacked(radius, attack.distance, inside)


def audited(predictor: CertifiedPredictor, norm: Norm) -> tuple[Functionals, Array]:
    """The functionals, and (F,) their certified Lipschitz bounds."""
    functions, bounds = functionals(predictor.file.graph), predictor.bounds(norm)
    limits = [bounds.bound_global if j is None else bounds.bound_per_pair[i, j] for i, j in functions.pairs]
    return functions, np.array(limits)


def merged(parts: Iterable[Seen]) -> Seen:
    """What is seen of all points, from what was seen of shards, in order; of at least one."""
    rest = iter(parts)
    points, first = next(rest)
    attacked = [first]
    for later, more in rest:
        points.merge(later)
        attacked.append(more)
    return Seen(points, _joined(attacked))


def _joined(parts: list[Attacked]) -> Attacked:
    if not parts:
        return Attacked(np.empty(0), np.empty(0), ())
    radii, distances, inside = zip(*parts, strict=True)
    return Attacked(np.concatenate(radii), np.concatenate(distances), tuple(chain(*inside)))
