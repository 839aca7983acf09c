"""Signs certificates with keys from a file, which may be replaced while the service runs."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from lipmodel.certify.predictor import CertifiedPredictor, Predictions
from lipmodel.errors import SignatureError
from lipmodel.norms import Array
from lipmodel.signed.answers import answers
from lipmodel.signed.jws import sign
from lipmodel.signed.key_sets import SigningKeys, read_signing_keys

POLL_SECONDS = 1.0

log = logging.getLogger(__name__)


class Signer:
    """Signs answers with the keys of a file, which is reloaded when it has changed.

    Each process reads the file by itself. A new key is published ten minutes before it signs, so that no
    process signs with a key that another does not publish yet, or that a consumer's copy of the published
    keys lacks.

    An unusable new file leaves the keys unchanged, and is logged.

    Args:
        path: of the keys; see ``read_signing_keys``.
        issuer: named in certificates.

    Raises:
        SignatureError: the file cannot be used.
    """

    def __init__(self, path: Path, issuer: str) -> None:
        self._path, self._issuer = path, issuer
        self._stamp = self._poll()
        self._keys = read_signing_keys(path)
        self._polled = time.monotonic()

    @property
    def keys(self) -> SigningKeys:
        """Return the present keys, at most a second old."""
        now = time.monotonic()
        if now - self._polled >= POLL_SECONDS:
            self._polled = now
            if (stamp := self._poll()) != self._stamp:
                self._stamp = stamp
                try:
                    self._keys = read_signing_keys(self._path)
                except SignatureError as error:
                    log.error("signing keys are not reloaded: %s", error)
        return self._keys

    def certificates(
        self, predictor: CertifiedPredictor, inputs: Array, predictions: Predictions
    ) -> list[str]:
        """Return one signed certificate for each of (N, d) inputs; about 0.2 ms each.

        Raises:
            InputError: a score or bound is not finite.
        """
        keys = self.keys.current(time.time())
        return [sign(answer, keys, self._issuer) for answer in answers(predictor, inputs, predictions)]

    def _poll(self) -> Any:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode
