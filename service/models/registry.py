"""Which models are served, and which files are refused, with the reason.

A registry never changes once made: another state of the folder is another registry, so a request
that looks at one sees no mixture. :mod:`service.models.watcher` holds the present one.
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
CHECKING = "it is being checked in an isolated process, as every file is that was not seen before"
NOT_DEFAULT = "it is served under its number alone"
HOW = f"give it the label '{LATEST}', or put a file named '{FORCE_FILE}' into its folder"
MAX_LISTED = 10
"""Classes named in a message."""


@dataclass(frozen=True, eq=False)
class Model:
    """One version of a model, ready to answer.

    Attributes:
        name: of the model.
        version: a positive whole number, as text.
        predictor: the model itself, in the execution that is set, ready in its own norm and mostly in all.
        multiplications: of numbers, for one input; a measure of how long an answer takes.
        settings: policy and execution.
    """

    name: str
    version: str
    predictor: CertifiedPredictor
    multiplications: int
    settings: ModelSettings


def differences(old: Model, new: Model) -> str:
    """Return the differences that would break clients of one version; empty where there are none."""
    shapes = [model.predictor.file.graph.input_shape for model in (old, new)]
    classes = [model.predictor.class_names for model in (old, new)]
    norms = [model.settings.policy.norm for model in (old, new)]
    found = []
    # Any shape also takes flat inputs, so one that was flat may become another of the same size.
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
        served: those that answer.
        refused: what is wrong with files as they are now. A version may be among the served as well:
            its file was replaced by one that is refused, and what was read before goes on serving.
        checking: the versions whose files wait for their first check; likewise.
        pinned: the versions that labels were given to; labels without a version are not here.
        forced: the versions that are to be the default whatever clients expect.
        samples: inputs to show and try, or None.
        fault: what is wrong with the model beside its versions (settings, labels, samples), or None.
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
        """Versions by label; ``latest`` is the largest served and not held back, unless given to one."""
        defaults = [version for version in self.served if version not in self.held_back]
        latest = {LATEST: defaults[-1]} if defaults else {}
        return {**latest, **self.pinned}

    @cached_property
    def latest(self) -> Model | None:
        """What answers where no version is asked for."""
        return self.served.get(self.labels.get(LATEST, ""))

    @property
    def reason(self) -> str:
        """Why the latest does not answer, or everything that is wrong where it does."""
        silent = self.latest is None
        reasons = {v: r for v, r in self.reasons.items() if silent or v in {*self.refused, *self.held_back}}
        one = len(reasons) == 1 and not self.served
        told = [r if one else f"version {version}: {r}" for version, r in reasons.items()]
        if silent and self.served:
            told.append(
                f"the label '{LATEST}' is given to version {self.labels[LATEST]}, which is not served"
            )
        return "; ".join(([self.fault] if self.fault else []) + told)

    @cached_property
    def reasons(self) -> Mapping[str, str]:
        """The reasons why versions are refused, are not served yet or are not the default, by number."""
        held = {version: f"{NOT_DEFAULT}: {held}; {HOW}" for version, held in self.held_back.items()}
        reasons = dict.fromkeys(self.checking, CHECKING) | dict(self.refused) | held
        return {version: reasons[version] for version in sorted(reasons, key=int)}

    @cached_property
    def held_back(self) -> Mapping[str, str]:
        """The ways in which clients of the default would break with a newer version, by its number.

        Going up from the smallest number, a version becomes the default where its inputs, classes and norm
        are those of the default so far, or where that was asked for.
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
    """What a folder held when it was read.

    Attributes:
        models: by name.
        fault: what is wrong with the folder itself, or None.
    """

    models: Mapping[str, Versions]
    fault: str | None = None

    @cached_property
    def served(self) -> Mapping[str, Model]:
        """What answers where no version is asked for, by name."""
        return {name: v.latest for name, v in self.models.items() if v.latest is not None}

    @cached_property
    def refused(self) -> Mapping[str, str]:
        """Reasons of the models that do not answer, by name; those that are being checked are not here."""
        silent = (v for v in self.models.values() if v.latest is None and not v.checking)
        return {versions.name: versions.reason for versions in silent}

    @cached_property
    def checking(self) -> int:
        """How many models do not answer yet, as a file of theirs is being checked."""
        return len(self.models) - len(self.served) - len(self.refused)

    @cached_property
    def digest(self) -> str:
        """The same on two servers where they serve the same: files by name, version and label."""
        told = {
            name: [{n: m.predictor.file.sha256 for n, m in v.served.items()}, dict(v.labels)]
            for name, v in self.models.items()
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    def find(self, name: str, version: str | None = None) -> Model:
        """The model of that name.

        Args:
            name: as the path has it; any text.
            version: a number or a label; the label ``latest`` by default.

        Raises:
            Problem: 404 where there is no such model or version, 409 where its file was refused, 503 where
                that is not known yet.
        """
        if version is None and name in self.served:
            return self.served[name]
        versions = self.versions(name)
        asked = LATEST if version is None else version
        number = versions.labels.get(asked, asked)
        if number in versions.served:
            return versions.served[number]
        if number in versions.checking or (asked == LATEST and versions.checking):
            asked_for = (
                f"version {number} of model '{name}'" if number in versions.checking else f"model '{name}'"
            )
            detail = f"{asked_for} does not answer yet: {versions.reasons.get(number, versions.reason)}"
            raise Problem(ProblemKind.MODEL_CHECKING, detail, headers={"Retry-After": "1"})
        if version is None or asked == LATEST:
            raise Problem(ProblemKind.MODEL_REFUSED, f"model '{name}' is refused: {versions.reason}")
        if number in versions.refused:
            detail = f"version {number} of model '{name}' is refused: {versions.refused[number]}"
            raise Problem(ProblemKind.MODEL_REFUSED, detail)
        known = ", ".join(f"'{v}'" for v in (*versions.served, *versions.labels)) or "none"
        detail = f"model '{name}' has no version '{asked[:64]}'; versions and labels: {known}"
        raise Problem(ProblemKind.UNKNOWN_VERSION, detail)

    def versions(self, name: str) -> Versions:
        """All versions of that name.

        Raises:
            Problem: 404 where there is no such model.
        """
        if name in self.models:
            return self.models[name]
        served = ", ".join(f"'{n}'" for n in self.served) or "none"
        detail = f"no model is named '{name[:64]}'; served: {served}"
        raise Problem(ProblemKind.UNKNOWN_MODEL, detail)
