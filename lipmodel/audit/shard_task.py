"""The part of an audit that can be divided among processes: observations at points, and attacks on them.

Points are numbered: first the data, then random points of the box. Chunks have 256 points of either kind, and
the random numbers of a chunk (its points, the pairs of slopes) are seeded by the number of its first point;
attacks on each chunk use the same seed. The result is therefore the same for every division into shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

from lipmodel.audit import observe
from lipmodel.audit.attacks.attack import AttackTask
from lipmodel.audit.attacks.registry import attack_radii
from lipmodel.audit.findings import Counterexample
from lipmodel.audit.gradient import GradientEngine
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.shards import batches_within, cut
from lipmodel.data.stream import Stream
from lipmodel.norms import Array, Norm
from lipmodel.progress import Progress, part
from lipmodel.threat import BALLS

ATTACK_COST = 100
"""Rough cost of attacking a point, relative to observing it; for progress."""
DRAWN_ROWS = 16 * observe.CHUNK_ROWS
"""Random points of a shard."""


class AttackedPoints(NamedTuple):
    """Results of attacks on n points.

    Attributes:
        radius: (n,) certified radii.
        distance: (n,) distances to the nearest adversarial inputs found, rounded up; infinite if none.
        inside: adversarial inputs within the radius.
    """

    radius: Array
    distance: Array
    inside: tuple[Counterexample, ...]


class ShardFindings(NamedTuple):
    """Observations at consecutive points, and attacks on those of them to be attacked."""

    points: observe.Observations
    attacked: AttackedPoints


@dataclass(frozen=True)
class AuditTask:
    """A :class:`~lipmodel.data.shards.ShardTask` that observes and attacks points, chunk by chunk.

    Attributes:
        norm: norm of the input; gradients are measured in its dual.
        data: number of points of the data; points from there on are random.
        box: least and largest coordinate of random points.
        seed: seed of the random numbers.
        attacked: number of points to attack, beginning with the first.
        methods: attacks in addition to the built-in one.
    """

    norm: Norm
    data: int
    box: tuple[float, float]
    seed: int
    attacked: int
    methods: tuple[str, ...]

    def __call__(
        self, predictor: CertifiedPredictor, data: Stream | None, rows: range, progress: Progress
    ) -> ShardFindings:
        """Return the findings at consecutive points that begin at the start of a chunk.

        Raises:
            InputError: inputs do not fit the model.
        """
        engine = GradientEngine(predictor.file.graph)
        functions, limits = audited(predictor, self.norm)
        points = observe.Observations(limits, engine.graph.input_size)
        attacked: list[AttackedPoints] = []
        whole, done = self._cost(rows), 0.0
        for first, chunk, rng in self._chunks(predictor, data, rows):
            scores, norms = observe.gradient_norms(engine, functions, chunk, self.norm)
            points.add(first, chunk, norms, drawn=first >= self.data)
            outside = predictor.claims.far_outside(chunk) if first < self.data else None
            points.outside += 0 if outside is None else int(outside.sum())
            for steps in observe.pairs_within(chunk, scores, rng):
                found = observe.observed_slopes(steps, functions.cotangents, predictor.rounding(), self.norm)
                points.slopes = np.maximum(points.slopes, found.max(axis=0))
            after = done + self._cost(range(first, first + len(chunk)))
            if first < self.attacked:
                share = part(progress, (done + len(chunk)) / whole, after / whole)
                attacked.append(self._attack(predictor, engine, chunk[: self.attacked - first], share))
            done = after
            progress(done / whole)
        return ShardFindings(points, _joined(attacked))

    def shards(self, data: Stream | None, samples: int) -> list[range]:
        """Return the shards of all points, for a :class:`~lipmodel.data.shards.ShardExecutor`."""
        given = cut(self.data, observe.CHUNK_ROWS, data.starts, self.attacked) if data is not None else []
        drawn = cut(samples, observe.CHUNK_ROWS, range(0, samples, DRAWN_ROWS), self.attacked - self.data)
        return given + [range(self.data + rows.start, self.data + rows.stop) for rows in drawn]

    def _cost(self, rows: range) -> float:
        return len(rows) + ATTACK_COST * max(0, min(rows.stop, self.attacked) - rows.start)

    def _chunks(
        self, predictor: CertifiedPredictor, data: Stream | None, rows: range
    ) -> Iterator[tuple[int, Array, np.random.Generator]]:
        """Yield chunks: number of the first point, the points, and the generator of their random numbers."""
        given = range(rows.start, min(rows.stop, self.data))
        if data is not None and given:
            for first, inputs, _ in batches_within(data, given, observe.CHUNK_ROWS):
                x = predictor.check_inputs(inputs, first_row=first)
                yield first, x, np.random.default_rng((self.seed, first))
        for first in range(max(rows.start, self.data), rows.stop, observe.CHUNK_ROWS):
            rng = np.random.default_rng((self.seed, first))
            size = min(observe.CHUNK_ROWS, rows.stop - first), predictor.file.graph.input_size
            yield first, rng.uniform(*self.box, size=size), rng

    def _attack(
        self, predictor: CertifiedPredictor, engine: GradientEngine, points: Array, progress: Progress
    ) -> AttackedPoints:
        """Attack points, at any distance and inside each certified radius."""
        before = predictor.predict(points, self.norm).radii
        radius = before.certified_radius
        task = AttackTask(predictor, engine, points, BALLS[self.norm], self.seed)
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
        return AttackedPoints(radius, attack.distance, inside)


def audited(predictor: CertifiedPredictor, norm: Norm) -> tuple[observe.Functionals, Array]:
    """Return the functionals and their certified Lipschitz bounds (F,)."""
    functions, bounds = observe.functionals(predictor.file.graph), predictor.bounds(norm)
    limits = [bounds.bound_global if j is None else bounds.bound_per_pair[i, j] for i, j in functions.pairs]
    return functions, np.array(limits)


def merged(parts: Iterable[ShardFindings]) -> ShardFindings:
    """Return the findings at all points from those of at least one shard, in order."""
    rest = iter(parts)
    points, first = next(rest)
    attacked = [first]
    for later, more in rest:
        points.merge(later)
        attacked.append(more)
    return ShardFindings(points, _joined(attacked))


def _joined(parts: list[AttackedPoints]) -> AttackedPoints:
    if not parts:
        return AttackedPoints(np.empty(0), np.empty(0), ())
    radii, distances, inside = zip(*parts, strict=True)
    return AttackedPoints(np.concatenate(radii), np.concatenate(distances), tuple(chain(*inside)))
