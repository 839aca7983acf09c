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
from lipmodel.norms import Array, Norm
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
        norm: of radii, in requests that name none.
        epsilon: the least certified radius required, in that norm; None requires nothing.
        action: on answers with a smaller radius.
    """

    norm: Norm
    epsilon: float | None = None
    action: Action = Action.FLAG

    @cached_property
    def binding(self) -> bool:
        """True if the policy may withhold answers."""
        return self.action is not Action.FLAG

    def norm_for(self, requested: Norm | None) -> Norm:
        """Return the norm in which a request is answered that names ``requested``, or none.

        A policy that may withhold answers requires its own norm: a radius in another norm says nothing about
        the policy's epsilon.

        Raises:
            InputError: the request names another norm than such a policy requires.
        """
        if requested is None or requested is self.norm:
            return self.norm
        if self.binding:
            raise InputError(
                f"is '{requested}'; this model accepts only '{self.norm}', the norm of its policy "
                f"'{self.action}'",
                field="norm",
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


def judge(policy: Policy, norm: Norm, radii: Array, epsilon: float | None) -> Judgement:
    """Return the outcome of a policy for the radii of one request.

    The request's epsilon affects ``certified`` alone, never the action of the policy.

    Args:
        policy: of the model.
        norm: of the radii, from ``policy.norm_for``.
        radii: (N,) certified radii.
        epsilon: of the request, or None.

    Raises:
        Problem: 422 that names the rows, where the policy rejects requests and a radius is below its epsilon.
    """
    if epsilon is None and norm is policy.norm:
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
    required = f"the policy of this model requires {policy.epsilon} in norm {policy.norm}"
    named = [
        FieldError(field=f"inputs[{row}]", reason=f"its certified radius is {radii[row]}; {required}")
        for row in rows[:MAX_ROWS_NAMED].tolist()
    ]
    places = ", ".join(error.field for error in named) + (", …" if len(rows) > MAX_ROWS_NAMED else "")
    count = f"{len(rows)} of {len(radii)} answers are not certified" if len(radii) > 1 else "not certified"
    return Problem(ProblemKind.BELOW_POLICY, f"{count} ({places}): {required}", errors=named)
