"""Fuzz every route of the OpenAPI document by schemathesis: server errors and undocumented statuses.

    pip install schemathesis
    python -m fuzz.openapi [--examples 50] [--workers 1]

The document is the served one except that ``default`` responses are removed, so that a status counts as
documented only where its route names it, and that names of models, versions and ids of jobs may be existing
ones, so that requests pass the 404 of their routes. Models may be uploaded, removed and unloaded; missing
ones are restored, and one is never touched, so that the server always has a model. Exit status 1 where
schemathesis reports a failure.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import httpx

from benchmarks.lipserve import EXAMPLES, Lipserve
from lipmodel.signed.key_sets import add_signing_key

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def strict(document: dict[str, Any], known: dict[str, list[str]]) -> dict[str, Any]:
    """Remove ``default`` responses, and add known values for parameters of paths and queries."""
    for methods in document["paths"].values():
        for operation in methods.values():
            operation["responses"].pop("default", None)
            for parameter in operation.get("parameters", []):
                if parameter["in"] != "header" and parameter["name"] in known:
                    free = parameter["schema"]
                    parameter["schema"] = {"anyOf": [{"enum": known[parameter["name"]]}, free]}
    return document


def existing(client: httpx.Client) -> dict[str, list[str]]:
    """Make an audit and an evaluation; return existing values of parameters, by name."""
    body = {"inputs": [[0.5, 0.25], [-1.0, 0.5]], "labels": [0, 1], "epsilons": [0.1], "report": True}
    made = [
        client.post(f"/v1/models/two-moons/{path}", json=json, headers={"Prefer": "wait=60"})
        for path, json in (("audits", {"samples": 10}), ("evaluations", body))
    ]
    ids = [answer.raise_for_status().headers["content-location"].rpartition("/")[2] for answer in made]
    kinds = ["not-json", "internal"]
    return {
        "name": ["two-moons", "digits"],
        "job_id": ids,
        "evaluation": ids[1:],
        "before": ids,
        "kind": kinds,
        "version": ["1", "2", "latest"],
        "label": ["latest", "canary"],
        "file": ["evaluation.html", "curve.svg"],
    }


def put_back(client: httpx.Client, models: Path, stop: threading.Event) -> None:
    """Restore examples that were removed or unloaded, every second."""
    while not stop.wait(1.0):
        for path in EXAMPLES.glob("*.onnx"):
            if not (models / path.name).exists():
                shutil.copy(path, models / path.name)
            with suppress(httpx.HTTPError):
                client.post(f"/v2/repository/models/{path.stem}/load")


@click.command()
@click.option("--examples", default=50, show_default=True, help="Requests for each route.")
@click.option("--workers", default=1, show_default=True, help="Processes of the server.")
def main(examples: int, workers: int) -> None:
    """Run schemathesis against a new server."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        shutil.copytree(EXAMPLES, models)
        shutil.copy(EXAMPLES / "digits.onnx", models / "untouched.onnx")
        add_signing_key(Path(folder) / "keys")
        flags = ["--workers", workers, "--max-queued", 1000, "--uploads", "--signing-keys", f"{folder}/keys"]
        with Lipserve(models, *flags) as server, httpx.Client(base_url=server.url, timeout=90) as client:
            server.wait_ready()
            document = strict(client.get("/openapi.json").json(), existing(client))
            file = Path(folder) / "openapi.json"
            file.write_text(json.dumps(document))
            run = [sys.executable, "-m", "schemathesis.cli", "run", str(file), "--url", server.url]
            run += ["--checks", CHECKS, "--max-examples", str(examples), "--continue-on-failure"]
            run += ["--phases", "examples,coverage,fuzzing", "--request-timeout", "60"]
            stop = threading.Event()
            putting = threading.Thread(target=put_back, args=[client, models, stop])
            putting.start()
            try:
                status = subprocess.run(run, check=False, cwd=folder).returncode
            finally:
                stop.set()
                putting.join()
        sys.exit(status)


if __name__ == "__main__":
    main()
