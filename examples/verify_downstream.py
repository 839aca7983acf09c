"""Accept predictions from third parties after verifying their signed certificates offline.

    lipserve keys new-signing signing.json
    lipserve --models examples/models --signing-keys signing.json          # in another terminal
    python examples/verify_downstream.py [--url http://127.0.0.1:8000] [--api-key KEY]

The third party passes on the certificate with the prediction and need not be trusted: an altered certificate
is refused. The keys are fetched once and kept. With the model's file and the input every number can be
recomputed: ``lipmodel.signed.check.check_answer``, or ``lipmodel verify --model … --input …``.
"""

from __future__ import annotations

import argparse

from lipcert.client import Client
from lipmodel.certificates.format import digest
from lipmodel.errors import SignatureError
from lipmodel.signed.check import check_answer
from lipmodel.signed.jws import open_signed
from lipmodel.signed.key_sets import PublicKeys, fetch, read_public

READING, EPSILON = [0.0, 1.0], 0.1


def accept(certificate: str, reading: list[float], keys: PublicKeys) -> str | None:
    """Return the label to act on; None if the label is not certified at EPSILON.

    Raises:
        SignatureError: the certificate was altered, or is of another reading.
    """
    answer = open_signed(certificate, keys).answer
    if answer.input_sha256 != digest(reading):
        raise SignatureError("the certificate is of another reading")
    for check in check_answer(answer, given=reading):
        if not check.passed:
            raise SignatureError(f"{check.name}: {check.reason}")
    return answer.label if answer.norm == "2" and answer.certified_radius >= EPSILON else None


def main() -> None:
    """Get a certificate, act on it, and show that altered certificates are refused."""
    parser = argparse.ArgumentParser(description="Verify signed certificates downstream.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--api-key")
    given = parser.parse_args()
    place = f"{given.url}/.well-known/jwks.json"
    keys = read_public(fetch(place), place)
    with Client(given.url, api_key=given.api_key) as client:
        certificate = client.predict("two-moons", [READING], norm="2", certificate=True)[0].certificate
    assert certificate is not None

    print("accepted:", accept(certificate, READING, keys))
    refused = 0
    for i, character in enumerate(certificate):
        altered = certificate[:i] + ("A" if character != "A" else "B") + certificate[i + 1 :]
        try:
            accept(altered, READING, keys)
        except SignatureError:
            refused += 1
    print(f"refused: {refused} of {len(certificate)} with one character altered")
    try:
        accept(certificate, [0.0, 1.1], keys)
    except SignatureError as error:
        print("refused:", error)


if __name__ == "__main__":
    main()
