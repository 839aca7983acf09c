"""Ways to answer with a radius: what peers do, what a careful peer would do, and ours, in both executions.

A rule gives labels and radii, and the labels of every program that its radii speak of.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace
from functools import cached_property
from unittest import mock

import numpy as np

from lipmodel import norms
from lipmodel.audit.gradient import GradientEngine
from lipmodel.certify import head, linear_runs, lipschitz
from lipmodel.certify.lipschitz import bound_lipschitz
from lipmodel.certify.norms import convolution
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.network.execution import Execution
from lipmodel.norms import Norm
from tests.exact import operator_norm
from tests.networks import to_file
from tests.soundness import runtimes
from tests.soundness.nets import fresh


@contextlib.contextmanager
def unrounded():
    """Constants as one would compute them without a thought for rounding: nearest, and a plain SVD."""
    same = {"up": lambda x: x, "down": lambda x: x, "inflate": lambda x, _: x, "gamma": lambda *_: 0.0}
    with contextlib.ExitStack() as stack:
        for module in (norms, head, linear_runs, lipschitz, convolution):
            names = {name: function for name, function in same.items() if hasattr(module, name)}
            stack.enter_context(mock.patch.multiple(module, **names))
        plain = mock.patch.object(
            norms, "bound_spectral_norm", lambda w: operator_norm(w, Norm.TWO, Norm.TWO)
        )
        stack.enter_context(plain)
        yield


class Subject:
    """A network under test: its file, our predictor, and what the rules need of it."""

    def __init__(self, graph, claim=None):
        self.graph, self.claim = graph, claim
        self.content = to_file(graph)
        self.predictor = CertifiedPredictor(self.content)
        self.head = self.predictor.head
        self._plain = {}

    @cached_property
    def gradient(self):
        return GradientEngine(self.graph)

    @cached_property
    def programs(self):
        """Float32 evaluations of the file that must all agree within a portable radius."""
        return runtimes.programs(self.graph, self.content)

    @cached_property
    def doubles(self):
        """Float64 evaluations that must all agree within a served radius."""
        return runtimes.float64_programs(self.graph)

    @cached_property
    def float32(self):
        return self._raw(np.float32)

    @cached_property
    def float64(self):
        return self._raw(np.float64)

    def _raw(self, dtype):
        execution = Execution(replace(self.graph, output=self.head.scores).pruned(), dtype)
        return lambda x: self.head.raw_scores(execution.scores(x))

    def plain_constants(self, threat):
        """(M, M) unrounded constants of the differences of raw scores."""
        if threat not in self._plain:
            with unrounded():
                self._plain[threat] = bound_lipschitz(fresh(self.graph), threat).bound_per_score_pair
        return self._plain[threat]

    def claimed_constants(self, threat):
        """The same as a maker claims them: each score 1-Lipschitz, rows of the last layer orthonormal in l2."""
        norm = threat.norm
        if self.claim is not norm or threat.scale is not None:
            return self.plain_constants(threat)
        if self.head.binary:
            return np.ones((2, 2))
        return np.full((len(self.head.owners),) * 2, math.sqrt(2.0) if norm is Norm.TWO else 2.0)


@dataclass(frozen=True)
class Answer:
    label: np.ndarray
    radius: np.ndarray


class Naive:
    """Margin over constant, nothing paid for rounding."""

    def __init__(self, name, dtype, claimed):
        self.name, self.dtype, self.claimed = name, dtype, claimed

    def scores(self, subject, x):
        return (subject.float32 if self.dtype is np.float32 else subject.float64)(x)

    def answer(self, subject, x, threat):
        constants = (subject.claimed_constants if self.claimed else subject.plain_constants)(threat)
        constants = constants.astype(self.dtype)
        scores, owners = self.scores(subject, x).astype(self.dtype), subject.head.owners
        best = scores.argmax(axis=1)
        foreign = owners[None, :] != owners[best][:, None]
        with np.errstate(all="ignore"):
            margins = scores[np.arange(len(x)), best][:, None] - scores
            radii = np.where(foreign, margins / constants[best], np.inf).min(axis=1)
        return Answer(owners[best], np.nan_to_num(radii.astype(float), nan=0.0, posinf=np.finfo(float).max))

    def labels(self, subject, x):
        return [subject.head.owners[self.scores(subject, x).argmax(axis=1)]]


class Ours:
    """The served radius: about the predictor's own float64 evaluation, and every other conforming one."""

    name = "ours, float64"

    def answer(self, subject, x, threat):
        radii = subject.predictor.predict(x, threat).radii
        return Answer(radii.label, radii.certified_radius)

    def labels(self, subject, x):
        own = subject.head.owners[subject.float64(x).argmax(axis=1)]
        return [own, *(program(x) for program in subject.doubles.values())]


class OursPortable:
    """The radius that holds for every conforming float32 runtime."""

    name = "ours, float32 portable"

    def answer(self, subject, x, threat):
        return Answer(
            subject.predictor.predict(x, threat).radii.label, subject.predictor.portable_radii(x, threat)
        )

    def labels(self, subject, x):
        return [program(x) for program in subject.programs.values()]


class OursSingle:
    """The radius of float32 execution: about this evaluation, and every other conforming one in float32."""

    name = "ours, float32 execution"

    def answer(self, subject, x, threat):
        radii = subject.predictor.predict(x, threat, execution=np.float32).radii
        return Answer(radii.label, radii.certified_radius)

    def labels(self, subject, x):
        own = subject.head.owners[subject.float32(x).argmax(axis=1)]
        return [own, *(program(x) for program in subject.programs.values())]


CLAIMED = Naive("claimed L = 1, float32", np.float32, claimed=True)
SINGLE = Naive("float64 SVD per pair, float32 scores", np.float32, claimed=False)
DOUBLE = Naive("float64 SVD per pair, float64 scores", np.float64, claimed=False)
OURS, PORTABLE, OURS_SINGLE = Ours(), OursPortable(), OursSingle()
NAIVE = (CLAIMED, SINGLE, DOUBLE)
RULES = (*NAIVE, OURS, PORTABLE, OURS_SINGLE)
