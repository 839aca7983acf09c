import os
import signal

import numpy as np

from lipmodel.audit.findings import AuditReport
from lipmodel.audit.report import audit
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.norms import Norm
from tests.service.conftest import eventually, queued, running, stopped_worker, two_moons

AUDITS = "/v1/models/two-moons/audits"


def test_the_report_is_that_of_the_library(client):
    inputs = np.random.default_rng(0).normal(size=(20, 2))
    box = {"low": -1, "high": 1}
    body = {"inputs": inputs.tolist(), "box": box, "norm": "inf", "samples": 50, "seed": 3}
    answer = client.post(AUDITS, json=body, headers={"Prefer": "wait=60"})
    assert answer.status_code == 200
    predictor = CertifiedPredictor(two_moons())
    expected = audit(predictor, norm=Norm.INF, inputs=inputs, box=(-1.0, 1.0), samples=50, seed=3)
    assert answer.json() == expected.to_dict()


def test_nothing_need_be_given(client):
    report = client.post(AUDITS, json={"samples": 100}, headers={"Prefer": "wait=60"}).json()
    assert report["verdict"] == "consistent"
    assert report["norm"] == "2"
    assert 0 < report["observed"] <= report["bound"]
    assert report.keys() >= AuditReport.__dataclass_fields__.keys()


def test_predictions_are_answered_while_an_audit_runs(models, tmp_path):
    with running(models, state=tmp_path / "state") as client:
        audit_url = queued(client, AUDITS)
        stopped = stopped_worker(tmp_path / "state")
        assert client.post("/v1/models/two-moons/predict", json={"inputs": [[1, 2]]}).status_code == 200
        assert client.get(audit_url).json()["state"] == "running"
        os.kill(stopped, signal.SIGCONT)
        assert eventually(lambda: client.get(audit_url).json()["result"])["verdict"] == "consistent"
