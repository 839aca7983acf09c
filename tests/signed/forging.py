"""Ways to forge a signed certificate, each with the reason that it must be refused for."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lipmodel.signed.claims import SignedCertificate
from lipmodel.signed.jws import TYPE
from lipmodel.signed.key_sets import SigningKeys

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def decode(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def signed_by(key: Ed25519PrivateKey, header: bytes, payload: bytes) -> str:
    text = f"{encode(header)}.{encode(payload)}"
    return f"{text}.{encode(key.sign(text.encode()))}"


def header_of(keys: SigningKeys, **changes: object) -> bytes:
    return json.dumps({"alg": "EdDSA", "kid": keys.kid, "typ": TYPE} | changes).encode()


def spare_bits(part: str) -> str | None:
    """The same bytes written in another way, if there is one."""
    if len(part) % 4 in (0, 1):
        return None
    return part[:-1] + ALPHABET[ALPHABET.index(part[-1]) + 1]


def tricks(token: str, keys: SigningKeys) -> Iterator[tuple[str, str]]:
    """Yield (reason, token): attacks known against other verifiers, some signed by the right key."""
    header, payload, signature = token.split(".")
    body = decode(payload)
    public = keys.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    pem = keys.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    jwk = dict(keys.published[0])
    own = {**jwk, "x": encode(OTHER.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))}

    for name in ("none", "None", "nOnE", "", "HS256", "RS256", "ES256", "Ed25519", "eddsa"):
        yield "header: alg is", f"{encode(header_of(keys, alg=name))}.{payload}.{signature}"
    for name in ("none", "None"):
        yield "three parts", f"{encode(header_of(keys, alg=name))}.{payload}."
        yield "three parts", f"{encode(header_of(keys, alg=name))}.{payload}"
    for secret in (public, pem, jwk["x"].encode(), b""):
        text = f"{encode(header_of(keys, alg='HS256'))}.{payload}"
        yield "alg is 'HS256'", f"{text}.{encode(hmac.digest(secret, text.encode(), hashlib.sha256))}"
        text = f"{encode(header_of(keys))}.{payload}"
        yield "signature has 32 bytes", f"{text}.{encode(hmac.digest(secret, text.encode(), hashlib.sha256))}"
    for changes in (
        {"jwk": own}, {"jku": "https://example.org/keys"}, {"x5c": ["MII"]}, {"x5u": "https://example.org"},
        {"crit": ["b64"], "b64": False}, {"crit": []}, {"b64": False}, {"zip": "DEF"}, {"cty": "JWT"}, {"extra": 1},
    ):  # fmt: skip
        for key in (OTHER, keys.private):
            yield (
                "is not accepted; allowed are alg, kid, typ",
                signed_by(key, header_of(keys, **changes), body),
            )
    for kid in (
        "",
        "nope",
        keys.kid + "x",
        keys.kid[:-1],
        "../../etc/passwd",
        "' OR 1=1 --",
        keys.kid.lower(),
    ):
        yield "is not the id of a known key", signed_by(keys.private, header_of(keys, kid=kid), body)
    for kid in (None, 0, [keys.kid], {"kid": keys.kid}):
        yield "must be a string", signed_by(keys.private, header_of(keys, kid=kid), body)
    for kind in ("JWT", "", None, TYPE.upper(), "at+jwt"):
        yield "header: typ is", signed_by(keys.private, header_of(keys, typ=kind), body)
    for name in ("alg", "kid", "typ"):
        some = {k: v for k, v in json.loads(header_of(keys)).items() if k != name}
        yield f"header: {name} is missing", signed_by(keys.private, json.dumps(some).encode(), body)
    twice = header_of(keys)[:-1] + b', "alg": "EdDSA"}'
    yield "alg is given twice", signed_by(keys.private, twice, body)
    for text in (b"", b"[]", b"null", b"1", b"{", b"\xff", b'{"alg":"EdDSA"}x', b"[" * 100_000):
        yield "", signed_by(keys.private, text, body)

    yield "does not verify", signed_by(OTHER, decode(header), body)
    yield "signature has", f"{header}.{payload}.{encode(decode(signature)[:-1])}"
    yield "signature has", f"{header}.{payload}.{encode(decode(signature) + bytes(1))}"
    yield "does not verify", f"{header}.{payload}.{encode(bytes(64))}"
    order = (
        2**252 + 27742317777372353535851937790883648493
    )  # S and S + order verify alike if S is not bounded
    s = int.from_bytes(decode(signature)[32:], "little") + order
    yield (
        "does not verify",
        f"{header}.{payload}.{encode(decode(signature)[:32] + s.to_bytes(32, 'little'))}",
    )
    for index, part in enumerate((header, payload, signature)):
        if other := spare_bits(part):
            parts = [header, payload, signature]
            parts[index] = other
            yield "unused bits", ".".join(parts)
    for around in (
        " {}",
        "{} ",
        "{}\n",
        "\n{}",
        "{}=",
        "{}.",
        ".{}",
        "{}.e30",
        "{}\0",
        "\ufeff{}",
        "{}==",
        "Bearer {}",
    ):
        yield "three parts", around.format(token)
    yield "three parts", token.replace(".", "..", 1)
    yield "three parts", f"{header}.{payload}=.{signature}"
    yield "three parts", f"{header}.{payload}\n.{signature}"
    yield "three parts", ""
    yield "longer than", token + "A" * 2**20

    for text, reason in (
        (body[:-1] + b',"certified_radius":9}', "certified_radius is given twice"),
        (body[:-1] + b',"more":1}', "more is unknown"),
        (body.replace(b'"jti"', b'"jtj"'), "jti is missing"),
        (body.replace(b'"iss":"', b'"iss":"\\ud800'), "iss is '\\ud800"),
        (body.replace(b"lipcert-signed/2", b"lipcert-signed/3"), "format"),
        (body.replace(b"lipcert-signed/2", b"lipcert-signed/1"), ""),
        (body.replace(b'"float64"', b'"float16"'), "execution"),
        (body + b" x", "not JSON"),
        (b"[]", "one JSON object"),
        (b"", ""),
    ):
        yield reason, signed_by(keys.private, decode(header), text)


def flipped(token: str) -> Iterator[str]:
    """Every character of the token put to every other that base64url knows, and to some it does not."""
    for at, character in enumerate(token):
        for other in ALPHABET + ".=+/ ":
            if other != character:
                yield token[:at] + other + token[at + 1 :]


def edited(certificate: SignedCertificate, header: str, signature: str) -> Iterator[str]:
    """Claims changed and encoded anew, beside the signature of the true ones."""
    members = json.loads(certificate.to_json())
    for name, value in members.items():
        others: list[object]
        if isinstance(value, bool | int | float):
            others = [value + 1, value * 2 + 1, -value - 1, 0 if value else 1, value + 1e-9, str(value), None]
        elif isinstance(value, str):
            others = [value + "x", value[:-1], "", value.swapcase() + " ", 1, None]
        elif value is None:
            others = ["0" * 64, 1, {}]
        else:
            others = [{**value, key: 1e-300} for key in value] + [{}, None]
        for other in others:
            if other != value:
                changed = json.dumps(members | {name: other}, separators=(",", ":")).encode()
                yield f"{header}.{encode(changed)}.{signature}"
    larger = replace(certificate.answer, certified_radius=certificate.answer.certified_radius * (1 + 2**-52))
    yield f"{header}.{encode(replace(certificate, answer=larger).to_json())}.{signature}"
