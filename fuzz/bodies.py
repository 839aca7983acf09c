"""Fuzz the readers of request bodies and signed certificates, guided by coverage (Atheris, libFuzzer).

    pip install atheris
    python -m fuzz.bodies [--seconds 1800] [--target json …] [--seed 0]

For any bytes, a reader returns a value or raises one of its own errors, within the time limit. Moreover:

* ``json``, ``v2``: the fast readers return the values of the strict one, to the bit, or raise the same error;
* ``npy``: the array read is that of ``numpy.load``;
* ``form``: parts are read, or the form is refused;
* ``token``: only the certificates that were signed are accepted;
* ``claims``, ``keys``: values read are written as they were read.

Each target runs in a new process. Exit status 1 where a process ended early; its input is kept and printed.
"""

from __future__ import annotations

import asyncio
import io
import json
import math
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris
import click
import numpy as np

with atheris.instrument_imports(
    include=["service.api", "service.protocols", "lipmodel.signed", "lipmodel.certificates", "numpy.lib"]
):
    from lipmodel.certify.predictor import CertifiedPredictor
    from lipmodel.errors import CertificateError, InputError, SignatureError
    from lipmodel.signed.answers import answers
    from lipmodel.signed.claims import SignedCertificate
    from lipmodel.signed.jws import open_signed, sign
    from lipmodel.signed.key_sets import add_signing_key, read_public, read_signing_keys
    from service.api.bodies import read_form
    from service.budget import LEASE, Budget, Lease
    from service.problems import Problem
    from service.protocols import arrays, v2
    from service.protocols.bodies import input_array, parse
    from service.protocols.v1_schemas import PredictRequest
    from service.protocols.v2_schemas import InferRequest
    from service.wire import HEADERS
from starlette.requests import Request

from benchmarks.lipserve import EXAMPLES

SIZE, ROWS, LONGEST, SLOW_SECONDS = 2, 100, 4096, 5
WORDS = r"""
{ } [ ] , : " \u005b \ud800 null true false NaN 1e999 -0 1e-400 18446744073709551616 9007199254740993
"inputs" "norm" "inf" "epsilon" "tighten" "portable" "certificate" "binary_data_output" "data"
"shape" "datatype" "FP32" "FP64" "parameters" "binary_data_size" "outputs" "name" "input"
'descr' '<f8' '>f4' 'fortran_order' 'shape' True False ( ) () '|O' . = 4294967295 -1 2147483647
"alg" "kid" "typ" "EdDSA" "keys" "kty" "OKP" "crv" "Ed25519" "x" "use" "sig"
Content-Disposition: form-data; filename= --b --b--
"""


def outcome(read: Callable[[], Any]) -> tuple[Any, ...]:
    """Return the values of a reader of bodies, or its error."""
    try:
        return ("read", *read())
    except (Problem, InputError) as error:
        return "refused", str(error)


def same(a: Any, b: Any) -> bool:
    """Return True for equal values; arrays must be equal but for the sign of zero."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return not isinstance(a, np.ndarray) and bool(a == b)


def compare(found: tuple[Any, ...], wanted: tuple[Any, ...]) -> None:
    """Raise AssertionError where two outcomes differ."""
    if len(found) != len(wanted) or not all(map(same, found, wanted)):
        raise AssertionError(f"read {found}; expected {wanted}")


def read_json(body: bytes) -> None:
    """Read the body of a predict request."""

    def strict() -> tuple[Any, ...]:
        request = parse(PredictRequest, body)
        return input_array(request.inputs, SIZE, ROWS), request.model_dump(exclude={"inputs"})

    def fast() -> tuple[Any, ...]:
        inputs, options = arrays.read_json_inputs(body, SIZE, ROWS)
        return inputs, options.model_dump(exclude={"inputs"})

    compare(outcome(fast), outcome(strict))


def read_v2(content: bytes) -> None:
    """Read the body of an infer request; the first two bytes are the length of its JSON."""
    length, body = int.from_bytes(content[:2], "little"), content[2:]
    found = outcome(lambda: v2.read_infer(body, None if length > len(body) else length))
    quick = v2._read_fast(body) if length > len(body) else None
    if quick is not None:
        request = parse(InferRequest, body)
        tensor = request.inputs[0]
        compare(("read", quick[1]), outcome(lambda: [v2._numbers(tensor, memoryview(b""))]))
        assert quick[0].parameters == request.parameters
        assert quick[0].outputs == request.outputs
        assert quick[0].inputs[0].shape == tensor.shape
    if found[0] == "read":
        assert found[2].size == math.prod(found[1].inputs[0].shape)


def read_npy(body: bytes) -> None:
    """Read a body of application/x-npy."""
    found = outcome(lambda: arrays.read_npy_inputs(body, {}, ROWS))
    if found[0] == "read":
        meant = np.load(io.BytesIO(body), allow_pickle=False)
        assert (found[1].dtype, found[1].shape) == (meant.dtype, meant.shape)
        assert found[1].tobytes() == meant.tobytes()


def read_multipart(body: bytes) -> None:
    """Read a form, in parts of 100 bytes."""

    async def read() -> tuple[Any, ...]:
        waiting = [body[i : i + 100] for i in range(0, len(body), 100)]

        async def receive() -> dict[str, Any]:
            part = waiting.pop(0) if waiting else b""
            return {"type": "http.request", "body": part, "more_body": bool(waiting)}

        headers = [(b"content-type", b"multipart/form-data; boundary=b")]
        scope: dict[str, Any] = {"type": "http", "method": "POST", "headers": headers}
        scope |= {HEADERS: dict(headers), LEASE: Lease(Budget(2**30, ""))}
        async with read_form(Request(scope, receive), LONGEST // 2, Budget(2**30, "")) as form:
            return (len(form),)

    outcome(lambda: asyncio.run(read()))


class Tokens:
    """Signed certificates, and the public key that opens them."""

    def __init__(self) -> None:
        predictor = CertifiedPredictor(EXAMPLES / "two-moons.onnx")
        x = predictor.check_inputs([[0.5, 0.25], [-1.0, 0.5]])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "keys"
            add_signing_key(path)
            keys = read_signing_keys(path)
        self.published = json.dumps({"keys": keys.published}).encode()
        self.public = read_public(self.published, "here")
        self.signed = [sign(answer, keys, "x") for answer in answers(predictor, x, predictor.predict(x))]
        self.payloads = [open_signed(token, self.public).to_json() for token in self.signed]

    def read(self, content: bytes) -> None:
        """Open a signed certificate."""
        token = content.decode("utf-8", "surrogateescape")
        try:
            open_signed(token, self.public)
        except SignatureError:
            return
        assert token in self.signed, "a forged certificate is accepted"

    def read_claims(self, content: bytes) -> None:
        """Read the payload of a certificate."""
        try:
            certificate = SignedCertificate.from_json(content)
        except CertificateError:
            return
        assert SignedCertificate.from_json(certificate.to_json()) == certificate

    def read_keys(self, content: bytes) -> None:
        """Read a key set."""
        try:
            keys = read_public(content, "here")
        except SignatureError:
            return
        assert keys


def targets() -> dict[str, tuple[Callable[[bytes], None], list[bytes]]]:
    """Return, by name, the readers and the inputs to begin with."""
    tokens = Tokens()
    bodies = [
        {"inputs": [[0.1, -2], [1e-300, 3]]},
        {"inputs": [[1, 2]], "norm": "inf", "epsilon": 0.5, "tighten": True, "portable": True},
        {"inputs": []},
    ]
    tensor = {"name": "input", "shape": [1, 2], "datatype": "FP32"}
    requests = [
        {"inputs": [tensor | {"data": [0.5, 3]}], "id": "1", "parameters": {"norm": "2"}},
        {"inputs": [tensor | {"data": [[0.5, 3]]}], "outputs": [{"name": "label"}]},
        {"inputs": [tensor | {"data": [True, 3]}], "parameters": {"binary_data_output": True}},
    ]
    whole = [b"\xff\xff" + json.dumps(request).encode() for request in requests]
    header = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": 8}}]}).encode()
    files = []
    for array in (np.ones((2, 2)), np.ones((3, 2), dtype=">f4", order="F"), np.ones(2, dtype=int)):
        file = io.BytesIO()
        np.lib.format.write_array(file, array, version=(len(files) % 2 + 1, 0))
        files.append(file.getvalue())
    form = (
        b'--b\r\nContent-Disposition: form-data; name="request"\r\n\r\n{}\r\n--b\r\nContent-Disposition: '
        b'form-data; name="data"; filename="a.npz"\r\nContent-Type: a/b\r\n\r\nxyz\r\n--b--\r\n'
    )
    return {
        "json": (read_json, [json.dumps(body).encode() for body in bodies]),
        "v2": (read_v2, [*whole, len(header).to_bytes(2, "little") + header + bytes(8)]),
        "npy": (read_npy, files),
        "form": (read_multipart, [form]),
        "token": (tokens.read, [token.encode() for token in tokens.signed]),
        "claims": (tokens.read_claims, tokens.payloads),
        "keys": (tokens.read_keys, [tokens.published]),
    }


def fuzz(target: str, seconds: float, seed: int) -> None:
    """Fuzz one target in this process, which libFuzzer ends."""
    warnings.simplefilter("ignore")
    read, seeds = targets()[target]
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{target}-"))
    for i, content in enumerate(seeds):
        (folder / str(i)).write_bytes(content)
    words = folder.with_suffix(".words")
    escaped = [word.replace("\\", "\\\\").replace('"', '\\"') for word in WORDS.split()]
    words.write_text("".join(f'"{word}"\n' for word in escaped))
    flags = {
        "max_total_time": int(seconds),
        "seed": seed + 1,
        "max_len": LONGEST,
        "timeout": SLOW_SECONDS,
        "rss_limit_mb": 2048,
        "dict": words,
        "artifact_prefix": f"{folder}-found-",
        "print_final_stats": 1,
        "verbosity": 0,
    }
    atheris.Setup([sys.argv[0], *(f"-{name}={value}" for name, value in flags.items()), str(folder)], read)
    atheris.Fuzz()


@click.command()
@click.option("--seconds", default=1800.0, show_default=True, help="Duration of all targets together.")
@click.option("--target", "names", multiple=True, help="A target; all by default.")
@click.option("--seed", default=0, show_default=True)
@click.option("--here", is_flag=True, hidden=True)
def main(seconds: float, names: tuple[str, ...], seed: int, here: bool) -> None:
    """Run each target for its share of the time, one after another."""
    if here:
        fuzz(names[0], seconds, seed)
    chosen, failed = names or tuple(targets()), []
    for name in chosen:
        command = [sys.executable, "-m", "fuzz.bodies", "--here", "--target", name]
        command += ["--seconds", str(seconds / len(chosen)), "--seed", str(seed)]
        ended = subprocess.run(command, check=False, capture_output=True, text=True)
        output = ended.stdout + ended.stderr
        done = [line for line in output.splitlines() if "number_of_executed_units" in line]
        count = done[-1].split()[-1] if done else "?"
        print(f"{name}: {count} inputs, status {ended.returncode}", flush=True)
        if ended.returncode:
            failed.append(name)
            output = "\n".join(line for line in output.splitlines() if "Instrumenting" not in line)
            print(output[-5000:], flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
