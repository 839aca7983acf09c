"""Immutable registry of the models that are served, and of refused files with their reasons.

A change of the folder creates a new registry, so that a request which holds one sees one state of all models.
:mod:`service.models.watcher` holds the current registry.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from lipmodel.certify.predictor import CertifiedPredictor
from service.models.layout import FORCE_FILE
from service.models.samples import Samples
from service.models.settings import ModelSettings
from service.problems import Problem, ProblemKind

LATEST = "latest"
CHECKING = "it is being checked in an isolated process, like every new file"
NOT_DEFAULT = "it is served under its number alone"
HOW_TO_FORCE = f"give it the label '{LATEST}', or add a file named '{FORCE_FILE}' to its folder"
MAX_LISTED = 10
"""Class names listed in a message."""


@dataclass(frozen=True, eq=False)
class Model:
    """One version of a model, ready to answer.

    Attributes:
        name: of the model.
        version: a positive whole number, as text.
        predictor: the model in its configured execution; its bounds are derived in the policy's norm, and in
            all norms where it has few scores.
        multiplications: per input; an estimate of the cost of a prediction.
        settings: policy and execution.
    """

    name: str
    version: str
    predictor: CertifiedPredictor
    multiplications: int
    settings: ModelSettings

    @property
    def reference(self) -> dict[str, str]:
        """Name, version and digest, the reference to the model in responses."""
        return {"name": self.name, "version": self.version, "sha256": self.predictor.file.sha256}


def differences(old: Model, new: Model) -> str:
    """Return the differences of two versions that would break clients of the old; empty without any."""
    shapes = [model.predictor.file.graph.input_shape for model in (old, new)]
    classes = [model.predictor.class_names for model in (old, new)]
    norms = [model.settings.policy.threat.norm for model in (old, new)]
    found = []
    # Every shape also accepts flat inputs, so a flat shape may become any other of the same size.
    if shapes[0] != shapes[1] and shapes[0] != (math.prod(shapes[1]),):
        found.append(f"its inputs have shape {list(shapes[1])}, not {list(shapes[0])}")
    if classes[0] != classes[1]:
        found.append(f"its classes are {_listed(classes[1])}, not {_listed(classes[0])}")
    if norms[0] != norms[1]:
        found.append(f"its norm is {norms[1]}, not {norms[0]}")
    return ", ".join(found)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:MAX_LISTED])
    return shown if len(names) <= MAX_LISTED else f"{shown}, … ({len(names)})"


@dataclass(frozen=True)
class Versions:
    """The versions of one model, the smallest number first.

    Attributes:
        name: of the model.
        served: versions that are served.
        refused: reasons against the present files, by version. A version whose file was replaced by a refused
            one is in ``served`` as well: the former file continues to be served.
        checking: versions whose present files wait for their first check; they, too, may be served meanwhile.
        pinned: versions by label, for the labels that were assigned.
        forced: versions that become the default even if clients of the former default would break.
        samples: inputs to show and try, or None.
        fault: reason against the model's settings, labels or samples, or None.
    """

    name: str
    served: Mapping[str, Model]
    refused: Mapping[str, str] = field(default_factory=dict)
    checking: frozenset[str] = frozenset()
    pinned: Mapping[str, str] = field(default_factory=dict)
    forced: frozenset[str] = frozenset()
    samples: Samples | None = None
    fault: str | None = None

    @property
    def labels(self) -> Mapping[str, str]:
        """Versions by label; unless assigned, ``latest`` is the largest served version not held back."""
        defaults = [version for version in self.served if version not in self.held_back]
        latest = {LATEST: defaults[-1]} if defaults else {}
        return {**latest, **self.pinned}

    @cached_property
    def latest(self) -> Model | None:
        """The default version, for requests that name none; None where it is not served."""
        return self.served.get(self.labels.get(LATEST, ""))

    @property
    def reason(self) -> str:
        """Reasons why the default version is not served, or all faults of the model where it is."""
        missing = self.latest is None
        reasons = {v: r for v, r in self.reasons.items() if missing or v in {*self.refused, *self.held_back}}
        one = len(reasons) == 1 and not self.served
        texts = [r if one else f"version {version}: {r}" for version, r in reasons.items()]
        if missing and self.served:
            texts.append(f"the label '{LATEST}' names version {self.labels[LATEST]}, which is not served")
        return "; ".join(([self.fault] if self.fault else []) + texts)

    @cached_property
    def reasons(self) -> Mapping[str, str]:
        """Reasons why versions are refused, not served yet or not the default, by number."""
        held = {version: f"{NOT_DEFAULT}: {held}; {HOW_TO_FORCE}" for version, held in self.held_back.items()}
        reasons = dict.fromkeys(self.checking, CHECKING) | dict(self.refused) | held
        return {version: reasons[version] for version in sorted(reasons, key=int)}

    @cached_property
    def held_back(self) -> Mapping[str, str]:
        """Incompatibilities of the served versions that may not become the default, by number.

        In the order of their numbers, a version becomes the default if its inputs, classes and norm equal
        those of the default before it, or if it is forced.
        """
        held: dict[str, str] = {}
        default: Model | None = None
        for version, model in self.served.items():
            different = "" if default is None or version in self.forced else differences(default, model)
            if default is not None and different:
                held[version] = f"clients of version {default.version} would break, as {different}"
            else:
                default = model
        return held


@dataclass(frozen=True)
class Registry:
    """Models of a folder, as of one scan.

    Attributes:
        models: versions of each model, by its name.
        fault: reason against the folder itself, or None.
    """

    models: Mapping[str, Versions]
    fault: str | None = None

    @cached_property
    def defaults(self) -> Mapping[str, Model]:
        """Default version of each model that has one, by the model's name."""
        return {name: v.latest for name, v in self.models.items() if v.latest is not None}

    @cached_property
    def refused(self) -> Mapping[str, str]:
        """Reasons of the models without a default version, by name, but for models that are being checked."""
        missing = (v for v in self.models.values() if v.latest is None and not v.checking)
        return {versions.name: versions.reason for versions in missing}

    @cached_property
    def checking(self) -> int:
        """Number of models without a default version while a file of theirs is being checked."""
        return len(self.models) - len(self.defaults) - len(self.refused)

    @cached_property
    def digest(self) -> str:
        """Digest of the served files by name, version and label; equal on servers that serve equal models."""
        content = {
            name: [{n: m.predictor.file.sha256 for n, m in v.served.items()}, dict(v.labels)]
            for name, v in self.models.items()
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def find(self, name: str, version: str | None = None) -> Model:
        """Return a version of a model.

        Args:
            name: of the model, from the request's path; any text.
            version: a number or a label; the label ``latest`` by default.

        Raises:
            Problem: 404 where there is no such model or version, 409 where its file is refused, 503 while
                its file is being checked.
        """
        if version is None and name in self.defaults:
            return self.defaults[name]
        versions = self.versions(name)
        requested = LATEST if version is None else version
        number = versions.labels.get(requested, requested)
        if number in versions.served:
            return versions.served[number]
        if number in versions.checking or (requested == LATEST and versions.checking):
            subject = f"version {number} of model" if number in versions.checking else "model"
            reason = versions.reasons.get(number, versions.reason)
            detail = f"{subject} '{name}' is not served yet: {reason}"
            raise Problem(ProblemKind.MODEL_CHECKING, detail, headers={"Retry-After": "1"})
        if requested == LATEST:
            raise Problem(ProblemKind.MODEL_REFUSED, f"model '{name}' is refused: {versions.reason}")
        if number in versions.refused:
            detail = f"version {number} of model '{name}' is refused: {versions.refused[number]}"
            raise Problem(ProblemKind.MODEL_REFUSED, detail)
        known = ", ".join(f"'{v}'" for v in (*versions.served, *versions.labels)) or "none"
        detail = f"model '{name}' has no version '{requested[:64]}'; versions and labels: {known}"
        raise Problem(ProblemKind.UNKNOWN_VERSION, detail)

    def versions(self, name: str) -> Versions:
        """Return all versions of a model.

        Raises:
            Problem: 404 where there is no such model.
        """
        if name in self.models:
            return self.models[name]
        served = ", ".join(f"'{n}'" for n in self.defaults) or "none"
        detail = f"no model is named '{name[:64]}'; models served: {served}"
        raise Problem(ProblemKind.UNKNOWN_MODEL, detail)
