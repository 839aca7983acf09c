"""What a model's answers are worth: at least how large a radius it must prove, and what becomes of the rest.

One place decides this, over arrays, for every protocol.
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
    """What becomes of an answer whose radius is below the policy's epsilon."""

    FLAG = "flag"
    """It is given, and said not to be certified."""
    ABSTAIN = "abstain"
    """No label is given; the other answers of the request are."""
    REJECT = "reject"
    """The whole request is refused."""


@dataclass(frozen=True)
class Policy:
    """What is asked of every answer of a model.

    Attributes:
        norm: of radii, where a request names none.
        epsilon: the least radius wanted, in that norm; None asks for nothing.
        action: for answers with a smaller radius.
    """

    norm: Norm
    epsilon: float | None = None
    action: Action = Action.FLAG

    @cached_property
    def binding(self) -> bool:
        """Whether answers may be held back."""
        return self.action is not Action.FLAG

    def norm_for(self, asked: Norm | None) -> Norm:
        """The norm that a request is answered in.

        Where answers may be held back it is the policy's: a radius in another norm says nothing about
        the policy's epsilon.

        Raises:
            InputError: the request asks for another.
        """
        if asked is None or asked is self.norm:
            return self.norm
        if self.binding:
            raise InputError(
                f"is '{asked}'; the policy of this model, '{self.action}', is in norm '{self.norm}', "
                "and only that is accepted",
                field="norm",
            )
        return asked


class Judgement(NamedTuple):
    """What a policy makes of N answers.

    Attributes:
        certified: (N,) whether the radius is positive and at least the epsilon that the request asked
            about, or else the policy's; None where there is neither.
        abstained: (N,) whether the label is withheld; None where no label is.
    """

    certified: NDArray[np.bool_] | None
    abstained: NDArray[np.bool_] | None


def judge(policy: Policy, norm: Norm, radii: Array, epsilon: float | None) -> Judgement:
    """Applies a policy to the radii of one request.

    The request's epsilon changes what ``certified`` answers for, never what the policy does.

    Args:
        policy: the model's.
        norm: of the radii, as ``policy.norm_for`` gave it.
        radii: (N,) certified radii.
        epsilon: of the request, or None.

    Raises:
        Problem: 422 naming the rows, where the policy rejects answers and one is below its epsilon.
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
    """(N,) whether each radius covers a change of size epsilon.

    A radius of 0 certifies nothing, not even a change of size 0.
    """
    certified: NDArray[np.bool_] = (radii > 0.0) & (radii >= epsilon)
    return certified


def _rejection(policy: Policy, radii: Array, rows: NDArray[np.intp]) -> Problem:
    wanted = f"the policy of this model asks for {policy.epsilon} in norm {policy.norm}"
    named = [
        FieldError(field=f"inputs[{row}]", reason=f"its certified radius is {radii[row]}; {wanted}")
        for row in rows[:MAX_ROWS_NAMED].tolist()
    ]
    places = ", ".join(error.field for error in named) + (", …" if len(rows) > MAX_ROWS_NAMED else "")
    count = f"{len(rows)} of {len(radii)} answers are not certified" if len(radii) > 1 else "not certified"
    return Problem(ProblemKind.BELOW_POLICY, f"{count} ({places}): {wanted}", errors=named)
