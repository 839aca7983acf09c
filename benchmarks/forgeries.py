"""Forge signed certificates in every way of ``tests/signed/forging.py``, and count those accepted: 0.

    python -m benchmarks.forgeries --forgeries 100000

Certificates of several models and norms are each altered character by character, edited claim by claim,
signed by other keys, given each other's signatures, cut short, and put through the tricks known against
verifiers of JWS, those included that take the right key.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import SignatureError
from lipmodel.norms import Norm
from lipmodel.signed.answers import answers
from lipmodel.signed.jws import open_signed, sign
from lipmodel.signed.key_sets import SigningKeys, add_signing_key, read_public, read_signing_keys
from tests.networks import groupsort_net, to_file
from tests.signed.forging import edited, flipped, tricks

Forgeries = Iterator[tuple[str, str]]


def signed(keys: SigningKeys, count: int) -> list[str]:
    """Return certificates for random inputs of three models in three norms."""
    rng = np.random.default_rng(0)
    tokens = []
    for shape, outputs in (((2, 16, 16), 1), ((4, 16, 16), 3), ((16, 32), 10)):
        predictor = CertifiedPredictor(to_file(groupsort_net(shape, outputs)))
        x = rng.normal(size=(count, shape[0]))
        for norm in Norm:
            tokens += [sign(a, keys, "x") for a in answers(predictor, x, predictor.predict(x, norm))]
    return tokens


def forgeries(tokens: list[str], keys: SigningKeys, others: SigningKeys, public: object) -> Forgeries:
    """Yield (kind, forged certificate), the kinds with few first."""
    for token in tokens:
        header, payload, signature = token.split(".")
        yield from (("trick", forged) for _, forged in tricks(token, keys))
        certificate = open_signed(token, public)  # type: ignore[arg-type]
        yield from (("claim edited", forged) for forged in edited(certificate, header, signature))
        yield "another key", sign(certificate.answer, others, certificate.issuer)
        stolen = SigningKeys(keys.kid, others.private, keys.published)
        yield "another key under this id", sign(certificate.answer, stolen, certificate.issuer)
        for other in tokens:
            if other != token:
                yield "signature of another", f"{header}.{payload}.{other.split('.')[2]}"
                yield "payload of another", f"{header}.{other.split('.')[1]}.{signature}"
        for end in range(len(token)):
            yield "cut short", token[:end]
    for token in tokens:
        yield from (("character altered", forged) for forged in flipped(token))


def main() -> None:
    """Print counts by kind and by reason; exit with status 1 if a forgery was accepted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forgeries", type=int, default=100_000)
    count = parser.parse_args().forgeries
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("ours", "theirs")]
        for path in paths:
            add_signing_key(path)
        keys, others = map(read_signing_keys, paths)
    public = read_public(json.dumps({"keys": keys.published}).encode(), "here")
    tokens = signed(keys, 2)
    assert all(open_signed(token, public) for token in tokens), "the true ones must be accepted"
    kinds, reasons, accepted = Counter[str](), Counter[str](), []
    started = time.perf_counter()
    for kind, forged in islice(forgeries(tokens, keys, others, public), count):
        kinds[kind] += 1
        try:
            open_signed(forged, public)
        except SignatureError as error:
            reasons[" ".join(str(error).split()[:5])] += 1
        else:
            accepted.append((kind, forged))
    for name, counted in (("kind", kinds), ("reason", reasons)):
        for key, number in counted.most_common(25):
            print(f"{name:7} {number:7,}  {key}")
    seconds = time.perf_counter() - started
    print(f"{sum(kinds.values()):,} forgeries, {len(accepted)} accepted, {seconds:.0f} s")
    for kind, forged in accepted[:5]:
        print(f"ACCEPTED: {kind}: {forged}")
    sys.exit(bool(accepted))


if __name__ == "__main__":
    main()
