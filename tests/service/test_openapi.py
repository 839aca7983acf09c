"""The description of the API is whole, and what it shows can be done."""

import json
from typing import Annotated

import pytest
from pydantic import Field, TypeAdapter

from service.api.schemas.evaluations import AccuracyFigures, Curve, EvaluationResult
from service.problems import ProblemKind
from tests.service.conftest import two_moons


def operations(document):
    return [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def references(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_every_reference_leads_somewhere(client):
    document = client.get("/openapi.json").json()
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    unknown = set(references(document)) - known
    assert not unknown, f"no request body or response declares: {unknown}"


def test_every_problem_is_documented_as_one(client):
    document = client.get("/openapi.json").json()
    for path, _, operation in operations(document):
        for status, response in operation["responses"].items():
            if not status.startswith("2"):
                assert list(response["content"]) == ["application/problem+json"], (path, status)
        assert operation["summary"]
    predict = document["paths"]["/v1/models/{name}/predict"]["post"]["responses"]
    assert predict.keys() == {"200", "400", "404", "409", "413", "415", "422", "501", "default"}


def test_documented_examples_work(serve):
    client = serve({"two-moons": two_moons()}, uploads=True)
    document = client.get("/openapi.json").json()
    done = 0
    for path, method, operation in operations(document):
        if "requestBody" in operation:
            named = {
                p["name"]: p["examples"]["demo"]["value"]
                for p in operation.get("parameters", ())
                if p["in"] == "path"
            }
            url = path.format(**named)
            content = operation["requestBody"]["content"].get("application/json", {"examples": {}})
            for example in content["examples"].values():
                answer = client.request(method, url, json=example["value"])
                assert answer.status_code == 200, answer.text
                done += 1
            if path.endswith("/unload"):
                assert client.post(path.format(**named).replace("/unload", "/load")).status_code == 200
    assert done == 23


@pytest.mark.parametrize("schema", [AccuracyFigures, Curve, EvaluationResult])
def test_documented_figures_are_of_their_type(schema):
    for name, field in schema.model_fields.items():
        for example in field.examples or []:
            json_example = json.dumps(example)
            TypeAdapter(Annotated[field.annotation, Field(strict=True)]).validate_json(json_example)
        assert field.examples or name in {
            "sha256",
            "norm",
            "execution",
            "tightened",
            "curve",
            "per_class",
            "attacked_sample",
        }


def test_the_docs_are_there(client):
    answer = client.get("/docs")
    assert answer.status_code == 200
    assert "/web/docs.js" in answer.text
    assert "/openapi.json" in client.get("/web/docs.js").text


@pytest.mark.parametrize("kind", ProblemKind)
def test_the_type_of_a_problem_leads_to_what_it_means(client, kind):
    answer = client.get(kind.uri)
    assert answer.status_code == 200
    assert kind.advice in answer.text


def test_no_other_type_of_problem_is_known(client):
    assert client.get("/problems/nope").status_code == 404


def test_health(client):
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json().items() >= {"status": "ready", "served": 2, "refused": 0}.items()
