"""Settings of one model, in a TOML file beside it.

::

    [policy]
    norm = "2"             # "1", "2" or "inf"; by default the model's own
    epsilon = 0.5          # least certified radius required, in that norm
    action = "abstain"     # "flag" (default), "abstain" or "reject"

    [serving]
    execution = "float64"  # or "float32"

    [threats.clerical]     # a threat set that requests and the policy give by name (threat = "clerical")
    norm = "inf"
    scale = {age = 2, "capital-gain" = 1000, "*" = 0}
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import InputError, ModelError
from lipmodel.network.execution import Float
from lipmodel.norms import Norm
from lipmodel.threat import BALLS, Threat
from service.models.policy import Action, Policy

Execution = Literal["float64", "float32"]
MAX_THREATS = 16
"""Maximum threat sets of a model that have a name."""


@dataclass(frozen=True)
class ModelSettings:
    """Settings of a version of a model.

    Attributes:
        policy: requirement on its answers.
        execution: the floating-point format in which scores are computed.
        threats: threat sets by name.
    """

    policy: Policy
    execution: Execution = "float64"
    threats: Mapping[str, Threat] = field(default_factory=dict)

    @cached_property
    def dtype(self) -> Float:
        """The numpy type of the execution."""
        return np.float32 if self.execution == "float32" else np.float64


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PolicyTable(_Table):
    """Table ``policy`` of a settings file; every key is optional."""

    norm: Norm | None = None
    threat: str | None = None
    epsilon: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] | None = None
    action: Action = Action.FLAG


class ServingTable(_Table):
    """Table ``serving`` of a settings file."""

    execution: Execution = "float64"


class SettingsFile(_Table):
    """Content of a settings file, which applies to all versions of a model."""

    policy: PolicyTable = PolicyTable()
    serving: ServingTable = ServingTable()
    threats: Annotated[dict[str, dict[str, Any]], Field(max_length=MAX_THREATS)] = {}

    def of(self, predictor: CertifiedPredictor) -> ModelSettings:
        """Return the settings of a version.

        Raises:
            ModelError: a threat set does not fit the columns of the model, or the policy's has no table.
        """
        threats = {}
        for name, table in self.threats.items():
            try:
                threats[name] = predictor.parse_threat(table)
            except InputError as error:
                where = error.field.replace("threat", f"threats.{name}", 1)
                raise ModelError(f"its settings are not accepted: {where} {error.reason}") from None
        named = self.policy.threat
        if named is not None and named not in threats:
            raise ModelError(
                f"its settings are not accepted: policy.threat is '{named:.60}', which has no table "
                f"[threats.{named:.60}]"
            )
        threat = threats[named] if named is not None else BALLS[self.policy.norm or predictor.default_norm]
        policy = Policy(threat, self.policy.epsilon, self.policy.action, named)
        return ModelSettings(policy, self.serving.execution, threats)


def parse_settings(content: bytes) -> SettingsFile:
    """Return the settings in a TOML file.

    Raises:
        ModelError: the content is not TOML, or a key or value is not accepted.
    """
    try:
        tables = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ModelError(f"its settings cannot be read as TOML: {error}") from error
    try:
        settings = SettingsFile.model_validate(tables)
    except ValidationError as error:
        raise ModelError(f"its settings are not accepted: {_first_error(error)}") from None
    if settings.policy.threat is not None and settings.policy.norm is not None:
        raise ModelError(
            "its settings are not accepted: policy.norm and policy.threat are both set; keep one of them"
        )
    if settings.policy.action is not Action.FLAG and settings.policy.epsilon is None:
        raise ModelError(
            f"its settings are not accepted: policy.epsilon is missing, and the action "
            f"'{settings.policy.action}' needs it: a number >= 0"
        )
    return settings


def _first_error(error: ValidationError) -> str:
    """Return the first error: the key, its value and the accepted values."""
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        table = SettingsFile.model_fields.get(str(first["loc"][0]))
        known = SettingsFile if table is None or len(first["loc"]) == 1 else type(table.default)
        return f"unknown key {key}; known keys are {', '.join(known.model_fields)}"
    return f"{key} is {str(first['input'])[:40]!r}: {first['msg'][0].lower() + first['msg'][1:]}"
