"""A generator makes a client of the OpenAPI document, and that client talks to the service."""

import json
import subprocess
import sys

import pytest

from tests.service.conftest import running

pytest.importorskip("openapi_python_client", reason="pip install openapi-python-client")

USE = """
import sys
from generated import Client
from generated.api.models import list_models_v1_models_get as listing
from generated.api.predict import predict_v1_models_name_predict_post as predict
from generated.models import PredictRequest, PredictResponse, ProblemBody, RefusedModel, ServedSummary

client = Client(base_url=sys.argv[1])
answer = predict.sync("two-moons", client=client, body=PredictRequest(inputs=[[0.5, 0.25]], epsilon=0.1))
assert isinstance(answer, PredictResponse), answer
assert answer.predictions[0].certified_radius == float(sys.argv[2])
refused = predict.sync("two-moons", client=client, body=PredictRequest(inputs=[[0.5]]))
assert isinstance(refused, ProblemBody), refused
assert refused.errors[0].field == "inputs[0]"
kinds = [type(model) for model in listing.sync(client=client).models]
assert kinds == [RefusedModel, ServedSummary], kinds
"""


def test_a_generated_client_predicts(models, tmp_path):
    (models / "bad.onnx").write_bytes(b"x")
    with running(models) as client:
        (tmp_path / "openapi.json").write_text(json.dumps(client.get("/openapi.json").json()))
        command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", "openapi.json"]
        command += ["--output-path", "generated", "--meta", "none"]
        made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert made.returncode == 0, made.stdout + made.stderr
        assert "WARNING" not in made.stdout.upper()
        answer = client.post("/v1/models/two-moons/predict", json={"inputs": [[0.5, 0.25]]}).json()
        radius = repr(answer["predictions"][0]["certified_radius"])
        (tmp_path / "use.py").write_text(USE)
        used = subprocess.run(
            [sys.executable, "use.py", str(client.base_url), radius],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert used.returncode == 0, used.stderr
