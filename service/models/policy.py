"""Policies of models: the certified radius required of an answer, and the action on answers below it.

Every protocol applies them by :func:`judge`, over arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lipmodel.errors import InputError
from lipmodel.norms import Array
from lipmodel.threat import Threat
from service.problems import FieldError, Problem, ProblemKind

MAX_ROWS_NAMED = 10


class Action(StrEnum):
    """Action on an answer with a certified radius below the policy's epsilon."""

    FLAG = "flag"
    """Return the answer, marked as not certified."""
    ABSTAIN = "abstain"
    """Withhold the label of this answer; return the other answers of the request."""
    REJECT = "reject"
    """Refuse the whole request."""


@dataclass(frozen=True)
class Policy:
    """Requirement on every answer of a model.

    Attributes:
        threat: threat set of radii, in requests that name none.
        epsilon: the least certified radius required, for that threat set; None requires nothing.
        action: on answers with a smaller radius.
        threat_name: name of the threat set in the model's settings; None for the ball of a norm.
    """

    threat: Threat
    epsilon: float | None = None
    action: Action = Action.FLAG
    threat_name: str | None = None

    @cached_property
    def binding(self) -> bool:
        """True if the policy may withhold answers."""
        return self.action is not Action.FLAG

    def threat_for(self, requested: Threat | None, field: str) -> Threat:
        """Return the threat set for which a request is answered that gives ``requested``, or none.

        A policy that may withhold answers requires its own threat set: a radius for another one says nothing
        about the policy's epsilon.

        Raises:
            InputError: the request is for another threat set than such a policy requires; names ``field``,
                the member that gives it.
        """
        if requested is None or requested == self.threat:
            return self.threat
        if self.binding:
            given = f"is '{requested.norm}'" if field == "norm" else "is another threat set"
            own = f"'{self.threat.norm}', the norm"
            if self.threat_name is not None:
                own = f"'{self.threat_name}', the threat set"
            raise InputError(
                f"{given}; this model accepts only {own} of its policy '{self.action}'", field=field
            )
        return requested


class Judgement(NamedTuple):
    """Outcome of a policy for N answers.

    Attributes:
        certified: (N,) whether the radius is positive and at least epsilon, the request's or else the
            policy's; None without either.
        abstained: (N,) whether the label is withheld; None where all labels are returned.
    """

    certified: NDArray[np.bool_] | None
    abstained: NDArray[np.bool_] | None


def judge(policy: Policy, threat: Threat, radii: Array, epsilon: float | None) -> Judgement:
    """Return the outcome of a policy for the radii of one request.

    The request's epsilon affects ``certified`` alone, never the action of the policy.

    Args:
        policy: of the model.
        threat: of the radii, from ``policy.threat_for``.
        radii: (N,) certified radii.
        epsilon: of the request, or None.

    Raises:
        Problem: 422 that names the rows, where the policy rejects requests and a radius is below its epsilon.
    """
    if epsilon is None and threat == policy.threat:
        epsilon = policy.epsilon
    certified = None if epsilon is None else is_certified(radii, epsilon)
    if not policy.binding or policy.epsilon is None:
        return Judgement(certified, None)
    below = ~is_certified(radii, policy.epsilon)
    if not below.any():
        return Judgement(certified, None)
    if policy.action is Action.REJECT:
        raise _rejection(policy, radii, np.flatnonzero(below))
    return Judgement(certified, below)


def is_certified(radii: Array, epsilon: float) -> NDArray[np.bool_]:
    """Return (N,) whether each radius is positive and at least epsilon.

    A radius of 0 certifies nothing, not even a change of size 0.
    """
    certified: NDArray[np.bool_] = (radii > 0.0) & (radii >= epsilon)
    return certified


def _rejection(policy: Policy, radii: Array, rows: NDArray[np.intp]) -> Problem:
    within = f"in norm {policy.threat.norm}" if policy.threat_name is None else f"for '{policy.threat_name}'"
    required = f"the policy of this model requires {policy.epsilon} {within}"
    named = [
        FieldError(field=f"inputs[{row}]", reason=f"its certified radius is {radii[row]}; {required}")
        for row in rows[:MAX_ROWS_NAMED].tolist()
    ]
    places = ", ".join(error.field for error in named) + (", …" if len(rows) > MAX_ROWS_NAMED else "")
    count = f"{len(rows)} of {len(radii)} answers are not certified" if len(radii) > 1 else "not certified"
    return Problem(ProblemKind.BELOW_POLICY, f"{count} ({places}): {required}", errors=named)
