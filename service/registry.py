"""Which models are served, and which files are refused, with the reason.

A registry never changes once made: another state of the folder is another registry, so a request
that looks at one sees no mixture. :mod:`service.models` holds the present one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from lipmodel.certify.predictor import CertifiedPredictor
from service.errors import Problem, ProblemKind
from service.model_settings import ModelSettings
from service.samples import Samples

LATEST = "latest"


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


@dataclass(frozen=True)
class Versions:
    """The versions of one model, the smallest number first.

    Attributes:
        name: of the model.
        served: those that answer.
        refused: what is wrong with files as they are now. A version may be among the served as well:
            its file was replaced by one that is refused, and what was read before goes on serving.
        pinned: the versions that labels were given to; labels without a version are not here.
        samples: inputs to show and try, or None.
        fault: what is wrong with the model beside its versions (settings, labels, samples), or None.
    """

    name: str
    served: Mapping[str, Model]
    refused: Mapping[str, str] = field(default_factory=dict)
    pinned: Mapping[str, str] = field(default_factory=dict)
    samples: Samples | None = None
    fault: str | None = None

    @property
    def labels(self) -> Mapping[str, str]:
        """Versions by label; ``latest`` is the largest that is served, unless it was given to one."""
        latest = {LATEST: list(self.served)[-1]} if self.served else {}
        return {**latest, **self.pinned}

    @cached_property
    def latest(self) -> Model | None:
        """What answers where no version is asked for."""
        return self.served.get(self.labels.get(LATEST, ""))

    @property
    def reason(self) -> str:
        """Why the latest does not answer, or everything that is wrong where it does."""
        one = len(self.refused) == 1 and not self.served
        reasons = [r if one else f"version {version}: {r}" for version, r in self.refused.items()]
        if self.latest is None and self.served:
            reasons.append(
                f"the label '{LATEST}' is given to version {self.labels[LATEST]}, which is not served"
            )
        return "; ".join(([self.fault] if self.fault else []) + reasons)


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
        """Reasons of the models that do not answer, by name."""
        return {name: v.reason for name, v in self.models.items() if v.latest is None}

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
            Problem: 404 where there is no such model or version, 409 where its file was refused.
        """
        if version is None and name in self.served:
            return self.served[name]
        versions = self.versions(name)
        asked = LATEST if version is None else version
        number = versions.labels.get(asked, asked)
        if number in versions.served:
            return versions.served[number]
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
