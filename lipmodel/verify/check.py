"""Verification of a certificate, whole or of its consistency alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lipmodel.certificates.format import Certificate
from lipmodel.errors import MissingExtraError, ModelError
from lipmodel.network.reader.read import read_onnx
from lipmodel.verify.consistency import Check, check_consistency


@dataclass(frozen=True)
class Verdict:
    """What was found of a certificate.

    Attributes:
        checks: its statements, one by one, see the package's documentation.
        against_model: whether the model was given; without it nothing is proved of the answer.
    """

    checks: tuple[Check, ...]
    against_model: bool

    @property
    def verdict(self) -> str:
        """``holds``; ``consistent`` where no more could be checked without the model; ``fails``."""
        if not all(check.passed for check in self.checks):
            return "fails"
        return "holds" if self.against_model else "consistent"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it fails; empty where it does not."""
        return tuple(f"{check.name}: {check.reason}" for check in self.checks if not check.passed)

    @property
    def meaning(self) -> str:
        """The verdict in a sentence."""
        return {
            "holds": "every statement is proved from the model and the input",
            "consistent": "the statements agree with one another, which is all that was checked; "
            "give the model to have them proved",
            "fails": "not every statement is proved",
        }[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "verdict": self.verdict,
            "meaning": self.meaning,
            "against_model": self.against_model,
            "checks": [{"name": c.name, "passed": c.passed, "reason": c.reason} for c in self.checks],
        }


def verify(
    certificate: Certificate, model: Path | bytes | None = None, inputs: ArrayLike | None = None
) -> Verdict:
    """Checks every statement of a certificate, in exact arithmetic.

    Args:
        certificate: see :class:`Certificate`.
        model: the ONNX file that it speaks of, or its bytes; without it only consistency is checked.
        inputs: what was sent, if it shall be compared with the input stated: d numbers in any shape.

    Raises:
        MissingExtraError: a model is given and python-flint is not installed.
    """
    checks = check_consistency(certificate)
    if inputs is not None:
        checks.insert(0, Check("input that was sent", _differs(certificate, inputs)))
    if model is None:
        return Verdict(tuple(checks), against_model=False)
    try:
        from lipmodel.verify.proof import Proof
    except ModuleNotFoundError as error:
        raise MissingExtraError("exact verification", "verify") from error
    if all(check.passed for check in checks):
        try:
            proof = Proof(read_onnx(model))
            proof.check_reading()
            checks += proof.check(certificate)
        except ModelError as error:
            checks.append(Check("model", f"is refused: {error}"))
    return Verdict(tuple(checks), against_model=True)


def _differs(certificate: Certificate, inputs: ArrayLike) -> str:
    sent, stated = np.asarray(inputs, dtype=np.float64).ravel(), np.asarray(certificate.input)
    if sent.size != stated.size:
        return f"has {sent.size} numbers; the certificate speaks of {stated.size}"
    differing = np.flatnonzero(sent != stated)
    if not differing.size:
        return ""
    at = int(differing[0])
    return f"number {at} is {float(sent[at])!r}; the certificate speaks of {float(stated[at])!r}"
