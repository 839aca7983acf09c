"""What the service signs with: keys of a file that may be replaced while it serves."""

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

LOOK_SECONDS = 1.0

log = logging.getLogger(__name__)


class Signer:
    """Signs answers with the keys of a file, which is read again when it has changed.

    Each process reads it by itself. A new key is published ten minutes before it signs, so that no process
    signs with what another does not publish yet, or a consumer's copy of the published keys does not hold.

    A file that has become unusable leaves the keys as they were, which is logged.

    Args:
        path: of the keys, see ``read_signing_keys``.
        issuer: the name that certificates bear.

    Raises:
        SignatureError: the file cannot be used.
    """

    def __init__(self, path: Path, issuer: str) -> None:
        self._path, self._issuer = path, issuer
        self._stamp = self._look()
        self._keys = read_signing_keys(path)
        self._looked = time.monotonic()

    @property
    def keys(self) -> SigningKeys:
        """The keys as they are now, or were a second ago."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            if (stamp := self._look()) != self._stamp:
                self._stamp = stamp
                try:
                    self._keys = read_signing_keys(self._path)
                except SignatureError as error:
                    log.error("signing keys stay as they were: %s", error)
        return self._keys

    def certificates(
        self, predictor: CertifiedPredictor, inputs: Array, predictions: Predictions
    ) -> list[str]:
        """One signed certificate for each of (N, d) inputs; some 0.2 ms each.

        Raises:
            InputError: a score or a bound is no finite number.
        """
        keys = self.keys.current(time.time())
        return [sign(answer, keys, self._issuer) for answer in answers(predictor, inputs, predictions)]

    def _look(self) -> Any:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode
