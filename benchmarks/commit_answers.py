"""The files and answers of one tree, over its commands and HTTP; run by ``benchmarks.compare_commits``.

    PYTHONPATH=TREE python -P benchmarks/commit_answers.py FOLDER

FOLDER holds ``models/`` and ``signing.json``; ``found.json`` is written there. Of the tree only the entry
points are called, as its modules may have other names.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import io
import itertools
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import httpx
import numpy as np
from click.testing import CliRunner

TIMES = frozenset({"seconds", "created", "started", "finished", "since", "iat"})
IDS = frozenset({"id", "jti"})
TEXTS = frozenset({"note", "reason", "reasons", "detail", "understood", "units", "fault", "trained_by"})
MASKED = TIMES | IDS | TEXTS
"""Fields of JSON of which only the presence is compared; so are ids within texts, as in addresses."""
ID = re.compile(r"\b([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32})\b")
HEADERS = frozenset({"date", "x-request-id", "content-length"})
"""Of answers, not compared: a length follows from the body, and varies with times in it."""
DESCRIPTIONS = frozenset({"summary", "description", "examples", "example"})
HELP = frozenset({"help", "short_help", "epilog"})
"""Texts of the OpenAPI document, and of commands, which are not compared."""

NORMS = ("1", "2", "inf")
SECONDS = 60
WAIT = {"Prefer": f"wait={SECONDS}"}
BINARY = {"Content-Type": "application/octet-stream"}
TRAININGS = {
    "moons": "two-moons --epochs 3",
    "moons-l1": "two-moons --norm 1 --epochs 2 --lipschitz 2 --seed 7",
    "moons-linf": "two-moons --norm inf --epochs 2 --set scaling=columns",
    "moons-householder": "two-moons --epochs 2 --set network.activation=householder",
    "moons-n": "two-moons --epochs 2 --set network.activation=n-activation --set loss.name=bce",
    "digits": "digits --epochs 2",
    "digits-rows": "digits --norm inf --epochs 1 --set network.head=normalised",
    "digits-images": "digits --epochs 1 --set network.body=convolutional --set network.widths=[4,8] "
    "--set loss.name=cross-entropy",
    "digits-prototypes": "digits --epochs 1 --set network.head=prototypes --set network.prototypes=2 "
    "--set training.averaging=exponential",
    "breast-cancer": "breast-cancer --epochs 2",
}
BAD_USES = (
    "",
    "prove",
    "inspect models/two-moons.onnx --quick",
    "inspect models/none.onnx",
    "certify models/two-moons.onnx --inputs none.npy --json",
    "certify models/two-moons.onnx --inputs models/two-moons.samples.npz --norm 3",
    "certify models/digits.onnx --inputs models/two-moons.samples.npz --json",
    "train three-moons --out out",
    "train two-moons --out out --set network.width=3",
    "evaluate models/two-moons.onnx --data none.npz --json",
    "verify none.json --json",
    "verify models/two-moons.onnx --json",
)
SERVED = ("made-groupsort", "made-relu", "made-binary", "made-flat", "made-float64", "trained-digits")
FLAGS = (
    "--models served --state state --data data --signing-keys signing.json --uploads --log-format json "
    "--access-log --max-rows 50 --max-body-bytes 200000 --tighten-seconds 50 --poll-seconds 0.2"
)

Values = dict[str, Any]
Found = Iterator[tuple[str, Any]]


def masked(value: Any) -> Any:
    """Return a JSON value with … for values of ``MASKED`` and ids, and with signed certificates decoded."""
    if isinstance(value, dict):
        masks = {**dict.fromkeys(MASKED, lambda _: "…"), "warnings": masked_warnings}
        return {key: masks.get(key, masked)(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [masked(inner) for inner in value]
    if isinstance(value, str) and re.fullmatch(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", value):
        return [masked(json.loads(base64.urlsafe_b64decode(part + "=="))) for part in value.split(".")[:2]]
    return ID.sub("…", value) if isinstance(value, str) else value


def masked_warnings(value: Any) -> Any:
    """Return warnings with … for their texts: a text, texts, or objects with other fields beside the text."""
    if isinstance(value, list):
        return [masked_warnings(inner) for inner in value]
    return "…" if isinstance(value, str) else masked(value)


def digest(content: bytes) -> str:
    """Return length and SHA-256."""
    return f"{len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}"


def rows(size: int, count: int) -> np.ndarray:
    """Return inputs (count, size), multiples of 1/16: exact in every format of floats."""
    k = np.arange(size)
    return np.stack([(37 * k + 11 * i + 5) % 64 - 32.0 for i in range(count)]) / 16.0


class Tree:
    """The tree first on PYTHONPATH, at work in the present folder. Each section yields names and values."""

    def __init__(self) -> None:
        from lipmodel.cli import main

        self.lipmodel: click.Group = main
        self.proved: dict[str, Values] = {}  # `inspect --json` of accepted models, by name

    def run(self, command: str, *files: Any) -> Values:
        """Return exit status and JSON of a command: words, then files.

        Raises:
            Exception: the command's own, other than an exit.
        """
        arguments = [*command.split(), *map(str, files)]
        result = CliRunner().invoke(self.lipmodel, arguments)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        printed = "--json" in arguments and result.exit_code != 2 and result.stdout
        return {"exit": result.exit_code, "json": masked(json.loads(result.stdout)) if printed else None}

    def commands(self) -> Found:
        """Names and flags, with types, defaults and variables of the environment."""
        for program, group in (("lipmodel", self.lipmodel), ("lipserve", service_command())):
            info = group.to_info_dict(click.Context(group))
            for name, command in {"": info, **nested(info)}.items():
                commands = sorted(command.get("commands", ()))
                yield f"{program}{name}", [command["name"], command["hidden"], commands]
                for flag in command["params"]:
                    described = {key: value for key, value in flag.items() if key not in HELP}
                    described["setting"] = re.findall(r"\[.*environment: .*\]", flag.get("help") or "")
                    yield f"{program}{name} {flag['name']}", json.loads(json.dumps(described, default=str))

    def bad_uses(self) -> Found:
        """Exit statuses."""
        for command in BAD_USES:
            yield command, self.run(command)

    def client(self) -> Found:
        """Public names of lipcert, and the parameters of what can be called."""
        import lipcert.client
        import lipcert.errors
        import lipcert.results

        for module in (lipcert.client, lipcert.errors, lipcert.results):
            for name, value in vars(module).items():
                if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__:
                    yield f"{module.__name__}.{name}", parameters(value)
                    for member, inner in vars(value).items() if inspect.isclass(value) else ():
                        if not member.startswith("_"):
                            yield f"{module.__name__}.{name}.{member}", parameters(inner)

    def trainings(self) -> Found:
        """The files that ``lipmodel train`` writes; ONNX bit for bit."""
        for name, command in TRAININGS.items():
            yield name, self.run(f"train {command} --out trained --name {name} --json")
            for path in sorted(Path("trained").glob(f"{name}.*")):
                if path.suffix == ".json":
                    yield path.name, masked(json.loads(path.read_text()))
                else:
                    yield path.name, path.suffix in {".onnx", ".npz"} and digest(path.read_bytes())
        for path in Path("trained").glob("*.onnx"):
            shutil.copy(path, f"models/trained-{path.name}")

    def inspections(self) -> Found:
        """Bounds proved of each file, or its refusal."""
        Path("rows").mkdir()
        for path in sorted(Path("models").glob("*.onnx")):
            yield path.stem, (found := self.run("inspect --json", path))
            if found.get("json") and found["exit"] == 0:
                self.proved[path.stem] = found["json"]
                x = rows(int(np.prod(found["json"]["input_shape"])), 6)
                np.save(f"rows/{path.stem}.npy", x)
                np.save(f"rows/{path.stem}-1.npy", x[:1])
                labels = np.arange(6) % len(found["json"]["classes"])
                np.savez(f"rows/{path.stem}.npz", inputs=x, labels=labels)

    def few(self) -> list[str]:
        """Return the models for slow commands: of the corpus every twelfth."""
        corpus = [name for name in self.proved if name.startswith("corpus-")]
        return [name for name in self.proved if name not in corpus] + corpus[::12]

    def predictions(self) -> Found:
        """Scores, labels and radii, of some also tightened."""
        for names, flags, count in ((self.proved, "", ""), (self.few(), " --tighten", "-1")):
            for name in names:
                for norm in NORMS:
                    command = f"certify models/{name}.onnx --norm {norm}{flags} --json --inputs"
                    yield f"{name} l{norm}{flags}", self.run(command, f"rows/{name}{count}.npy")

    def certificates(self) -> Found:
        """Certificates as text, and the verdicts on them."""
        for name in self.few():
            for norm in NORMS:
                folder, title = Path("certificates", f"{name}-{norm}"), f"{name} l{norm}"
                row = f"rows/{name}-1.npy"
                flags = f"--norm {norm} --inputs {row} --json" + (" --tighten" if norm == "2" else "")
                yield title, self.run(f"certify models/{name}.onnx {flags} --certificates", folder)
                for path in sorted(folder.glob("*")):
                    yield f"{title} {path.name}", path.read_text()
                    yield f"{title} consistent", self.run("verify --json", path)
                    model = f"--model models/{name}.onnx --input {row}"
                    yield f"{title} proved", self.run(f"verify {model} --json", path)

    def evaluations(self) -> Found:
        """Evaluations, some with reports."""
        for name in self.few():
            command = f"evaluate models/{name}.onnx --eps 0.1 --attack 3 --json --data"
            yield name, self.run(command, f"rows/{name}.npz")
        for name in ("two-moons", "digits"):
            command = f"evaluate models/{name}.onnx --eps 0.2 --report report-{name} --json --data"
            yield f"{name} samples", self.run(command, f"models/{name}.samples.npz")
            yield f"{name} report", sorted(path.name for path in Path(f"report-{name}").iterdir())
            report = json.loads(Path(f"report-{name}/evaluation.json").read_text())
            yield f"{name} report in JSON", masked(report)

    def audits(self) -> Found:
        """Audits, one with its report."""
        for name in self.few():
            report = " --report audited" if name == "two-moons" else ""
            command = f"audit --samples 60 --attack 2 --seed 3 --json{report}"
            yield name, self.run(command, f"models/{name}.onnx")
        yield "report", sorted(path.name for path in Path("audited").iterdir())

    def bulk(self) -> Found:
        """Results in parquet files."""
        import pyarrow.parquet

        np.save("many.npy", rows(2, 500).astype(np.float32))
        yield "exit", self.run("certify models/two-moons.onnx --inputs many.npy --out bulk --json")
        for path in sorted(Path("bulk").rglob("*.parquet")):
            yield path.name, str(pyarrow.parquet.read_table(path).to_pylist())

    def http(self) -> Found:
        """Answers to requests, the OpenAPI document, metrics, scopes, records of the log, tables."""
        with served() as client:
            yield from Exchanges(client, self).all()
        records = [json.loads(line) for line in Path("log").read_text().splitlines() if line.startswith("{")]
        for logger, keys in sorted({(record["logger"], ", ".join(sorted(record))) for record in records}):
            yield f"log: {logger}: {keys}", True
        for path in Path("state").rglob("*"):
            if path.is_file() and path.read_bytes().startswith(b"SQLite format 3"):
                with sqlite3.connect(path) as database:
                    for name, sql in database.execute("select name, sql from sqlite_master"):
                        yield f"table {name}", sql
                    yield "revision", list(database.execute("select * from alembic_version"))


SECTIONS = {
    "commands, flags, settings": Tree.commands,
    "exit status of bad uses": Tree.bad_uses,
    "public names of lipcert": Tree.client,
    "train: files and figures": Tree.trainings,
    "inspect": Tree.inspections,
    "certify": Tree.predictions,
    "certificates and verify": Tree.certificates,
    "evaluate": Tree.evaluations,
    "audit": Tree.audits,
    "certify --out": Tree.bulk,
    "HTTP": Tree.http,
}


def service_command() -> click.Group:
    """Return the command behind ``lipserve``, wherever it is defined."""
    from service.__main__ import main

    with patch.object(click.Command, "__call__", autospec=True) as called:
        main()
    return called.call_args.args[0]


def nested(info: Values, path: str = "") -> dict[str, Values]:
    """Return descriptions of the commands of a group, by their names after the program's."""
    found: dict[str, Values] = {}
    for name, command in info.get("commands", {}).items():
        found |= {f"{path} {name}": command, **nested(command, f"{path} {name}")}
    return found


def parameters(value: Any) -> Any:
    """Return kinds, names and defaults of the parameters of what can be called."""
    try:
        found = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):  # of no function, and of exceptions that inherit their constructor
        return type(value).__name__
    return [f"{p.kind.name} {p.name}" + ("" if p.default is p.empty else f" = {p.default!r}") for p in found]


@contextmanager
def served() -> Iterator[httpx.Client]:
    """Serve some of the models; a client once all are checked."""
    models, data = Path("served"), Path("data")
    for folder in (data, models / "many" / "1", models / "many" / "2"):
        folder.mkdir(parents=True)
    for name in ("two-moons", "digits"):
        shutil.copy(f"models/{name}.onnx", models)
        shutil.copy(f"models/{name}.samples.npz", models)
        shutil.copy(f"models/{name}.samples.npz", data / f"{name}.npz")
    for name in SERVED:
        shutil.copy(f"models/{name}.onnx", models)
    for version, name in (("1", "made-groupsort"), ("2", "made-rows")):
        shutil.copy(f"models/{name}.onnx", models / "many" / version / "model.onnx")
    (models / "broken.onnx").write_bytes(b"not a model")
    (models / "digits.toml").write_text('[serving]\nexecution = "float32"\n')
    (models / "made-relu.toml").write_text('[policy]\nepsilon = 0.3\naction = "abstain"\n')
    (models / "made-binary.toml").write_text('[policy]\nepsilon = 0.5\naction = "reject"\n')
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = str(sock.getsockname()[1])
    command = [sys.executable, "-P", "-m", "service", *FLAGS.split(), "--port", port]
    with Path("log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as client:
                until(lambda: '"checking"' not in client.get("/v1/models").raise_for_status().text)
                yield client
        finally:
            server.terminate()


def until(found: Callable[[], bool]) -> None:
    """Wait until something is true.

    Raises:
        RuntimeError: it does not become true in ``SECONDS``.
    """
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        with suppress(httpx.HTTPError):
            if found():
                return
        time.sleep(0.2)
    raise RuntimeError(f"the server has not come to it within {SECONDS} s: {Path('log').read_text()[-2000:]}")


def answered(answer: httpx.Response) -> Values:
    """Return what is compared of an answer: of a problem type, fields and names, else the body."""
    headers = {name: masked(value) for name, value in answer.headers.items() if name not in HEADERS}
    found: Values = {"status": answer.status_code, "headers": headers}
    kind = headers.get("content-type", "")
    if kind.startswith("application/problem+json"):
        body = answer.json()
        fields = [error["field"] for error in body.get("errors", ())]
        return found | {"type": body["type"], "names": sorted(body), "fields": fields}
    if length := headers.pop("inference-header-content-length", None):
        return found | {"json": masked(tensors(answer.content, int(length)))}
    if kind.startswith("application/json"):
        return found | {"json": masked(answer.json())}
    return found | ({} if kind.startswith("text/") else {"bytes": digest(answer.content)})


def tensors(content: bytes, end: int) -> Values:
    """Return a binary answer of the Open Inference Protocol with its bytes in place, strings as text."""
    body: Values = json.loads(content[:end])
    for output in body["outputs"]:
        size = output["parameters"].pop("binary_data_size")
        part, end = content[end : end + size], end + size
        output["data"] = part.hex()
        if output["datatype"] == "BYTES":
            output["data"], place = [], 0
            while place < size:
                begin = place + 4
                place = begin + int.from_bytes(part[place:begin], "little")
                output["data"].append(part[begin:place].decode())
    return body


def without_texts(value: Any, inside: str = "") -> Any:
    """Return part of the OpenAPI document without its texts; properties may have the names of texts."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if inside == "properties" or k not in DESCRIPTIONS}
        return {key: without_texts(inner, key) for key, inner in kept.items()}
    return [without_texts(inner) for inner in value] if isinstance(value, list) else value


class Exchanges:
    """Requests and their answers."""

    def __init__(self, client: httpx.Client, tree: Tree) -> None:
        self._client, self._tree = client, tree

    def _ask(self, method: str, path: str, label: str = "", **sent: Any) -> tuple[str, Any]:
        label = label or json.dumps(sent.get("json", ""))[:80]
        return f"{method} {path} {label}", answered(self._client.request(method, path, **sent))

    def all(self) -> Found:
        """All of them, in an order that matters: the last ones change models and make keys."""
        for path in ("/", "/docs", "/healthz", "/readyz", "/v2", "/v2/health/live", "/v2/health/ready"):
            yield self._ask("GET", path)
        for path in ("/v1/models", "/v1/audits", "/.well-known/jwks.json", "/nothing", "/problems/none"):
            yield self._ask("GET", path)
        yield from self._openapi()
        names = [model["name"] for model in self._client.get("/v1/models").json()["models"]]
        for name in (*names, "none"):
            yield from self._model(name)
        yield from self._refusals()
        yield from self._jobs()
        yield from self._certificates()
        yield from self._changes()
        for line in self._client.get("/metrics").text.splitlines():
            if line.startswith("# TYPE"):
                yield line, True
            elif not line.startswith("#"):
                yield f"metric {line.rpartition(' ')[0]}", True
        yield from self._scopes()

    def _openapi(self) -> Found:
        document = self._client.get("/openapi.json").json()
        for path, operations in document.pop("paths").items():
            for method, operation in operations.items():
                yield f"OpenAPI: {method.upper()} {path}", without_texts(operation)
        for name, schema in document.pop("components")["schemas"].items():
            yield f"OpenAPI: {name}", without_texts(schema)
        yield "OpenAPI: the rest", without_texts(document)

    def _model(self, name: str) -> Found:
        model, v2 = f"/v1/models/{name}", f"/v2/models/{name}"
        for path in (model, f"{model}/versions/1", f"{model}/samples", v2, f"{v2}/ready"):
            yield self._ask("GET", path)
        x = self._rows(name, 3).astype(np.float32)
        array = io.BytesIO()
        np.save(array, x)
        npy = {"Content-Type": "application/x-npy"}
        options: list[Values] = [{name: True} for name in ("portable", "certificate", "tighten")]
        for given in [{}, {"epsilon": 0.1}, *options, *({"norm": norm} for norm in NORMS)]:
            body, label = {"inputs": x.tolist(), **given}, json.dumps(given)
            yield self._ask("POST", f"{model}/predict", label, json=body)
            yield self._ask("POST", f"{model}/versions/1/predict", label, json=body)
            sent = {"params": given, "content": array.getvalue(), "headers": npy}
            yield self._ask("POST", f"{model}/predict", f"npy {label}", **sent)
            tensor: Values = {"name": "input", "shape": list(x.shape), "datatype": "FP32"}
            infer = {"id": "seven", "inputs": [tensor | {"data": x.ravel().tolist()}], "parameters": given}
            yield self._ask("POST", f"{v2}/infer", label, json=infer)
            tensor["parameters"] = {"binary_data_size": x.nbytes}
            infer = {"inputs": [tensor], "parameters": {"binary_data_output": True, **given}}
            head = json.dumps(infer).encode()
            binary = BINARY | {"Inference-Header-Content-Length": str(len(head))}
            sent = {"content": head + x.tobytes(), "headers": binary}
            yield self._ask("POST", f"{v2}/infer", f"binary {label}", **sent)
        labelled = {"inputs": x.tolist(), "labels": [0, 1, 0], "epsilons": [0.1], "attack": 2}
        sent = {"json": labelled | {"report": name == "digits"}, "headers": WAIT}
        yield self._ask("POST", f"{model}/evaluations", "labelled", **sent)
        yield self._ask("POST", f"{model}/audits", json={"samples": 40}, headers=WAIT)
        yield self._ask("POST", f"{model}/attacks", json={"inputs": x[:1].tolist()})

    def _rows(self, name: str, count: int) -> np.ndarray:
        detail = self._client.get(f"/v1/models/{name}").json()
        return rows(int(np.prod(detail.get("input_shape", [2]))), count)

    def _refusals(self) -> Found:
        model, v2 = "/v1/models/two-moons", "/v2/models/two-moons/infer"
        more: list[Values] = [
            {"norm": "3"},
            {"norm": 2},
            {"epsilon": -1},
            {"epsilon": "a"},
            {"tighten": "yes"},
        ]
        inputs: list[Any] = [None, [], 3, [[1]], [[1, 2, 3]], [[0.5, 1]] * 51]
        inputs += [[row] for row in (["a", 2], [1e39, 0], [True, 2], [None, 2])]
        more += [{"quick": True}, *({"inputs": x} for x in inputs)]
        for body in ([], {}, *({"inputs": [[1, 2]]} | part for part in more)):
            yield self._ask("POST", f"{model}/predict", json=body)
        tensor = {"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [0.0, 1.0]}
        parts: list[Values] = [{"name": "x"}, {"shape": [2, 2]}, {"shape": [1, 3]}, {"data": []}]
        parts += [{"datatype": "FP31"}, {"datatype": "BYTES"}]
        infers: list[Values] = [{"inputs": [tensor | part]} for part in parts]
        infers += [{}, {"inputs": []}, {"inputs": [tensor] * 2}]
        for names in (["none"], ["label", "margin"]):
            infers.append({"inputs": [tensor], "outputs": [{"name": name} for name in names]})
        for number, body in enumerate(infers):
            yield self._ask("POST", v2, f"refused {number}", json=body)
        typed = {"Content-Type": "application/json"}
        for label, content, headers in (
            ("not JSON", b"{", typed),
            ("NaN", b'{"inputs": [[NaN, 1]]}', typed),
            ("no type", b"{}", {}),
            ("XML", b"<a/>", {"Content-Type": "application/xml"}),
            ("not gzip", b"abc", typed | {"Content-Encoding": "gzip"}),
            ("unknown coding", b"abc", typed | {"Content-Encoding": "br"}),
            ("no array", b"abc", {"Content-Type": "application/x-npy"}),
            ("large", b" " * 300_000, typed),
            ("another origin", b"{}", typed | {"Origin": "https://example.org"}),
            ("another host", b"{}", typed | {"Host": "example.org"}),
            ("large headers", b"{}", typed | {"X-Large": "a" * 40_000}),
        ):
            yield self._ask("POST", f"{model}/predict", label, content=content, headers=headers)
        yield self._ask("POST", f"{model}/predict", params={"norm": "2"}, json={"inputs": [[1, 2]]})
        data: list[Values] = [{"inputs": [[1, 2]], "labels": [7]}, {"inputs": [[1]], "labels": [0]}]
        for body in (*data, {"path": "none"}, {"path": "../x"}):
            yield self._ask("POST", f"{model}/evaluations", json=body)
        audits: list[Values] = [{"samples": -1}, {"samples": 10**9}, {"norm": "0"}, {"seed": "a"}]
        for body in audits:
            yield self._ask("POST", f"{model}/audits", json=body)
        for path in ("/v1/audits/none", "/v1/audits?limit=0", f"{model}/drift", f"{model}/versions/9"):
            yield self._ask("GET", path)
        yield self._ask("POST", "/v1/certificates/check", json={"certificate": "a.b.c"})
        yield self._ask("PATCH", model)

    def _jobs(self) -> Found:
        place = "/v1/models/two-moons/evaluations"
        yield self._ask("POST", place, json={"path": "two-moons.npz", "epsilons": [0.1]}, headers=WAIT)
        form = {"data": ("test.npz", Path("data/two-moons.npz").read_bytes())}
        request = {"request": '{"epsilons": [0.1], "norm": "inf"}'}
        yield self._ask("POST", place, "a form", files=form, data=request, headers=WAIT)
        for kind in ("audit", "evaluation"):
            found = self._client.get(f"/v1/{kind}s?limit=100").json()["jobs"]
            for number, job in enumerate(reversed(found)):
                place = f"/v1/{kind}s/{job['id']}"
                yield f"{kind} {number}", answered(self._client.get(place))
                events = self._client.get(f"{place}/events").text.splitlines()
                yield f"{kind} {number} events", [line.partition(":")[0] for line in events]
                for name in (f"{kind}.json", f"{kind}.html", f"{kind}.md", "curve.svg"):
                    report = self._client.get(f"{place}/report/{name}")
                    yield f"{kind} {number} {name}", [report.status_code, report.headers["content-type"]]
            path = f"/v1/models/two-moons/drift?evaluation={found[0]['id']}"
            yield f"drift from the last {kind}", answered(self._client.get(path))

    def _certificates(self) -> Found:
        Path("jwks.json").write_text(self._client.get("/.well-known/jwks.json").text)
        for name in ("two-moons", "digits", "made-groupsort"):
            x = self._rows(name, 1)
            np.save("signed.npy", x)
            for given in ({}, {"tighten": True}):
                body = {"inputs": x.tolist(), "certificate": True, **given}
                answer = self._client.post(f"/v1/models/{name}/predict", json=body).json()
                signed = answer["predictions"][0]["certificate"]
                model = f"--model served/{name}.onnx --input signed.npy"
                for label, command, text in (
                    ("signed", "", signed),
                    ("computed", model, signed),
                    ("forged", model, signed[:-8] + "AAAAAAAA"),
                ):
                    found = self._tree.run(f"verify --jwks jwks.json {command} --json", text)
                    yield f"verify {name} {given} {label}", found
                sent: Values = {"certificate": signed}
                yield self._ask("POST", "/v1/certificates/check", f"{name} {given}", json=sent)
                sent["input"] = x[0].tolist()
                yield self._ask("POST", "/v1/certificates/check", f"{name} {given} computed", json=sent)

    def _changes(self) -> Found:
        model = "/v1/models/new"
        first, other = (Path(f"models/{name}.onnx").read_bytes() for name in ("made-groupsort", "two-moons"))
        contents = (b"garbage", first, first, other, other)
        for query, content in zip(("", "", "", "", "?force=true"), contents, strict=True):
            yield self._ask("PUT", model + query, content=content, headers=BINARY)
        for label, version in (("canary", 1), ("latest", 1), ("none", 9), ("1", 1)):
            yield self._ask("PUT", f"{model}/labels/{label}", json={"version": version})
        yield self._ask("GET", model)
        body = {"inputs": rows(6, 1).tolist()}
        yield self._ask("POST", f"{model}/versions/canary/predict", json=body)
        for path in ("versions/1", "labels/latest", "versions/2"):
            yield self._ask("DELETE", f"{model}/{path}")
        repository = "/v2/repository"
        yield self._ask("POST", f"{repository}/index", json={})
        yield self._ask("POST", f"{repository}/models/made-flat/unload", json={})
        until(lambda: self._client.get("/v2/models/made-flat/ready").status_code != 200)
        yield self._ask("GET", "/v2/models/made-flat/ready")
        yield self._ask("POST", f"{repository}/models/made-flat/load", json={})
        yield self._ask("DELETE", model)

    def _scopes(self) -> Found:
        keys = {"none": ""}
        for scope in ("predict", "audit", "metrics", "admin"):
            command = f"-P -m service {FLAGS} keys create --name {scope} --scope {scope}"
            keys[scope] = subprocess.check_output([sys.executable, *command.split()], text=True).strip()

        def ask(method: str, path: str, scope: str) -> httpx.Response:
            headers = {"Authorization": f"Bearer {keys[scope]}"} if keys[scope] else {}
            return self._client.request(method, path, headers=headers)

        for scope in keys:  # each is known within about a second
            until(lambda scope=scope: (ask("GET", "/metrics", scope).status_code == 401) == (scope == "none"))
        for path, operations in self._client.get("/openapi.json").json()["paths"].items():
            place = re.sub(r"\{\w+\}", "none", path)
            for method in operations:
                for scope in keys:
                    answer = ask(method, place, scope)
                    challenge = answer.headers.get("www-authenticate", "").partition(" ")[0]
                    yield f"scope {scope}: {method.upper()} {path}", [answer.status_code, challenge]


def main() -> None:
    """Write what the tree makes to found.json, by section and name."""
    os.chdir(sys.argv[1])
    tree, found = Tree(), {}
    for title, section in SECTIONS.items():
        begun, values = time.monotonic(), found.setdefault(title, {})
        for name, value in section(tree):
            numbered = itertools.chain([name], (f"{name} ({number})" for number in itertools.count(2)))
            values[next(free for free in numbered if free not in values)] = value
        print(f"{title}: {len(values)} in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    Path("found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
