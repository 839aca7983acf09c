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
    """Result of the verification of a certificate.

    Attributes:
        checks: one check per statement, see the package's documentation.
        against_model: whether the model was given; without a model nothing is proved of the answer.
    """

    checks: tuple[Check, ...]
    against_model: bool

    @property
    def verdict(self) -> str:
        """Return ``holds``, ``consistent`` (all that can be checked without the model) or ``fails``."""
        if not all(check.passed for check in self.checks):
            return "fails"
        return "holds" if self.against_model else "consistent"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return the reasons of failure; empty where no check fails."""
        return tuple(f"{check.name}: {check.reason}" for check in self.checks if not check.passed)

    @property
    def meaning(self) -> str:
        """Return the verdict in a sentence."""
        return {
            "holds": "every statement is proved from the model and the input",
            "consistent": "the statements agree with one another, which is all that was checked; "
            "give the model to have them proved",
            "fails": "not every statement is proved",
        }[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as a JSON object."""
        return {
            "verdict": self.verdict,
            "meaning": self.meaning,
            "against_model": self.against_model,
            "checks": [{"name": c.name, "passed": c.passed, "reason": c.reason} for c in self.checks],
        }


def verify(
    certificate: Certificate, model: Path | bytes | None = None, inputs: ArrayLike | None = None
) -> Verdict:
    """Check every statement of a certificate, in exact arithmetic.

    Args:
        certificate: certificate to verify.
        model: the ONNX file that the certificate is about, or its bytes; without a model only consistency is
            checked.
        inputs: the input that was sent, d numbers in any shape, to compare with the one stated.

    Returns:
        The verdict, with one check per statement.

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
