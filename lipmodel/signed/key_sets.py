"""Keys for Ed25519 in JSON Web Key Sets (RFC 7517, RFC 8037): read from files and URLs, and made."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import os
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from jwt.algorithms import OKPAlgorithm
from jwt.exceptions import InvalidKeyError

from lipmodel.certificates.strict_json import parse_object
from lipmodel.errors import CertificateError, SignatureError
from lipmodel.files import write_whole

ALGORITHM = "EdDSA"
MAX_BYTES = 2**20
FETCH_SECONDS = 10.0
PUBLISHED_SECONDS = 600.0
"""How long a new key is published before it signs: sets are cached, and reach replicas, in less."""
PublicKeys = Mapping[str, Ed25519PublicKey]
"""By their ids (``kid``)."""
Jwk = dict[str, Any]


@dataclass(frozen=True)
class SigningKeys:
    """What a service signs with.

    Attributes:
        kid: id of the first key of the file.
        private: that key.
        published: every key of the file, without its secret part.
        earlier: the same of the second key, where its secret part is still there.
        changed: when the file was changed last, in seconds since 1970.
    """

    kid: str
    private: Ed25519PrivateKey
    published: tuple[Jwk, ...]
    earlier: SigningKeys | None = None
    changed: float = 0.0

    def current(self, now: float) -> SigningKeys:
        """Return the keys to sign with: the earlier ones until caches of the set must hold the newest."""
        young = now - self.changed < PUBLISHED_SECONDS  # also where the clock went back
        return self.earlier if young and self.earlier else self


def fetch(place: str) -> bytes:
    """The content of a file, or of a URL: https, or http on this machine; redirects are not followed.

    Raises:
        SignatureError: it cannot be read, or is larger than 1 MiB.
    """
    try:
        if "://" not in place:
            with Path(place).open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        elif _trusted(place):
            with _OPENER.open(place, timeout=FETCH_SECONDS) as answer:
                content = answer.read(MAX_BYTES + 1)
        else:
            raise SignatureError(f"keys at {place}: only https is accepted, or http on this machine")
    except (OSError, ValueError, urllib.error.URLError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SignatureError(f"keys at {place} cannot be read: {reason}") from error
    if len(content) > MAX_BYTES:
        raise SignatureError(f"keys at {place}: larger than {MAX_BYTES} bytes")
    return content


def read_public(content: bytes, place: str) -> dict[str, Ed25519PublicKey]:
    """The public Ed25519 keys of a set; keys of other kinds and uses are passed over.

    Raises:
        SignatureError: it is no key set, holds a private key, two keys of one id, or none to use.
    """
    keys: dict[str, Ed25519PublicKey] = {}
    for jwk in members_of(content, place):
        if "d" in jwk:
            raise SignatureError(f"keys at {place}: a private key is among them; give the public ones alone")
        if jwk.get("kty") != "OKP" or jwk.get("crv") != "Ed25519" or jwk.get("use", "sig") != "sig":
            continue
        kid, key = jwk.get("kid"), _import(jwk, place)
        if not isinstance(kid, str) or not kid or not isinstance(key, Ed25519PublicKey):
            raise SignatureError(f"keys at {place}: a key has no id (kid)")
        if kid in keys:
            raise SignatureError(f"keys at {place}: two keys have the id '{kid[:64]}'")
        keys[kid] = key
    if not keys:
        raise SignatureError(f"keys at {place}: none for Ed25519 is among them")
    return keys


def merge(sets: Sequence[PublicKeys]) -> dict[str, Ed25519PublicKey]:
    """The keys of several sets.

    Raises:
        SignatureError: two different keys have the same id.
    """
    merged: dict[str, Ed25519PublicKey] = {}
    for kid, key in (pair for keys in sets for pair in keys.items()):
        if merged.setdefault(kid, key) != key:
            raise SignatureError(f"two different keys have the id '{kid[:64]}'")
    return merged


def read_signing_keys(path: Path) -> SigningKeys:
    """The keys of a file that its owner alone may write, and its owner and group may read.

    The first key signs, once it has been in the file for PUBLISHED_SECONDS; until then the second, where it
    has a secret part. The others need none: they are there to be published, so that what they signed can
    still be verified.

    Raises:
        SignatureError: the file cannot be read, is open to others, or is not such a set.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
            found = os.fstat(file.fileno())  # after the content, which is then no newer than this says
    except OSError as error:
        raise SignatureError(f"keys at {path} cannot be read: {error.strerror}") from error
    if found.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise SignatureError(f"keys at {path}: others may read or write the file; chmod 600 {path}")
    if len(content) > MAX_BYTES:
        raise SignatureError(f"keys at {path}: larger than {MAX_BYTES} bytes")
    published: list[Jwk] = []
    private: list[Ed25519PrivateKey | None] = []
    for jwk in members_of(content, str(path)):
        key = _import(jwk, str(path))
        if jwk.get("kty") != "OKP" or not isinstance(key, Ed25519PrivateKey | Ed25519PublicKey):
            raise SignatureError(f"keys at {path}: a key is not for Ed25519")
        private.append(key if isinstance(key, Ed25519PrivateKey) else None)
        published.append(_public_jwk(key.public_key() if isinstance(key, Ed25519PrivateKey) else key))
    first, second = [*private, None, None][:2]
    if first is None:
        raise SignatureError(f"keys at {path}: the first key has no private part to sign with")
    if len({jwk["kid"] for jwk in published}) < len(published):
        raise SignatureError(f"keys at {path}: a key is there twice")
    everyone = tuple(published)
    earlier = SigningKeys(published[1]["kid"], second, everyone) if second else None
    return SigningKeys(published[0]["kid"], first, everyone, earlier, found.st_ctime)


def add_signing_key(path: Path) -> str:
    """Makes a key, puts it first in the file, which is made if there is none; returns its id.

    The key that was first stays whole, since it signs for a while yet; of the others the public parts stay.
    The file is replaced as a whole.

    Raises:
        SignatureError: the file is there and no such set, its first key does not sign yet, or it cannot be
            written.
    """
    earlier: tuple[Jwk, ...] = ()
    if path.exists():
        keys = read_signing_keys(path)
        if keys.current(time.time()) is not keys:
            raise SignatureError(
                f"keys at {path}: the first key signs {PUBLISHED_SECONDS:g} s after the file was changed; "
                "try again then, or delete the first key or the second from the file"
            )
        earlier = (_secret_jwk(keys.private), *keys.published[1:])
    secret = _secret_jwk(Ed25519PrivateKey.generate())
    try:
        write_whole(path, (json.dumps({"keys": [secret, *earlier]}, indent=1) + "\n").encode("ascii"), 0o600)
    except OSError as error:
        raise SignatureError(f"keys at {path} cannot be written: {error.strerror}") from error
    return str(secret["kid"])


def members_of(content: bytes, place: str) -> list[Jwk]:
    """The keys of a set, as they stand.

    Raises:
        SignatureError: it is no JSON Web Key Set.
    """
    try:
        keys = parse_object(content).get("keys")
    except CertificateError as error:
        where = f"{error.field} " if error.field else ""
        raise SignatureError(f"keys at {place}: {where}{error.reason}") from error
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise SignatureError(f'keys at {place}: a JSON Web Key Set, {{"keys": […]}}, is accepted')
    return keys


def _secret_jwk(key: Ed25519PrivateKey) -> Jwk:
    return _public_jwk(key.public_key()) | {"d": OKPAlgorithm.to_jwk(key, as_dict=True)["d"]}


def _public_jwk(key: Ed25519PublicKey) -> Jwk:
    """With the thumbprint of RFC 7638 as its id."""
    jwk = OKPAlgorithm.to_jwk(key, as_dict=True)
    required = {name: jwk[name] for name in ("crv", "kty", "x")}
    print_ = hashlib.sha256(json.dumps(required, separators=(",", ":")).encode()).digest()
    kid = base64.urlsafe_b64encode(print_).rstrip(b"=").decode()
    return {**required, "use": "sig", "alg": ALGORITHM, "kid": kid}


def _import(jwk: Jwk, place: str) -> object:
    try:
        return OKPAlgorithm.from_jwk(jwk)
    except (InvalidKeyError, ValueError, TypeError, AttributeError) as error:
        raise SignatureError(f"keys at {place}: a key cannot be read: {error}") from error


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


def _trusted(url: str) -> bool:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "http":
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False
    return parts.scheme == "https"
