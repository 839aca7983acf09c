"""The interface of an attack: the inputs that it takes, and the adversarial inputs that it returns."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from lipmodel.audit.gradient import GradientEngine
from lipmodel.certify.head import Indices
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.norms import Array, Norm, bound_vector_norm, inflate
from lipmodel.progress import Progress
from lipmodel.threat import Threat

Flags = np.ndarray[tuple[int], np.dtype[np.bool_]]


@dataclass(frozen=True, eq=False)
class AttackTask:
    """Inputs to attack, and the classifier that labels them.

    Attributes:
        predictor: the classifier; a change counts only where the predictor itself gives another label.
        engine: gradients of the predictor's graph.
        inputs: (N, d).
        threat: threat set, in whose units distances are.
        seed: of random starts.
    """

    predictor: CertifiedPredictor
    engine: GradientEngine
    inputs: Array
    threat: Threat
    seed: int = 0

    @property
    def norm(self) -> Norm:
        """The norm of distances."""
        return self.threat.norm

    @cached_property
    def labels(self) -> Indices:
        """The predicted classes (N,) of the inputs."""
        return self.predictor.predict(self.inputs, self.threat).radii.label

    @cached_property
    def lipschitz(self) -> Array:
        """Certified Lipschitz constants (N, K) of the label's score less each other one; all above 0."""
        bounds = self.predictor.bounds(self.threat).bound_per_pair[self.labels]
        return np.maximum(bounds, np.finfo(float).tiny)

    def moved(self, units: Array) -> Array:
        """Return the inputs after changes (N, d) in units of the threat set."""
        return self.inputs + (units if self.threat.scale is None else units * self.threat.scales)

    def in_units(self, gradients: Array) -> Array:
        """Return gradients (N, d) by changes in units of the threat set; 0 in frozen columns."""
        return gradients if self.threat.scale is None else gradients * self.threat.scales

    def changed(self, points: Array) -> Flags:
        """Return (N,) whether each of the points (N, d) has another label than its input."""
        return np.asarray(self.predictor.predict(points, self.threat).radii.label != self.labels)

    def distances(self, points: Array) -> Array:
        """Return the distances (N,) of the points (N, d) to their inputs, rounded up.

        Points differ from their inputs in no frozen column.
        """
        distances = bound_vector_norm(self.threat.units(points - self.inputs), self.norm, axis=1)
        return distances if self.threat.scale is None else np.asarray(inflate(distances, 2))

    def judge(self, points: Array) -> AttackResult:
        """Return the points (N, d) that have another label; the input itself in place of the others."""
        changed = self.changed(points)
        return AttackResult(
            np.where(changed[:, None], points, self.inputs),
            np.where(changed, self.distances(points), np.inf),
        )


@dataclass(frozen=True, eq=False)
class AttackResult:
    """The nearest adversarial inputs that an attack on N inputs found.

    Attributes:
        adversarial: (N, d) inputs with another label; the input itself where none was found.
        distance: (N,) their distances, rounded up: never below the exact ones; infinite where none was
            found.
    """

    adversarial: Array
    distance: Array

    @property
    def flipped(self) -> Flags:
        """(N,) true where another label was found."""
        return np.asarray(np.isfinite(self.distance))

    def nearer(self, other: AttackResult) -> AttackResult:
        """Return, of each input, the nearer of two results."""
        closer = other.distance < self.distance
        return AttackResult(
            np.where(closer[:, None], other.adversarial, self.adversarial),
            np.where(closer, other.distance, self.distance),
        )


class Attack(Protocol):
    """A search for adversarial inputs; its settings are its attributes."""

    @property
    def norms(self) -> Collection[Norm]:
        """The norms in which the attack works."""

    def require(self) -> None:
        """Raise MissingExtraError where a package that the attack needs is not installed."""

    def __call__(self, task: AttackTask, progress: Progress) -> AttackResult:
        """Return the nearest adversarial inputs found, reporting the share done."""
