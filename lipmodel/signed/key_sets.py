"""Read and create Ed25519 keys in JSON Web Key Sets (RFC 7517, RFC 8037), in files and at URLs."""

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
"""Time for which a new key is published before it signs; caches and replicas are updated in less."""
PublicKeys = Mapping[str, Ed25519PublicKey]
"""Public keys by id (``kid``)."""
Jwk = dict[str, Any]


@dataclass(frozen=True)
class SigningKeys:
    """The keys of a signing service.

    Attributes:
        kid: id of the first key of the file.
        private: the first key.
        published: public parts of all keys of the file.
        earlier: signing keys with the second key, if its private part is present.
        changed: time of the file's last change, in seconds since 1970.
    """

    kid: str
    private: Ed25519PrivateKey
    published: tuple[Jwk, ...]
    earlier: SigningKeys | None = None
    changed: float = 0.0

    def current(self, now: float) -> SigningKeys:
        """Return the keys to sign with: the earlier ones until every cache has the newest."""
        young = now - self.changed < PUBLISHED_SECONDS  # also if the clock was set back
        return self.earlier if young and self.earlier else self


def fetch(place: str) -> bytes:
    """Return the content of a file or URL: https, or http on this machine; redirects are not followed.

    Raises:
        SignatureError: the content cannot be read or is larger than 1 MiB.
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
        raise SignatureError(f"keys at {place} are larger than {MAX_BYTES} bytes")
    return content


def read_public(content: bytes, place: str) -> dict[str, Ed25519PublicKey]:
    """Return the public Ed25519 keys of a set; keys of other types and uses are ignored.

    Raises:
        SignatureError: the content is not a key set, or has a private key, a duplicate id, or no usable key.
    """
    keys: dict[str, Ed25519PublicKey] = {}
    for jwk in members_of(content, place):
        if "d" in jwk:
            raise SignatureError(f"keys at {place}: the set contains a private key; publish only public keys")
        if jwk.get("kty") != "OKP" or jwk.get("crv") != "Ed25519" or jwk.get("use", "sig") != "sig":
            continue
        kid, key = jwk.get("kid"), _import(jwk, place)
        if not isinstance(kid, str) or not kid or not isinstance(key, Ed25519PublicKey):
            raise SignatureError(f"keys at {place}: a key has no id (kid)")
        if kid in keys:
            raise SignatureError(f"keys at {place}: two keys have the id '{kid[:64]}'")
        keys[kid] = key
    if not keys:
        raise SignatureError(f"keys at {place}: the set has no key for Ed25519")
    return keys


def merge(sets: Sequence[PublicKeys]) -> dict[str, Ed25519PublicKey]:
    """Return the keys of several sets.

    Raises:
        SignatureError: two different keys have the same id.
    """
    merged: dict[str, Ed25519PublicKey] = {}
    for kid, key in (pair for keys in sets for pair in keys.items()):
        if merged.setdefault(kid, key) != key:
            raise SignatureError(f"two different keys have the id '{kid[:64]}'")
    return merged


def read_signing_keys(path: Path) -> SigningKeys:
    """Return the signing keys of a file that only its owner can write, and only owner and group can read.

    The first key signs once it has been in the file for PUBLISHED_SECONDS; until then the second, if its
    private part is present. The other keys are only published, so that earlier signatures can be verified.

    Raises:
        SignatureError: the file cannot be read, is accessible to others, or is not a set of such keys.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
            found = os.fstat(file.fileno())  # read after the content, which is therefore no newer
    except OSError as error:
        raise SignatureError(f"keys at {path} cannot be read: {error.strerror}") from error
    if found.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise SignatureError(f"keys at {path}: the file is accessible to other users; run chmod 600 {path}")
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
        raise SignatureError(f"keys at {path}: the first key has no private part")
    if len({jwk["kid"] for jwk in published}) < len(published):
        raise SignatureError(f"keys at {path}: the set contains a key twice")
    everyone = tuple(published)
    earlier = SigningKeys(published[1]["kid"], second, everyone) if second else None
    return SigningKeys(published[0]["kid"], first, everyone, earlier, found.st_ctime)


def add_signing_key(path: Path) -> str:
    """Generate a key, insert it first in the file, which is created if missing, and return the key's id.

    The previous first key keeps its private part, since it signs until the new key is published everywhere;
    of the others only public parts are kept. The file is replaced atomically.

    Raises:
        SignatureError: the file is not a set of signing keys, its first key does not sign yet, or the file
            cannot be written.
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
    """Return the keys of a set, unparsed.

    Raises:
        SignatureError: the content is not a JSON Web Key Set.
    """
    try:
        keys = parse_object(content).get("keys")
    except CertificateError as error:
        where = f"{error.field} " if error.field else ""
        raise SignatureError(f"keys at {place}: {where}{error.reason}") from error
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise SignatureError(f'keys at {place}: expected a JSON Web Key Set, {{"keys": […]}}')
    return keys


def _secret_jwk(key: Ed25519PrivateKey) -> Jwk:
    return _public_jwk(key.public_key()) | {"d": OKPAlgorithm.to_jwk(key, as_dict=True)["d"]}


def _public_jwk(key: Ed25519PublicKey) -> Jwk:
    """Return a public key as a JWK, with its thumbprint (RFC 7638) as id."""
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
